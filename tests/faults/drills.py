"""
Drills: one bad day each, with what must hold during it. `python -m tests.faults.drills [NAME …]` runs them, and
`make faults` runs them all; the quick ones are tests, too, with fewer players.

Each drill builds a rig of its own, asserts what it promises and answers one line with its figures.

Not here: random schedules (run.py), guards taken out (negative_controls.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from gateway.sessions.tokens import make_token
from loadtest.audit import KINDS as KINDS_OF_FINDINGS
from loadtest.audit import AuditReport, audit
from loadtest.experience import WYLDING_WOODS
from loadtest.history import PlayerHistory, Step, now_ms
from persistence.erase import erase_player
from persistence.flusher.flusher import STEPS, FlushBounds
from persistence.progress_key import ProgressKey
from protocol.client.player_client import PlayerClient
from protocol.closes import CloseCode
from tests.faults.disk_full import disk_full
from tests.faults.fault import Scene, database, valkey
from tests.faults.hot_faults import StaleReplicaPromoted, ValkeyEmptied
from tests.faults.lost_together import redis_and_device_lost
from tests.faults.players import Crowd, PlayerProcesses
from tests.faults.rig import Rig, RigPlan, run_rig
from tests.waiting import wait_until

EXPERIENCE = WYLDING_WOODS.experience_id
DAY_MS = 86_400_000


# ── Redis forgets ───────────────────────────────────────────────────────────────────────────────────────────────────


async def valkey_emptied(players: int = 200, seconds: float = 20.0) -> str:
    """Valkey comes back without its data under playing clients: all go on by themselves, each is read once."""
    return await _hot_store_forgets(ValkeyEmptied, players, seconds)


async def replica_promoted(players: int = 200, seconds: float = 20.0) -> str:
    """A replica that was cut off 1.5 s ago takes the address."""
    return await _hot_store_forgets(StaleReplicaPromoted, players, seconds)


async def _hot_store_forgets(
    kind: type[ValkeyEmptied] | type[StaleReplicaPromoted], players: int, seconds: float
) -> str:
    crowd = Crowd(players, 2.0, seconds, ramp_s=3.0, drop_rate=0.0, offline_rate=0.0)
    async with run_rig() as rig:
        crowd_processes = PlayerProcesses(rig, crowd, 1)
        await crowd_processes.start()
        await asyncio.sleep(seconds / 4)
        hydrates_before = await count_published(rig, "wayhold_hydrates_total")
        fault = kind(Scene(rig, random.Random(1), crowd_processes))
        await fault.inject()
        await fault.heal()
        healed_ms = now_ms()
        unsettled = await crowd_processes.wait_settled()
        hydrates = await count_published(rig, "wayhold_hydrates_total") - hydrates_before
        await crowd_processes.leave()
        histories = crowd_processes.histories()
        report = await audit(histories, rig.database_url)
        resets = await count_published(rig, "wayhold_stream_resets_total")
    waited_ms = [_first_ack_after(history, healed_ms) - healed_ms for history in histories]
    line = (
        f"{players} players, all playing again after {max(waited_ms) / 1000:.2f} s, {hydrates:.0f} hydrates, "
        f"{_found(report)}"
    )
    assert not unsettled, f"{unsettled} players did not come to rest; {line}"
    assert report.is_ok, "\n".join(report.lines())
    assert max(waited_ms) < 5_000, line
    assert hydrates <= players, line
    assert not resets, f"{resets} streams were reset; {line}"
    return line


def _first_ack_after(history: PlayerHistory, at_ms: float) -> float:
    acks = [step.accepted_ms for step in history.steps if step.accepted_ms is not None and step.accepted_ms > at_ms]
    assert acks, f"player {history.user_id} was never answered again"
    return min(acks)


# ── Postgres is away, slow, full of poison ──────────────────────────────────────────────────────────────────────────


async def postgres_down(players: int = 400, rate: float = 5.0, down_s: float = 60.0) -> str:
    """Postgres is stopped under load: nobody who plays sees an error, and the backlog drains faster than it grew."""
    crowd = Crowd(players, rate, 8 + down_s + down_s / 2, ramp_s=4.0, drop_rate=0.0, offline_rate=0.0, settle_s=120)
    async with run_rig(RigPlan(flush_interval_s=1.0)) as rig:
        crowd_processes = PlayerProcesses(rig, crowd, 2)
        await crowd_processes.start()
        await asyncio.sleep(6)
        await rig.stop_server("postgres", signal.SIGINT)
        stopped_ms = now_ms()
        await asyncio.sleep(down_s)
        await rig.start_server("postgres")
        back_ms = now_ms()
        unsettled = await crowd_processes.wait_settled()
        await crowd_processes.leave()
        histories = crowd_processes.histories()
        report = await audit(histories, rig.database_url)
        discards = await count_published(rig, "wayhold_discards_total")
        largest = await largest_flush(rig)
    steps = [step for history in histories for step in history.steps]
    backlog = [step for step in steps if step.made_ms < back_ms and (step.saved_ms or 0) > back_ms]
    drained_s = (max(step.saved_ms or 0 for step in backlog) - back_ms) / 1000
    errors = sum(sum(history.errors.values()) for history in histories)
    # 1000 is the farewell of those who left at the end.
    closes = sum(count for history in histories for code, count in history.closes.items() if code != 1000)
    made_s = sum(stopped_ms < step.made_ms < back_ms for step in steps) / down_s
    late = sorted((step.accepted_ms or 1e18) - step.made_ms for step in steps if stopped_ms < step.made_ms < back_ms)
    line = (
        f"{made_s:.0f} updates/s for {down_s:g} s without Postgres: {errors} errors, {closes} closes, "
        f"ack p99 {late[int(len(late) * 0.99)]:.0f} ms, backlog of {len(backlog)} drained in {drained_s:.1f} s, "
        f"largest flush ≤ {largest} updates, discards {discards:.0f}, {_found(report)}"
    )
    assert not unsettled, f"{unsettled} players did not come to rest; {line}"
    assert report.is_ok, "\n".join(report.lines())
    assert not errors and not closes, line
    assert drained_s < down_s, line
    assert not discards, line
    assert largest <= FlushBounds().entries_max, line
    return line


async def postgres_slow(players: int = 60, seconds: float = 25.0, latency_s: float = 0.04) -> str:
    """Postgres takes 20 times as long and three flushers fall over each other: no healthy copy is thrown away."""
    crowd = Crowd(players, 4.0, seconds, drop_rate=0.0, offline_rate=0.0)
    async with run_rig(RigPlan(flushers=3)) as rig:
        crowd_processes = PlayerProcesses(rig, crowd, 3)
        await crowd_processes.start()
        await asyncio.sleep(3)
        quick_s = await mean_flush_s(rig)
        for link in rig.links_between("flusher", "postgres"):
            link.latency_s = latency_s
        await asyncio.sleep(max(1.0, crowd_processes.left_s))
        slow_s = await mean_flush_s(rig)
        rig.heal_links()
        unsettled = await crowd_processes.wait_settled()
        await crowd_processes.leave()
        report = await audit(crowd_processes.histories(), rig.database_url)
        discards = await count_published(rig, "wayhold_discards_total")
    line = (
        f"a flush took {slow_s * 1000:.0f} ms on average instead of {quick_s * 1000:.0f} ms with three flushers: "
        f"discards {discards:.0f}, {_found(report)}"
    )
    assert not unsettled, f"{unsettled} players did not come to rest; {line}"
    assert report.is_ok, "\n".join(report.lines())
    assert not discards, line
    return line


async def poison(players: int = 50, updates: int = 20) -> str:
    """One event among a thousand that Postgres refuses, then one state: nobody else waits for them."""
    interval_s = 0.5
    async with run_rig(RigPlan(gateways=1, flushers=1, flush_interval_s=interval_s)) as rig:
        async with database(rig) as connection:
            await connection.execute(
                "ALTER TABLE player_progress_events ADD CONSTRAINT drill CHECK (content_id <> 'poison') NOT VALID"
            )
        clients = [PlayerClient(rig.play_url, _token(rig, str(uuid.uuid4())), EXPERIENCE) for _ in range(players)]
        try:
            for client in clients:
                await client.start()
            await asyncio.gather(*(client.wait_connected(10) for client in clients))

            async def play(poisonous: bool) -> float:
                began = time.monotonic()
                for number in range(updates):
                    for client in clients:
                        is_poison = poisonous and client is clients[0] and number == updates // 2
                        await client.event("item_collected", "poison" if is_poison else f"item-{number}")
                await asyncio.gather(*(client.wait_saved(client.made, 20) for client in clients))
                return time.monotonic() - began

            healthy_s, poisoned_s = await play(False), await play(True)
            async with database(rig) as connection:
                letters = await connection.fetchval("SELECT count(*) FROM dead_letters")
                rows = await connection.fetchval("SELECT count(*) FROM player_progress_events")
                await connection.execute(
                    "ALTER TABLE experience_progress"
                    " ADD CONSTRAINT drill CHECK (current_location <> 'poison') NOT VALID"
                )
            await clients[0].update(None, [{"op": "set", "path": "current_location", "value": "poison"}])
            others = [await client.event("item_collected", "after") for client in clients[1:]]
            await asyncio.gather(*(client.wait_saved(seq, 10) for client, seq in zip(clients[1:], others, strict=True)))

            async def is_aside() -> bool:
                return bool(await rig.hot.list_quarantined())

            await wait_until("the poisoned progress is put aside", is_aside, 10)
            quarantined = await rig.hot.list_quarantined()
            # Mended and released, it goes on where it was.
            async with database(rig) as connection:
                await connection.execute("ALTER TABLE experience_progress DROP CONSTRAINT drill")
            await rig.hot.release_quarantine(quarantined[0][0])
            await clients[0].wait_saved(clients[0].made, 10)
        finally:
            await asyncio.gather(*(client.stop() for client in clients))
    total = 2 * players * updates
    line = (
        f"{players * updates} updates with a poison event saved in {poisoned_s:.2f} s, without in {healthy_s:.2f} s; "
        f"{letters} dead letter, {rows} of {total} rows, {len(quarantined)} progress put aside by a poison state"
    )
    assert letters == 1 and rows == total - 1, line
    assert poisoned_s - healthy_s < interval_s + 0.25, line
    assert len(quarantined) == 1, line
    return line


async def valkey_full(players: int = 40) -> str:
    """Redis has no memory left while Postgres is down; Postgres comes back and nobody else helps."""
    crowd = Crowd(players, 10.0, 20.0, drop_rate=0.0, offline_rate=0.0, settle_s=60)
    async with run_rig() as rig:
        crowd_processes = PlayerProcesses(rig, crowd, 3)
        await crowd_processes.start()
        await rig.stop_server("postgres", signal.SIGINT)
        async with valkey(rig) as client:
            used = (await client.info("memory"))["used_memory"]
            await client.config_set("maxmemory", used + 400_000)

            async def is_full() -> bool:
                return crowd_processes.sum("errors") > players

            await wait_until("Redis is full and says so", is_full, 20)
            await asyncio.sleep(1)
            await rig.start_server("postgres")
            back_ms = now_ms()
            unsettled = await crowd_processes.wait_settled()
            rejected = (await client.info("stats")).get("total_error_replies", 0)
        await crowd_processes.leave()
        histories = crowd_processes.histories()
        report = await audit(histories, rig.database_url)
    steps = [step for history in histories for step in history.steps]
    resumed_ms = min(step.accepted_ms for step in steps if (step.accepted_ms or 0) > back_ms) - back_ms  # type: ignore[type-var]
    errors: dict[int, int] = {}
    for history in histories:
        for code, count in history.errors.items():
            errors[code] = errors.get(code, 0) + count
    line = (
        f"full and drained by itself: acks again {resumed_ms / 1000:.2f} s after Postgres, "
        f"errors told {errors}, {rejected} refusals by Redis, {_found(report)}"
    )
    assert not unsettled, f"{unsettled} players did not come to rest; {line}"
    assert report.is_ok, "\n".join(report.lines())
    assert set(errors) <= {202}, line
    return line


# ── a player comes back after days ──────────────────────────────────────────────────────────────────────────────────


async def offline_for_days(updates: int = 2_000, unsynced: int = 7) -> str:
    """
    A phone was three days without a network: its journal holds many updates, its app is killed twice while it uploads,
    and before that its power was cut, which took what was not synced.
    """
    async with run_rig(RigPlan(settings={"updates_per_s": 500.0, "updates_burst": 300})) as rig:
        user_id = str(uuid.uuid4())
        journal = rig.folder / "players" / "phone.journal"
        first_at_ms = int(now_ms()) - 3 * DAY_MS
        order = {
            "url": rig.play_url,
            "token": _token(rig, user_id),
            "user_id": user_id,
            "experience": EXPERIENCE,
            "journal": str(journal),
            "updates": updates,
            "unsynced": unsynced,
            "first_at_ms": first_at_ms,
            "step_ms": 3 * DAY_MS // (updates + unsynced),
        }
        said = await _phone("make", order)
        with journal.open("r+b") as file:  # the power cut: the disk has what was synced and nothing else
            file.truncate(said["synced_bytes"])
        began = time.monotonic()
        for part in (updates // 3, 2 * updates // 3):
            await _phone("upload", order | {"until": part})
        said = await _phone("upload", order | {"until": None})
        took_s = time.monotonic() - began
        history = PlayerHistory(user_id, EXPERIENCE, offered=updates)
        for seq in range(1, updates + 1):
            event = phone_event(order, seq)
            step = Step(said["device"], seq, event, phone_effects(), made_ms=float(event["at"]))
            history.add_made(step)
        history.note_accepted(said["device"], updates, now_ms())
        history.note_saved(said["device"], updates, now_ms())
        report = await audit([history], rig.database_url, timestamp_tolerance_s=5.0)
    line = f"{updates} updates of three days, app killed twice, uploaded in {took_s:.1f} s, {_found(report)}"
    assert report.is_ok and report.saved == updates, "\n".join(report.lines())
    return line


def phone_event(order: dict[str, Any], seq: int) -> dict[str, Any]:
    return {
        "type": "item_collected",
        "content_id": f"item-{seq % 50}",
        "at": order["first_at_ms"] + seq * order["step_ms"],
    }


def phone_effects() -> list[dict[str, Any]]:
    return [{"op": "incr", "path": "records.steps", "value": 1}]


async def _phone(what: str, order: dict[str, Any]) -> dict[str, Any]:
    """Run the app until it has said something, then SIGKILL it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.run_phone", what), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(60):
            said: dict[str, Any] = json.loads(await process.stdout.readline())
        return said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


