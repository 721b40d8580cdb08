"""
Negative controls: a check that cannot fail proves nothing. For each guard of the write path the whole source tree is
copied, the guard is taken out of the copy by replacing its text, and the check that is aimed at it runs there. It must
find something, and what rose is named.

The product has no switch for any of this. A text that is not found exactly once fails loudly: then the guard was
rewritten, and its entry here has to follow.

`python -m tests.faults.negative_controls [NAME …]`; part of `make faults`, a few of them are tests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Servers, run_servers

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("protocol", "persistence", "gateway", "loadtest", "tests")
CHECK_DEADLINE_S = 120.0

APPLY = "persistence/hot/lua/apply_updates.lua"
OPENING = "gateway/sessions/opening.py"
FLUSHER = "persistence/flusher/lane.py"
VERDICTS = "gateway/sessions/verdicts.py"


class PatchDoesNotApply(Exception):
    """The text of a guard is not where it was."""

    def __init__(self, control: str, path: str, count: int) -> None:
        super().__init__(f"{control}: {path} holds the text of this guard {count} times, not once")


@dataclass(frozen=True, slots=True)
class Patch:
    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Control:
    """A guard, how it is taken out, the check that must notice, and the numbers of which at least one must rise."""

    name: str
    patches: tuple[Patch, ...]
    check: str
    rises: frozenset[str]


def _control(name: str, check: str, rises: str, *patches: tuple[str, str, str]) -> Control:
    return Control(name, tuple(Patch(*patch) for patch in patches), check, frozenset(rises.split()))


CONTROLS: tuple[Control, ...] = (
    _control(
        "copy check",
        "answers_from_another_copy",
        "answered_for_another_copy",
        (APPLY, "if there[1] ~= copy then return", "if false then return"),
    ),
    _control(
        "pong seq",
        "idle_client_after_rollback",
        "lost",
        (APPLY, "if accepted < told then return", "if false then return"),
    ),
    _control(
        "pong check",
        "idle_client_after_loss",
        "lost",
        (
            APPLY,
            "  local hot = call('HMGET', progress, 'holder', 'head',",
            "  if update_count == 0 then return answer(OK, told, 0, 0, 0, 0, 0) end\n"
            "  local hot = call('HMGET', progress, 'holder', 'head',",
        ),
        # A version that is not the expected one would show it, too.
        (
            VERDICTS,
            "    if (verdict.version != connection.version",
            "    if False and (verdict.version != connection.version",
        ),
    ),
    _control(
        "dedupe",
        "repeated_update",
        "duplicated lost state_mismatches",
        (APPLY, "      if seq <= accepted then\n", "      if false then\n"),
    ),
    _control(
        "version of what is foreseen",
        "schedules_without_faults",
        "state_mismatches",
        (APPLY, "    if version ~= behind or seq ~= accepted", "    if seq ~= accepted"),
    ),
    _control(
        "void entries",
        "schedules_with_faults",
        "never_at_rest lost duplicated state_mismatches",
        # A rejected update uses up its number and leaves no entry.
        (
            APPLY,
            "        version = version + 1\n        taken = taken + 1\n",
            "        if code == 0 then\n        version = version + 1\n        taken = taken + 1\n",
        ),
        (APPLY, "code .. ' ') .. body\n", "code .. ' ') .. body\n        end\n"),
        (APPLY, "  if taken > 0 then\n    writes", "  if n > 0 then\n    writes"),
        (APPLY, "  if taken > 0 or is_new_holder", "  if n > 0 or is_new_holder"),
    ),
    _control(
        "connection number",
        "replaced_connection_writes",
        "zombie_writes",
        (APPLY, "if held[2] and tonumber(held[2]) > connection then return", "if false then return"),
    ),
    _control(
        "TTL on pending keys",
        "backlog_that_waits",
        "lost",
        (
            APPLY,
            "    call('RPUSH', pending, unpack(entries, 1, taken))\n",
            "    call('RPUSH', pending, unpack(entries, 1, taken))\n    call('EXPIRE', pending, 1)\n",
        ),
    ),
    _control(
        "log match",
        "copy_of_another_history",
        "lost duplicated state_mismatches never_at_rest",
        (
            "persistence/flusher/plan.py",
            "return Verdict.SAME_HISTORY if at == row.last_entry else Verdict.NO_MATCH",
            "return Verdict.SAME_HISTORY",
        ),
    ),
    _control(
        "settle by id",
        "settle_of_another_history",
        "lost never_at_rest duplicated state_mismatches",
        ("persistence/hot/lua/settle.lua", "  if id ~= entry_id then return {-1} end\n", ""),
    ),
    _control(
        "recheck before discard",
        "snapshot_that_came_late",
        "discards",
        (
            "persistence/hot/lua/discard_if_diverged.lua",
            "if base_version > version then return {0, 0} end\n",
            "",
        ),
        ("persistence/hot/lua/discard_if_diverged.lua", "if id == last_entry then return {0, 0} end\n", ""),
    ),
    _control(
        "install check",
        "hydrate_that_came_late",
        "discards",
        (
            "persistence/hot/lua/install.lua",
            "  if version < base_version or id == last_entry then\n",
            "  if false then\n",
        ),
    ),
    _control(
        "hello saved",
        "hello_after_rollback",
        "marks_went_back",
        (OPENING, "        if self.hello.saved > accepted:\n", "        if False:\n"),
    ),
    _control(
        "fresh read",
        "hello_after_rollback",
        "duplicated",
        (
            OPENING,
            "            known, _ = await self.node.hydrator.find_device_seq(progress.row_id, self.hello.device)\n",
            "            known = accepted\n",
        ),
    ),
    _control(
        "stream reset, the device forgot",
        "device_that_forgot",
        "lost",
        (OPENING, "        elif accepted > self.hello.made:\n", "        elif False:\n"),
    ),
    _control(
        "stream reset, Postgres forgot",
        "postgres_that_forgot",
        "lost",
        (
            OPENING,
            '            self._reset_stream(accepted, "server_behind", known)\n',
            "            await self._hydrate()\n            return False\n",
        ),
    ),
    _control(
        "cold loss",
        "postgres_that_forgot",
        "lost",
        (FLUSHER, "        for copy, row in report.beyond:\n", "        for copy, row in report.beyond[:0]:\n"),
    ),
    _control(
        "journal sync before send",
        "power_cut_on_the_phone",
        "lost stream_resets",
        (
            "protocol/client/file_journal.py",
            "    @property\n    def synced(self) -> int:\n        return self._synced\n",
            "    @property\n    def synced(self) -> int:\n        return self._entries.made\n",
        ),
    ),
    _control(
        "journal not synced",
        "power_cut_on_the_phone",
        "lost stream_resets",
        (
            "protocol/client/file_journal.py",
            "        try:\n            disk.sync(handle)\n        except OSError as failed:\n            # After",
            "        try:\n            pass\n        except OSError as failed:\n            # After",
        ),
    ),
    _control(
        "ack before the write",
        "ack_while_redis_hangs",
        "lost",
        (
            "gateway/sessions/committer.py",
            "                self.calls += 1\n",
            "                self.calls += 1\n"
            "                from protocol import frames\n"
            "                for c, g in zip(connections, groups):\n"
            "                    if g.updates:\n"
            "                        c.wire.send(c.codec.encode(frames.ack(g.updates[-1].seq, 1, 0, ())))\n",
        ),
    ),
    _control(
        "saved before COMMIT",
        "death_before_the_commit",
        "lost state_mismatches",
        (
            FLUSHER,
            '                self._at_step("written")\n',
            "                await self._settle(report, absent, started, (0.0, 0.0), len(copies))\n"
            '                self._at_step("written")\n',
        ),
    ),
    _control(
        "redis-py's own retries",
        "reply_that_never_comes",
        "repeated_calls late",
        (
            "persistence/hot/client.py",
            "            retry=Retry(NoBackoff(), 0),\n",
            "            retry=Retry(NoBackoff(), 10),\n",
        ),
    ),
    _control(
        "snapshot of a part of pending",
        "whole_backlog",
        "lost",
        ("persistence/hot/flush_side.py", '("LRANGE", pending, 0, -1)', '("LRANGE", pending, 0, 3)'),
    ),
)

assert len({control.name for control in CONTROLS}) == len(CONTROLS)


@dataclass(slots=True)
class Outcome:
    """What the check said on the broken tree."""

    control: Control
    found: dict[str, int]
    problem: str
    took_s: float

    @property
    def is_caught(self) -> bool:
        return any(self.found.get(name, 0) > 0 for name in self.control.rises)

    def __str__(self) -> str:
        if self.is_caught:
            rose = " ".join(f"{name}={count}" for name, count in self.found.items())
            return f"{self.control.name}: caught by {self.control.check}: {rose} ({self.took_s:.1f} s)"
        return f"{self.control.name}: NOT CAUGHT by {self.control.check}: {self.problem or 'it found nothing'}"


async def run_controls(
    controls: Sequence[Control], servers: Servers, say: Callable[[str], None] = lambda line: None
) -> list[Outcome]:
    """
    Run each control on a copy of the tree of its own. They share Redis, so one after the other.

    Raises:
        PatchDoesNotApply: a guard has moved.
    """
    outcomes = []
    for control in controls:
        servers.flush_redis()
        database_url = servers.create_database()
        try:
            outcome = await run_control(control, servers.redis_url, database_url)
        finally:
            servers.drop_database(database_url)
        say(str(outcome))
        outcomes.append(outcome)
    return outcomes


async def run_control(control: Control, redis_url: str, database_url: str) -> Outcome:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wh-broken-") as folder:
        tree = Path(folder)
        await asyncio.to_thread(copy_tree, tree)
        break_tree(tree, control)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.guard_checks", control.check),
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "REDIS_URL": redis_url, "DATABASE_URL": database_url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(CHECK_DEADLINE_S):
                out, err = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return Outcome(control, {}, f"no answer within {CHECK_DEADLINE_S:g} s", time.monotonic() - began)
    if process.returncode != 0:
        # A check that breaks says nothing about the guard: only what it counted counts.
        last = err.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        return Outcome(control, {}, f"the check itself ended: {last[0]}", time.monotonic() - began)
    found: dict[str, int] = json.loads(out.decode().strip().splitlines()[-1])
    return Outcome(control, found, "" if not found else f"only {found} rose", time.monotonic() - began)


def copy_tree(target: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))


def break_tree(tree: Path, control: Control) -> None:
    for patch in control.patches:
        path = tree / patch.path
        text = path.read_text()
        if text.count(patch.old) != 1:
            raise PatchDoesNotApply(control.name, patch.path, text.count(patch.old))
        path.write_text(text.replace(patch.old, patch.new))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.negative_controls", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(control.name for control in CONTROLS))
    args = parser.parse_args()
    chosen = [control for control in CONTROLS if not args.names or control.name in args.names]
    if len(chosen) < len(args.names):
        parser.error("no such control; --help lists them")
    with run_servers() as servers:
        outcomes = asyncio.run(run_controls(chosen, servers, lambda line: print(line, flush=True)))
    missed = [outcome for outcome in outcomes if not outcome.is_caught]
    print(f"negative controls: {'FAILED' if missed else 'ok'} guards={len(outcomes)} missed={len(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
