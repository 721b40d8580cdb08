"""
Fault runs: rounds of players on one rig, one fault after the other, and the audit as judge.

Two kinds of rounds. In most the players come back by themselves, whatever happens, and at the end everything they ever
made must be saved, once, in order (verdict a). In every third round nothing of Redis is destroyed, and at its end the
players are killed for good, and right after them the servers: everything they were told is accepted must be in
Postgres all the same (verdict b).

A seed fixes which fault comes when and what players do; how the processes race is up to the machine.

Not here: what the faults are (kinds.py), what a rig is (rig.py).
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.app.experience_files import load_experiences
from gateway.app.settings_source import load_settings
from loadtest.audit import AuditReport, audit
from loadtest.history import now_ms
from persistence.flusher.flusher import STEPS
from persistence.flusher.levels import LevelRule
from persistence.verify import verify
from tests.faults.fault import Fault, Scene
from tests.faults.kinds import KINDS
from tests.faults.players import Crowd, PlayerProcesses, Recovery, Timeline
from tests.faults.process_faults import EverythingKilled, FlusherKilledAtStep
from tests.faults.rig import Rig

VERDICTS = ("lost", "duplicated", "reordered", "state_mismatches")
FAULT_DEADLINE_S = 90.0
RECOVERY_S = 8.0
NO_RETURN_EVERY = 3
ROUND_MARGIN_S = 15.0
COUNTERS = (
    "wayhold_updates_accepted_total",
    "wayhold_updates_saved_total",
    "wayhold_updates_repeated_total",
    "wayhold_discards_total",
    "wayhold_hydrates_total",
    "wayhold_resyncs_total",
    "wayhold_resumes_total",
    "wayhold_stream_resets_total",
)


@dataclass(slots=True)
class Happened:
    """One fault that was injected, and what players saw of it."""

    kind: type[Fault]
    injected_ms: float
    healed_ms: float
    sigkills: int = 0
    """How many processes it ended by SIGKILL."""
    recovery: Recovery | None = None

    @property
    def counts(self) -> bool:
        """A fault that met nothing unsaved proves nothing."""
        return self.recovery is not None and self.recovery.in_flight > 0


@dataclass(slots=True)
class Row:
    """One kind in the table."""

    name: str
    rows: str
    kills: int = 0
    idle: int = 0
    updates: int = 0
    in_flight: int = 0
    first_ack_ms: list[float] = field(default_factory=list)
    first_saved_ms: list[float] = field(default_factory=list)

    def add(self, happened: Happened) -> None:
        if not happened.counts:
            self.idle += 1
            return
        recovery = happened.recovery
        assert recovery is not None
        self.kills += 1
        self.updates += recovery.updates
        self.in_flight += recovery.in_flight
        if recovery.first_ack_ms is not None:
            self.first_ack_ms.append(recovery.first_ack_ms)
        if recovery.first_saved_ms is not None:
            self.first_saved_ms.append(recovery.first_saved_ms)

    def as_dict(self) -> dict[str, Any]:
        return {
            "fault": self.name,
            "rows": self.rows,
            "kills": self.kills,
            "not_counted": self.idle,
            "updates": self.updates,
            "in_flight": self.in_flight,
            "first_ack_ms": _spread(self.first_ack_ms),
            "first_saved_ms": _spread(self.first_saved_ms),
        }


@dataclass(slots=True)
class RunReport:
    """Everything a run found; `is_ok` is the verdict."""

    seed: int
    happened: list[Happened] = field(default_factory=list)
    updates: int = 0
    accepted: int = 0
    findings: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))
    details: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """What the harness itself could not do, or players that never came to rest."""
    rounds: int = 0
    no_return_rounds: int = 0
    duration_s: float = 0.0
    counters: dict[str, float] = field(default_factory=dict)
    kills_min: int = 0
    sigkills_min: int = 0
    kinds_min: int = 0
    updates_min: int = 0
    step_kills_min: int = 0
    drills: dict[str, str | None] = field(default_factory=dict)
    """What each drill found; None for one that failed."""
    controls: dict[str, dict[str, int] | None] = field(default_factory=dict)
    """What rose without each guard; None where nothing did."""

    @property
    def failed(self) -> list[str]:
        """Drills that failed and guards whose absence nobody noticed."""
        return [f"drill {name}" for name, found in self.drills.items() if found is None] + [
            f"control {name}" for name, found in self.controls.items() if found is None
        ]

    @property
    def rows(self) -> list[Row]:
        rows = {kind.name: Row(kind.name, kind.rows) for kind in KINDS}
        for happened in self.happened:
            rows[happened.kind.name].add(happened)
        return list(rows.values())

    @property
    def kills(self) -> int:
        return sum(row.kills for row in self.rows)

    @property
    def sigkills(self) -> int:
        """How many processes the counted faults ended by SIGKILL."""
        return sum(happened.sigkills for happened in self.happened if happened.counts)

    @property
    def kinds(self) -> int:
        return sum(row.kills > 0 for row in self.rows)

    @property
    def step_kills(self) -> int:
        """How often the step died at that had it the least."""
        rows = {row.name: row.kills for row in self.rows}
        return min(rows[f"flusher killed after {step}"] for step in STEPS)

    @property
    def is_enough(self) -> bool:
        return (
            self.kills >= self.kills_min
            and self.sigkills >= self.sigkills_min
            and self.kinds >= self.kinds_min
            and self.updates >= self.updates_min
            and self.step_kills >= self.step_kills_min
        )

    @property
    def is_ok(self) -> bool:
        return self.is_enough and not self.troubles and not self.failed and not any(self.findings.values())

    def add_audit(self, report: AuditReport) -> None:
        self.updates += report.offered
        self.accepted += report.accepted
        for kind in VERDICTS:
            self.findings[kind] += getattr(report, kind)
        self.details += [str(finding) for finding in report.findings]
        if not report.is_enough:
            self.troubles.append(f"too little was answered: {report.accepted + report.void} of {report.offered}")

    def lines(self) -> list[str]:
        head = ("fault", "kills", "updates", "in flight", "first ack ms", "first saved ms", "catalogue")
        table = [
            (
                row.name,
                str(row.kills),
                str(row.updates),
                str(row.in_flight),
                _spread_text(row.first_ack_ms),
                _spread_text(row.first_saved_ms),
                row.rows,
            )
            for row in self.rows
            if row.kills or row.idle
        ]
        widths = [max(len(line[column]) for line in [head, *table]) for column in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *table]
        ]
        not_counted = sum(row.idle for row in self.rows)
        lines += [
            "",
            f"seed {self.seed}: {self.rounds} rounds, of these {self.no_return_rounds} whose players never returned, "
            f"{self.duration_s:.0f} s; {self.accepted} updates accepted; {not_counted} faults met nothing unsaved and "
            "are not counted",
            "counters: "
            + " ".join(f"{name.removeprefix('wayhold_')}={value:.0f}" for name, value in self.counters.items()),
        ]
        if not self.is_enough:
            lines.append(
                f"too little: wanted {self.kills_min} kills, {self.sigkills_min} processes ended by SIGKILL, "
                f"{self.kinds_min} kinds, {self.updates_min} updates, each step {self.step_kills_min} times "
                f"(least: {self.step_kills})"
            )
        lines += [f"  {detail}" for detail in self.details[:50]]
        lines += [f"  trouble: {trouble}" for trouble in self.troubles[:20]]
        if self.drills:
            lines.append(f"drills: {sum(found is not None for found in self.drills.values())} of {len(self.drills)} ok")
        if self.controls:
            caught = sum(found is not None for found in self.controls.values())
            lines.append(f"negative controls: {caught} of {len(self.controls)} caught")
        lines += [f"  failed: {name}" for name in self.failed]
        return lines

    def last_line(self) -> str:
        verdict = "ok" if self.is_ok else "FAILED"
        found = " ".join(f"{kind}={self.findings[kind]}" for kind in VERDICTS)
        return (
            f"faults: {verdict} kills={self.kills} sigkills={self.sigkills} kinds={self.kinds} "
            f"updates={self.updates} {found}"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": self.is_ok,
            "seed": self.seed,
            "kills": self.kills,
            "sigkills": self.sigkills,
            "kinds": self.kinds,
            "updates": self.updates,
            "accepted": self.accepted,
            **self.findings,
            "rounds": self.rounds,
            "no_return_rounds": self.no_return_rounds,
            "duration_s": round(self.duration_s, 1),
            "counters": self.counters,
            "faults": [row.as_dict() for row in self.rows],
            "findings": self.details,
            "troubles": self.troubles,
            "drills": self.drills,
            "negative_controls": self.controls,
        }


def deal(rng: random.Random, kinds: Sequence[type[Fault]] = KINDS) -> Iterator[type[Fault]]:
    """Kinds for ever: each as often as its weight says, spread evenly, in an order that the seed decides."""
    while True:
        deck = [((turn + rng.random()) / kind.weight, kind.name, kind) for kind in kinds for turn in range(kind.weight)]
        yield from (kind for _, _, kind in sorted(deck, key=lambda card: card[:2]))


class FaultRun:
    """Rounds on one rig, until the report has enough or the time is over."""

    def __init__(
        self,
        rig: Rig,
        report: RunReport,
        crowd: Crowd,
        *,
        kinds: Sequence[type[Fault]] = KINDS,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._rig = rig
        self._report = report
        self._crowd = crowd
        self._say = say
        self._rng = random.Random(report.seed)
        self._deck = deal(random.Random(report.seed), kinds)
        self._put_back: list[type[Fault]] = []

    async def run(self, seconds: float) -> None:
        """Until `seconds` are over; a round that would not fit is not begun. Stops early when there is enough."""
        started = time.monotonic()
        longest_s = self._crowd.seconds + ROUND_MARGIN_S
        while not (self._report.is_enough and self._report.rounds >= NO_RETURN_EVERY):
            left_s = seconds - (time.monotonic() - started)
            if self._report.rounds and left_s < longest_s:
                break
            began = time.monotonic()
            returns = self._report.rounds % NO_RETURN_EVERY != NO_RETURN_EVERY - 1
            await self.run_round(returns=returns)
            longest_s = max(longest_s, time.monotonic() - began)
        self._report.duration_s += time.monotonic() - started
        self._report.counters = {name: self._rig.count(name) for name in COUNTERS}
        self._report.troubles += self._rig.unexpected

    async def run_round(self, *, returns: bool) -> None:
        """Players come, faults happen, all heals, the audit judges."""
        report = self._report
        players = PlayerProcesses(self._rig, self._crowd, self._rng.randrange(2**32))
        happened: list[Happened] = []
        try:
            await players.start()
            while players.left_s > 1.0:
                kind = self._next_kind(returns)
                happened.append(await self._inject(kind, players))
                await players.wait_saved(RECOVERY_S)
                await asyncio.sleep(self._rng.uniform(0.05, 0.4))
            if returns:
                unsettled = await players.wait_settled()
                if unsettled:
                    report.troubles.append(f"round {report.rounds}: {unsettled} players did not come to rest")
                report.troubles += [f"a client ended: {failure}" for failure in players.failures[:3]]
                await players.leave()
            else:
                # First those who could send again, then those who were told: nobody is left but the files.
                await players.kill()
                happened.append(await self._inject(EverythingKilled, None))
            await self._rig.wait_nothing_pending()
            for key, reason in await self._rig.hot.list_quarantined():
                report.troubles.append(f"{key.member} was put aside, and nothing was wrong with it: {reason}")
                await self._rig.hot.release_quarantine(key)
        except TimeoutError as late:
            report.troubles.append(f"round {report.rounds}: {late or 'nothing came to rest in time'}")
        finally:
            await players.kill()
        histories = await asyncio.to_thread(players.histories)
        timeline = Timeline(histories)
        for one in happened:
            one.recovery = timeline.look_up(one.injected_ms, one.healed_ms)
        audited = await audit(histories, self._rig.database_url, accepted_min=0.95 if returns else 0.0)
        report.happened += happened
        report.rounds += 1
        report.no_return_rounds += not returns
        report.add_audit(audited)
        report.troubles += await list_drift(self._rig.database_url, f"round {report.rounds}")
        ending = "" if returns else ", nobody returns"
        self._say(f"round {report.rounds}{ending}: {len(happened)} faults, {audited.last_line()}")

    def _next_kind(self, returns: bool) -> type[Fault]:
        """The next card; one that destroys data of Redis waits for a round whose players return."""
        for index, kind in enumerate(self._put_back):
            if returns or not kind.loses_hot:
                return self._put_back.pop(index)
        while True:
            kind = next(self._deck)
            if returns or not kind.loses_hot:
                return kind
            self._put_back.append(kind)

    async def _inject(self, kind: type[Fault], players: PlayerProcesses | None) -> Happened:
        fault = kind(Scene(self._rig, self._rng, players))
        injected_ms, sigkills = now_ms(), self._rig.sigkills
        try:
            async with asyncio.timeout(FAULT_DEADLINE_S):
                try:
                    await fault.inject()
                    await asyncio.sleep(kind.hold_s)
                finally:
                    await fault.heal()
        except Exception as error:
            self._report.troubles.append(f"{kind.name}: {error!r}")
            self._rig.heal_links()
        healed_ms = fault.healed_ms or now_ms()
        self._say(f"  {kind.name}: {(healed_ms - injected_ms) / 1000:.1f} s")
        if isinstance(fault, FlusherKilledAtStep):
            injected_ms = healed_ms  # it was armed before; what it met is what was open when it died
        return Happened(kind, injected_ms, healed_ms, self._rig.sigkills - sigkills)


async def list_drift(database_url: str, where: str) -> list[str]:
    """What `wayhold verify` would tell: everything that follows from events and is not as they say."""
    experiences = load_experiences(load_settings(environ={}).settings)
    findings = await verify(database_url, levels=LevelRule(), experiences=experiences, rows_max=3)
    return [f"{where}: {difference}" for some in findings.first.values() for difference in some]


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": round(statistics.median(values), 1), "max": round(max(values), 1)}


def _spread_text(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.0f} (max {max(values):.0f})"