# ── erase ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TABLES = {
    "users": "id = $1",
    "player_profiles": "user_id = $1",
    "experience_progress": "player_id IN (SELECT id FROM player_profiles WHERE user_id = $1)",
    "player_sessions": "user_id = $1",
}


async def erase_everywhere(steps: tuple[str, ...] = STEPS) -> str:
    """
    A player is erased while a flusher stands still right after a step, a gateway that holds its socket is frozen, and
    its phone keeps coming back: nothing of it is left, nothing returns.
    """
    slowest_s = 0.0
    async with run_rig(RigPlan(gateways=2, flushers=1)) as rig:
        for step in steps:
            slowest_s = max(slowest_s, await _erase_at(rig, step))
        async with database(rig) as connection:
            orphans = await connection.fetchval("SELECT count(*) FROM player_progress_events")
            orphans += await connection.fetchval("SELECT count(*) FROM device_streams")
            orphans += await connection.fetchval("SELECT count(*) FROM dead_letters")
        assert orphans == 0, f"{orphans} rows are left of players that are gone"
    return f"erased after each of {len(steps)} steps, a gateway frozen, slowest {slowest_s:.1f} s: 0 rows, 0 keys, 4204"


async def _erase_at(rig: Rig, step: str) -> float:
    user_id = str(uuid.uuid4())
    client = PlayerClient(rig.play_url, _token(rig, user_id, iat=int(time.time()) - 60), EXPERIENCE)
    key = ProgressKey(user_id, EXPERIENCE)
    await client.start()
    try:
        await client.event("item_collected", "lamp")
        await client.wait_saved(1, 10)
        order = rig.orders / step
        order.write_bytes(b"stop")
        for number in range(5):
            await client.event("item_collected", f"item-{number}")
        flusher = rig.pid("flusher-1")

        async def is_standing() -> bool:
            return _state_of(flusher) == "T"

        await wait_until(f"the flusher stands still after {step}", is_standing, 15)
        session = await rig.hot.find_session(user_id)
        assert session is not None
        holder = next(name for name in rig.names("gateway") if f"-{name}-" in session.node)
        rig.freeze(holder)
        began = time.monotonic()
        erasing = asyncio.create_task(erase_player(rig.hot, rig.database_url, user_id))
        # Where the flusher holds the rows the erase waits for it, elsewhere it is done before the flusher goes on.
        await asyncio.wait({erasing}, timeout=1.0)
        os.kill(flusher, signal.SIGCONT)
        await erasing
        took_s = time.monotonic() - began
        rig.unfreeze(holder)
        client.drop_connection()

        async def is_sent_away() -> bool:
            return client.stop_code == CloseCode.PLAYER_DELETED

        await wait_until(f"the phone is told to stay away (after {step})", is_sent_away, 20)
        await rig.wait_nothing_pending(20)
        async with database(rig) as connection:
            for table, condition in TABLES.items():
                left = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE {condition}", user_id)
                assert left == 0, f"{left} rows in {table} after an erase at {step}"
        async with valkey(rig) as redis:
            keys = [found.decode() async for found in redis.scan_iter(f"*{user_id}*", count=10_000)]
        left_keys = [found for found in keys if not found.endswith(":fence")]
        assert left_keys == [], f"{left_keys} after an erase at {step}"
        assert await rig.hot.find_progress(key) is None
        return took_s
    finally:
        await client.stop()


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# ── figures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def count_published(rig: Rig, metric: str) -> float:
    """A counter once everybody has published theirs, which they do each second."""
    await asyncio.sleep(1.2)
    return rig.count(metric)


