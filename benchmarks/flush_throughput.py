"""
How fast one flusher saves, and what it costs: `python -m benchmarks.flush_throughput [--json FILE]`.

Two workloads, each on real servers in a temporary folder (Valkey with its append-only file, Postgres with real syncs),
with everything on that a flush does: log match, foreign keys, checks, totals, rollups.

    events   walk-step: many events per progress and flush, states of about 1 KB
    states   one update per progress and flush, states of about 3 KB: what counts is the state's row

What players did is put into Redis through the product's own script, outside the measured time; measured is
`Flusher.flush_due` until nothing is left, from claim to settle. CPU is the kernel's own account of this process,
of Redis and of Postgres with all its processes. It does not show: a network between the three, a disk that is slow to
sync, tables that no longer fit into memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from gateway.app.run_flusher import collect_rarely
from persistence.cold.migrate import migrate
from persistence.cold.store import ColdStore
from persistence.embedded.child import start_all_and_wait, stop_all_and_wait
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.postgres import DATABASE, EmbeddedPostgres
from persistence.embedded.valkey import EmbeddedValkey
from persistence.flusher.flusher import FlushBounds, Flusher
from persistence.hot.shapes import HotUpdate, OpenSession, Outcome, SessionEntry, UpdateGroup
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey
from protocol.effects import compile_update
from protocol.entry import EntryIds, SessionBody, encode_session_body, encode_update_body

EXPERIENCE = "bench-flush"
DEVICE = "bench"
CONTENTS = 200
STEP_MS = 20_000
WIDTH = 40
START_DEADLINE_S = 90.0
# All that was played is due within a flush interval; what another lane has claimed lies further ahead.
AHEAD_S = 6.0


@dataclass
class Player:
    """One connection to the hot store, with nothing in between, and what it will do next."""

    key: ProgressKey
    session_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    connection: int = 0
    copy: str = ""
    seq: int = 0
    at_ms: int = 0


@dataclass(frozen=True)
class Workload:
    """`entries` updates of each of `players` make a round."""

    name: str
    players: int
    entries: int
    state_members: int


WORKLOADS = (Workload("events", 500, 20, 31), Workload("states", 2000, 1, 95))


class Bench:
    def __init__(self, hot: HotStore, cold: ColdStore, postgres: Any) -> None:
        self.hot, self.cold, self.postgres = hot, cold, postgres
        self.ids = EntryIds()
        self.players: list[Player] = []

    async def let_in(self, workload: Workload) -> None:
        """Players with sessions and a state of the workload's size; what that made is flushed by the caller."""
        now_ms = int(time.time() * 1000)
        self.players = [
            Player(ProgressKey(str(uuid.uuid4()), EXPERIENCE), at_ms=now_ms - 86_400_000 + 37 * index)
            for index in range(workload.players)
        ]
        await self._for_all(self._open)
        for first in range(0, workload.state_members, 16):
            numbers = range(first, min(first + 16, workload.state_members))
            effects = [
                {"op": "add", "path": _set_of(n), "value": f"{n:02d}_inter_el_paseo_mural_{n * 7}"} for n in numbers
            ]
            await self.play(1, effects=effects, event=False)

    async def play(self, entries: int, *, effects: list[dict[str, Any]] | None = None, event: bool = True) -> None:
        """Every player does `entries` updates: a waypoint and two effects, or the effects that are given."""
        for first in range(0, len(self.players), max(1, 120 // entries)):
            some = self.players[first : first + max(1, 120 // entries)]
            groups = [self._group(p, [self._update(p, effects, event) for _ in range(entries)]) for p in some]
            verdicts = await self.hot.apply_updates(groups)
            assert all(v.outcome is Outcome.OK for v in verdicts), verdicts

    def _update(self, p: Player, effects: list[dict[str, Any]] | None, with_event: bool) -> HotUpdate:
        p.seq += 1
        p.at_ms += STEP_MS
        place = (p.seq * 7 + hash(p.session_id)) % CONTENTS
        event = None
        if with_event:
            data = {"distance_traveled": 31.5, "time_spent": 45}
            event = {"type": "waypoint_visited", "content_id": f"{place}_inter_gravity_car", "data": data}
        made = compile_update(event, effects or _step_effects(p.seq))
        body = encode_update_body(
            DEVICE,
            p.seq,
            p.at_ms,
            p.at_ms,
            p.session_id,
            made.event_type or "update",
            made.content_id,
            made.data_json if made.event else made.effects_json,
            made.effects_json if made.event else b"",
            37.905696 if with_event else None,
            -122.547701 if with_event else None,
        )
        # The place in `visited_waypoints` stays out of the state, which is to keep its size.
        ops = [op for op in made.ops if op[0] != "add"] if effects is None else list(made.ops)
        return HotUpdate(p.seq, self.ids.next(), body, ops)

    def _group(self, p: Player, updates: list[HotUpdate]) -> UpdateGroup:
        header = self.hot.make_header(p.key, p.session_id, p.connection, p.copy, DEVICE)
        return UpdateGroup(header, updates[0].seq - 1, updates)

    async def _open(self, p: Player) -> None:
        started_ms = await self.hot.time_ms()
        await self.hot.install(await self.cold.open_progress(p.key, DEVICE), started_ms)
        body = SessionBody(p.session_id, p.key.user_id, EXPERIENCE, DEVICE, started_ms, 0, "")
        opened = await self.hot.open_session(
            OpenSession(
                key=p.key,
                device=DEVICE,
                node="bench",
                session_id=p.session_id,
                started_ms=started_ms,
                claims="{}",
                connection_min=0,
                seen=None,
                start_entry=SessionEntry(self.ids.next(), encode_session_body(body)),
                end_entry=None,
            )
        )
        assert opened.outcome is Outcome.OK and opened.progress is not None
        p.connection, p.copy = opened.connection, opened.progress.copy

    async def _for_all(self, do: Any) -> None:
        for first in range(0, len(self.players), WIDTH // 4):
            await asyncio.gather(*[do(p) for p in self.players[first : first + WIDTH // 4]])


def _set_of(number: int) -> str:
    return ("visited_waypoints", "inventory", "unlocked_areas")[number % 3]


def _step_effects(seq: int) -> list[dict[str, Any]]:
    return [
        {"op": "incr", "path": "collectibles.steps", "value": 10 + seq % 90},
        {"op": "set", "path": "pose", "value": seq % 100},
    ]


async def measure(workload: Workload, rounds: int, servers: Servers) -> dict[str, Any]:
    """One workload on running servers; medians over the rounds, the first one not counted."""
    hot = await HotStore.open(servers.redis_url, flush_interval_s=5.0)
    cold = await ColdStore.open(servers.database_url, pool_max=WIDTH // 4)
    postgres = await asyncpg.connect(servers.database_url)
    flusher = Flusher(hot, servers.database_url, bounds=FlushBounds(), lanes=2)
    bench = Bench(hot, cold, postgres)
    found: list[dict[str, float]] = []
    try:
        await bench.let_in(workload)
        while await flusher.flush_due(ahead_s=AHEAD_S):
            pass
        collect_rarely()
        for number in range(rounds + 1):
            await bench.play(workload.entries)
            rows = await postgres.fetchval("SELECT count(*) FROM player_progress_events")
            wal = await postgres.fetchval("SELECT pg_current_wal_insert_lsn()")
            cpu = servers.read_cpu_s()
            started = time.perf_counter()
            while await flusher.flush_due(ahead_s=AHEAD_S):
                pass
            took_s = time.perf_counter() - started
            used = {name: seconds - cpu[name] for name, seconds in servers.read_cpu_s().items()}
            made = workload.players * workload.entries
            assert await postgres.fetchval("SELECT count(*) FROM player_progress_events") == rows + made
            wal_bytes = await postgres.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", wal)
            if number:
                found.append(
                    {
                        "events_per_s": made / took_s,
                        "states_per_s": workload.players / took_s,
                        **{f"{name}_us_per_event": seconds / made * 1e6 for name, seconds in used.items()},
                        **{f"{name}_us_per_state": seconds / workload.players * 1e6 for name, seconds in used.items()},
                        "wal_bytes_per_event": float(wal_bytes) / made,
                    }
                )
        size = await postgres.fetchval("SELECT avg(octet_length(state::text))::integer FROM experience_progress")
    finally:
        await flusher.close()
        await postgres.close()
        await cold.close()
        await hot.close()
    median = {name: round(statistics.median(r[name] for r in found), 2) for name in found[0]}
    return {"players": workload.players, "entries": workload.entries, "rounds": rounds, "state_bytes": size, **median}


class Servers:
    """Valkey and Postgres as production has them: with a log on disk and real syncs."""

    def __init__(self, folder: Path) -> None:
        self.valkey = EmbeddedValkey(folder)
        self.postgres = EmbeddedPostgres(folder)

    def start(self) -> None:
        start_all_and_wait([self.valkey, self.postgres], START_DEADLINE_S)

    def stop(self) -> None:
        stop_all_and_wait([self.valkey, self.postgres])

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    @property
    def database_url(self) -> str:
        return self.postgres.get_url(DATABASE)

    def read_cpu_s(self) -> dict[str, float]:
        assert self.valkey.pid is not None and self.postgres.pid is not None
        return {
            "flusher": time.process_time(),
            "redis": _read_tree_cpu_s(self.valkey.pid),
            "postgres": _read_tree_cpu_s(self.postgres.pid),
        }


def _read_tree_cpu_s(pid: int) -> float:
    """A process, its children, and those of them that have ended."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError, ValueError):
            fields = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if int(entry.name) == pid:
                total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
            if int(entry.name) == pid or int(fields[1]) == pid:
                # The kernel numbers the CPU clock of a process by its complement: nanoseconds, where stat has ticks.
                total += time.clock_gettime((~int(entry.name) << 3) | 2)
    return total


def run(rounds: int, names: Sequence[str]) -> dict[str, Any]:
    """Start servers in a temporary folder, measure, leave nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="wh-bench-", dir="/tmp" if Path("/tmp").is_dir() else None))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        with DataFolder(folder):
            servers = Servers(folder)
            try:
                servers.start()
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(migrate(servers.database_url))
                    return {w.name: runner.run(measure(w, rounds, servers)) for w in WORKLOADS if w.name in names}
            finally:
                servers.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flush_throughput", allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="WORKLOAD", help="events, states; default both")
    parser.add_argument("--rounds", type=int, default=8, help="measured rounds of each workload (default 8)")
    parser.add_argument("--json", metavar="FILE", help="write the result there as well")
    args = parser.parse_args(argv)
    names = args.names or [w.name for w in WORKLOADS]
    if not Path("/proc/self/stat").exists():
        print("this system does not tell the CPU time of other processes the way it is read here", file=sys.stderr)
        return 3
    found = run(args.rounds, names)
    text = json.dumps(found, indent=1)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
