"""
What each index costs the flush and what it saves a query: `python -m benchmarks.indexes [--json FILE]`.

One database is filled and copied once for each variant (index_variants.py). Then flushes (`write_copies`, the whole
transaction with totals and rollups, real syncs) go to all of them in turn, in another order in each round, so that what
else happens on the machine hits all alike; CPU is the kernel's account of the backend that wrote. Queries are timed the
same way afterwards. Ratios of one run decide.

    events   200 progress with 25 updates each
    states   1,000 progress with one update each: what counts is the state's row

WAL is counted without full page images, whose number depends on how long ago the last checkpoint was. It does not show:
tables that do not fit into memory, where every index page that is touched may be a read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg

from benchmarks.accounts import read_cpu_s
from benchmarks.index_variants import QUESTIONS, VARIANTS, Question, Variant
from benchmarks.load_processes import ROOT
from benchmarks.machine import Noise, describe_machine, describe_versions
from persistence.cold.migrate import migrate
from persistence.embedded.child import start_all_and_wait, stop_all_and_wait
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.postgres import EmbeddedPostgres
from persistence.fill.fill import fill
from persistence.fill.plan import FillPlan
from persistence.fill.story import World
from persistence.flusher.plan import Copy, Entry
from persistence.flusher.write import Bookkeeping, write_copies
from persistence.progress_key import ProgressKey
from protocol.effects import compile_update
from protocol.entry import EntryIds, UpdateBody
from protocol.experience_file import parse_experience
from protocol.state import apply_ops, as_stored, join_stored, split_state

EXPERIENCE = "wylding-woods"
BASE = "base"
WORKLOADS = {"events": (200, 25), "states": (1000, 1)}
START_DEADLINE_S = 90.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.indexes", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "names", nargs="*", metavar="VARIANT", help=f"default all: {', '.join(v.name for v in VARIANTS)}"
    )
    parser.add_argument("--players", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15, help="measured flushes of each workload and variant (15)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep everything that was measured")
    args = parser.parse_args(argv)
    known = {variant.name: variant for variant in VARIANTS}
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"no such variant: {', '.join(unknown)}")
    variants = [known[name] for name in args.names or known]
    found = measure_all(variants, args.players, args.events, args.rounds)
    print(show(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def measure_all(variants: Sequence[Variant], players: int, events: int, rounds: int) -> dict[str, Any]:
    """Servers in a temporary folder, of which nothing is left."""
    folder = Path(tempfile.mkdtemp(prefix="wh-bench-"))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    noise = Noise()
    try:
        with DataFolder(folder):
            postgres = EmbeddedPostgres(folder)
            start_all_and_wait([postgres], START_DEADLINE_S)
            try:
                found = asyncio.run(_measure(postgres, variants, players, events, rounds))
            finally:
                stop_all_and_wait([postgres])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "players": players,
        "events": events,
        "rounds": rounds,
        "others_cores": noise.read_cores(),
        **found,
    }


async def _measure(
    postgres: EmbeddedPostgres, variants: Sequence[Variant], players: int, events: int, rounds: int
) -> dict[str, Any]:
    say(f"filling {events:,} events of {players:,} players")
    for setting in ("full_page_writes = off", "max_wal_size = '8GB'", "checkpoint_timeout = '1h'", "autovacuum = off"):
        postgres.run_sql(f"ALTER SYSTEM SET {setting}")
    postgres.run_sql("SELECT pg_reload_conf()")
    postgres.run_sql(f"CREATE DATABASE {BASE}")
    url = postgres.get_url(BASE)
    await migrate(url)
    definition = parse_experience((ROOT / "protocol/experiences/wylding-woods.toml").read_text(), EXPERIENCE)
    await fill(url, FillPlan(World.of(definition), players, events, random_seed=1))
    arms = []
    for variant in variants:
        say(f"making {variant.name}")
        postgres.run_sql(f"CREATE DATABASE v_{variant.name} TEMPLATE {BASE} STRATEGY file_copy")
        arms.append(await Arm.open(variant, postgres.get_url(f"v_{variant.name}")))
    try:
        result: dict[str, Any] = {"variants": {arm.variant.name: {"about": arm.variant.about} for arm in arms}}
        for name, (progress, entries) in WORKLOADS.items():
            say(f"flushing: {name}")
            for number in range(rounds + 1):
                for arm in random.sample(arms, len(arms)):
                    await arm.flush(name, progress, entries, is_counted=number > 0)
        for arm in arms:
            result["variants"][arm.variant.name] |= await arm.describe(arms[0])
        say("asking")
        for arm in arms:  # as autovacuum would have done by then; it is off, so that it hits nobody in a round
            await arm.connection.execute("VACUUM (ANALYZE)")
        by_name = {arm.variant.name: arm for arm in arms}
        result["questions"] = [await ask(question, by_name, rounds) for question in QUESTIONS]
        return result
    finally:
        for arm in arms:
            await arm.connection.close()


class Arm:
    """One variant: a database, a connection, and what its flushes took."""

    def __init__(self, variant: Variant, connection: Any, pid: int) -> None:
        self.variant = variant
        self.connection = connection
        self._pid = pid
        self._ids = EntryIds()
        self._rng = random.Random(1)
        self._progress: list[Any] = []
        self._took: dict[str, list[dict[str, float]]] = {}
        self._books = Bookkeeping()

    @classmethod
    async def open(cls, variant: Variant, url: str) -> Arm:
        connection = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
        if variant.sql:
            await connection.execute(variant.sql)
        for table in ("experience_progress", "player_profiles", "player_progress_events"):
            await connection.execute(f"VACUUM (ANALYZE) {table}")
        arm = cls(variant, connection, await connection.fetchval("SELECT pg_backend_pid()"))
        arm._progress = await connection.fetch("SELECT id FROM experience_progress ORDER BY id")
        return arm

    async def flush(self, workload: str, progress: int, entries: int, *, is_counted: bool) -> None:
        """One flush of other progress than the one before, in a transaction that is committed."""
        chosen = [record["id"] for record in self._rng.sample(self._progress, min(progress, len(self._progress)))]
        rows = await self.connection.fetch(
            "SELECT p.id, p.version, p.last_entry, p.state::text AS state, p.kinds::text AS kinds, f.user_id "
            "FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id WHERE p.id = ANY ($1)",
            chosen,
        )
        copies = [self._make_copy(row, entries) for row in rows]
        wal = await self.connection.fetchval("SELECT pg_current_wal_insert_lsn()")
        cpu, began = read_cpu_s(self._pid), time.perf_counter()
        async with self.connection.transaction():
            report = await write_copies(self.connection, copies, books=self._books)
        took_s, cpu_s = time.perf_counter() - began, read_cpu_s(self._pid) - cpu
        self._books.contents.remember(report.contents)
        assert report.updates == len(rows) * entries, report
        written = await self.connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", wal)
        if is_counted:
            self._took.setdefault(workload, []).append(
                {"per_s": report.updates / took_s, "cpu_us": cpu_s / report.updates * 1e6,
                 "wal_bytes": float(written) / report.updates}
            )  # fmt: skip

    def _make_copy(self, row: Any, entries: int) -> Copy:
        """What Redis would hold of this progress after so many updates more."""
        fields: dict[str, str | bytes] = dict(split_state(row["state"], row["kinds"]))
        now_ms = time.time_ns() // 1_000_000
        made = []
        for number in range(entries):
            place = self._rng.randrange(37)
            data = {"distance_traveled": 31.5, "time_spent": 45}
            event = {"type": "waypoint_visited", "content_id": f"bench_{place}", "data": data}
            compiled = compile_update(event, [{"op": "incr", "path": "records.score", "value": 1}])
            apply_ops(fields, compiled.ops[1:])
            at_ms = now_ms - (entries - number) * 20_000
            body = UpdateBody(
                "bench", row["version"] + number + 1, at_ms, now_ms, str(uuid.UUID(int=1)), "waypoint_visited",
                compiled.content_id, compiled.data_json, compiled.effects_json, 37.905696, -122.547701,
            )  # fmt: skip
            made.append(Entry(row["version"] + number + 1, self._ids.next(now_ms), 0, 300, b"", body))
        stored = as_stored(fields)
        state_json, kinds_json = join_stored(stored)
        return Copy(
            key=ProgressKey(str(row["user_id"]), EXPERIENCE),
            copy="bench",
            row_id=row["id"].hex,
            version=made[-1].version,
            base_version=row["version"],
            base_id=row["last_entry"].hex,
            stored=stored,
            state_json=state_json,
            kinds_json=kinds_json,
            entries=made,
            entries_bytes=300 * entries,
        )

    async def describe(self, first: Arm) -> dict[str, Any]:
        """Medians, and as `…_ratio` the median of what each round took here by what it took in the first variant."""
        facts: dict[str, Any] = {}
        for workload, took in self._took.items():
            facts[workload] = {name: round(median(one[name] for one in took), 1) for name in took[0]}
            pairs = list(zip(took, first._took[workload], strict=True))
            for name in took[0]:
                facts[workload][f"{name}_ratio"] = round(median(one[name] / other[name] for one, other in pairs), 3)
        sizes = """
            SELECT CASE WHEN c.relname LIKE 'player_progress_events%' THEN 'player_progress_events' ELSE c.relname END
                       AS name,
                   sum(pg_relation_size(c.oid))::bigint AS heap, sum(pg_indexes_size(c.oid))::bigint AS indexes
            FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
              AND (c.relname LIKE 'player_progress_events%' OR c.relname IN ('experience_progress', 'player_profiles'))
            GROUP BY 1 ORDER BY 1"""
        facts["bytes"] = {
            row["name"]: {"heap": row["heap"], "indexes": row["indexes"]} for row in await self.connection.fetch(sizes)
        }
        hot = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'experience_progress'"
        await asyncio.sleep(1.1)  # a backend reports what it did at most once a second
        updates = await self.connection.fetchrow(hot)
        facts["heap_only_updates"] = round(updates["n_tup_hot_upd"] / max(1, updates["n_tup_upd"]), 3)
        return facts


async def ask(question: Question, arms: dict[str, Arm], rounds: int) -> dict[str, Any]:
    asked = [arms[name] for name in question.variants if name in arms]
    took: dict[str, list[float]] = {arm.variant.name: [] for arm in asked}
    for number in range(rounds + 1):
        for arm in random.sample(asked, len(asked)):
            began = time.perf_counter()
            await arm.connection.fetch(question.sql)
            if number:
                took[arm.variant.name].append((time.perf_counter() - began) * 1000)
    plans = {}
    for arm in asked:
        lines = [record[0] for record in await arm.connection.fetch("EXPLAIN " + question.sql)]
        plans[arm.variant.name] = sorted({_index_of(line) for line in lines} - {""})
    return {
        "name": question.name,
        "sql": question.sql,
        "median_ms": {name: round(median(each), 2) for name, each in took.items()},
        "uses": plans,
    }


def _index_of(line: str) -> str:
    for word in ("Index Only Scan using ", "Index Scan using ", "Index Scan Backward using ", "Bitmap Index Scan on "):
        if word in line:
            return line.split(word)[1].split()[0]
    return "Seq Scan" if "Seq Scan on" in line else ""


def show(found: dict[str, Any]) -> str:
    """Tables for people: flushes, bytes, questions."""
    variants = found["variants"]
    lines = [
        f"{found['events']:,} events, {found['players']:,} players, {found['rounds']} rounds; others kept "
        f"{found['others_cores']} cores busy. In brackets: median of the rounds' ratios to the first row.",
        f"\n{'variant':<20} {'events: CPU µs':>16} {'WAL B':>16} {'states: CPU µs':>16} {'WAL B':>16} {'HOT':>5} "
        f"{'event index B':>14} {'progress index MB':>18}",
    ]
    for name, facts in variants.items():
        cells = [
            f"{facts[workload][what]:.1f} ({facts[workload][f'{what}_ratio']:.2f})"
            for workload in WORKLOADS
            for what in ("cpu_us", "wal_bytes")
        ]
        tables = facts["bytes"]
        per_event = tables["player_progress_events"]["indexes"] / found["events"]
        progress_mb = (tables["experience_progress"]["indexes"] + tables["player_profiles"]["indexes"]) / 1e6
        row = (f"{name:<20}", *(f"{cell:>16}" for cell in cells), f"{facts['heap_only_updates']:>5.0%}")
        lines.append(" ".join((*row, f"{per_event:>14.0f}", f"{progress_mb:>18.1f}")))
    lines.append("")
    for question in found["questions"]:
        times = ", ".join(
            f"{name} {ms:g} ms [{' '.join(question['uses'][name])}]" for name, ms in question["median_ms"].items()
        )
        lines.append(f"{question['name']}: {times}")
    return "\n".join(lines)


def say(text: str) -> None:
    print(f"indexes: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