async def mean_flush_s(rig: Rig) -> float:
    total, count = (
        await count_published(rig, "wayhold_flush_duration_seconds_sum"),
        rig.count("wayhold_flush_duration_seconds_count"),
    )
    return total / count if count else 0.0


async def largest_flush(rig: Rig) -> float:
    """The upper bound of the highest histogram bucket that a flush fell into."""
    await asyncio.sleep(1.2)
    return rig.highest_bucket("wayhold_flush_batch_updates")


def _token(rig: Rig, user_id: str, **claims: Any) -> str:
    return make_token(rig.secret.encode(), user_id, 3600, **claims)


def _found(report: AuditReport) -> str:
    return " ".join(f"{kind}={getattr(report, kind)}" for kind in KINDS_OF_FINDINGS)


DRILLS: dict[str, Callable[[], Awaitable[str]]] = {
    "valkey_emptied": valkey_emptied,
    "replica_promoted": replica_promoted,
    "postgres_down": postgres_down,
    "postgres_slow": postgres_slow,
    "offline_for_days": offline_for_days,
    "erase_everywhere": erase_everywhere,
    "poison": poison,
    "valkey_full": valkey_full,
    "disk_full": disk_full,
    "redis_and_device_lost": redis_and_device_lost,
}


async def run_drills(names: list[str], say: Callable[[str], None]) -> dict[str, str | None]:
    """Run them one after the other; answers what each found, None for those that failed."""
    results: dict[str, str | None] = {}
    for name in names:
        began = time.monotonic()
        try:
            async with asyncio.timeout(600):
                results[name] = await DRILLS[name]()
            say(f"drill {name}: ok in {time.monotonic() - began:.0f} s: {results[name]}")
        except (AssertionError, TimeoutError, LookupError) as failed:
            results[name] = None
            say(f"drill {name}: FAILED after {time.monotonic() - began:.0f} s: {failed or type(failed).__name__}")
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.drills", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DRILLS))
    args = parser.parse_args()
    unknown = set(args.names) - set(DRILLS)
    if unknown:
        parser.error(f"no such drill: {', '.join(sorted(unknown))}")
    results = uvloop.run(run_drills(args.names or list(DRILLS), lambda line: print(line, flush=True)))
    return 0 if all(result is not None for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
