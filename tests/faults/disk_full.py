"""
The drill of a Postgres without room: the events lie in a tablespace on a small file system of its own, which fills up
under load and is made larger later.

`python -m tests.faults.disk_full` runs inside a mount namespace of its own (`unshare --mount`), so that the small file
system is gone with the last of these processes. That needs the right to mount; without it the drill is skipped, and
says so: a disk cannot be filled for one server without filling it for everybody else.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop

from loadtest.audit import audit
from loadtest.history import now_ms
from tests.faults.fault import database
from tests.faults.players import Crowd, PlayerProcesses
from tests.faults.rig import Rig, RigPlan, run_rig
from tests.waiting import wait_until

SMALL_MB, LARGE_MB = 1, 256
NAMESPACE = ("unshare", "--mount", "--propagation", "private")
SKIPPED = "skipped: mounting a small file system is not allowed here"


async def disk_full() -> str:
    """Events find no room for a while: nobody is dead-lettered, nothing is lost, it drains when there is room."""
    if shutil.which("unshare") is None:
        return SKIPPED
    # The folder under the mount is removed from out here, where nothing is mounted on it.
    with tempfile.TemporaryDirectory(prefix="wh-small-", dir="/tmp") as mount:
        process = await asyncio.create_subprocess_exec(
            *(*NAMESPACE, sys.executable, "-m", "tests.faults.disk_full", mount),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(180):
            out, err = await process.communicate()
    if process.returncode != 0 and (b"Operation not permitted" in err or b"ermission denied" in err):
        return SKIPPED
    assert process.returncode == 0, (out + err).decode(errors="replace")[-2000:]
    return out.decode().strip().splitlines()[-1]


async def fill_the_disk(mount: Path) -> str:
    crowd = Crowd(players=60, rate_per_s=10.0, seconds=20.0, drop_rate=0.0, offline_rate=0.0, settle_s=60)
    async with run_rig(RigPlan(flushers=1)) as rig:
        await _use_small_tablespace(rig, mount)
        players = PlayerProcesses(rig, crowd, 4)
        await players.start()

        async def is_full() -> bool:
            return "No space left on device" in rig.read_log("postgres")

        await wait_until("the disk is full", is_full, 30)
        full_ms = now_ms()
        await asyncio.sleep(3)
        _run("mount", "-o", f"remount,size={LARGE_MB}m", str(mount))
        room_ms = now_ms()
        unsettled = await players.wait_settled()
        await players.leave()
        histories = players.histories()
        report = await audit(histories, rig.database_url)
        errors = sum(sum(history.errors.values()) for history in histories)
        async with database(rig) as connection:
            letters = await connection.fetchval("SELECT count(*) FROM dead_letters")
    steps = [step for history in histories for step in history.steps]
    saved_ms = min(step.saved_ms for step in steps if step.saved_ms is not None and step.saved_ms > room_ms)
    line = (
        f"no room for {(room_ms - full_ms) / 1000:.1f} s: {errors} errors, {letters} dead letters, saved again "
        f"{(saved_ms - room_ms) / 1000:.2f} s after there was; lost={report.lost} duplicated={report.duplicated} "
        f"reordered={report.reordered} state_mismatches={report.state_mismatches}"
    )
    assert not unsettled and report.is_ok, "\n".join([line, *report.lines()])
    assert not letters and not errors, line
    return line


async def _use_small_tablespace(rig: Rig, mount: Path) -> None:
    """Put all partitions of the events into a tablespace that is full soon."""
    _run("mount", "-t", "tmpfs", "-o", f"size={SMALL_MB}m,mode=777", "none", str(mount))
    inside = mount / "tablespace"
    inside.mkdir()
    owner = (rig.folder / "postgres").stat()
    shutil.chown(inside, owner.st_uid, owner.st_gid)
    inside.chmod(0o700)
    async with database(rig) as connection:
        await connection.execute(f"CREATE TABLESPACE small LOCATION '{inside}'")
        for row in await connection.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
            " WHERE inhparent = 'player_progress_events'::regclass"
        ):
            await connection.execute(f"ALTER TABLE {row['name']} SET TABLESPACE small")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")


if __name__ == "__main__":
    print(uvloop.run(fill_the_disk(Path(sys.argv[1]))), flush=True)
