"""
What came of a load test: its histories, the audit, what was done to the servers; as lines for a terminal, and as the
document that every other report is made of.

Not here: the layout of the document (report_document.py), the test (load_test.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.audit import AuditReport
from loadtest.cost import show_cost
from loadtest.faults import BACK_WAIT_S, Fault
from loadtest.history import PlayerHistory
from loadtest.options import Options
from loadtest.report import FreezeReport, ack_latency, ack_meanwhile, saved_latency, show_counts, sum_counts
from loadtest.report_document import make_document, read_run
from loadtest.scenario_choice import DEFAULT
from loadtest.series import make_series


@dataclass(slots=True)
class LoadTestReport:
    """What happened, for people and as JSON."""

    options: Options
    histories: list[PlayerHistory]
    audit: AuditReport
    play_s: float
    settled_s: float | None  # None: not everything was saved in time, or nobody was left to be told
    faults: list[Fault]
    freeze: FreezeReport | None
    folder: Path
    start_ms: float  # when the play began
    commits: int | None  # from the first hello until everything was saved; None: the database cannot be asked
    commits_of_ramp: int  # … of these before the play began: hellos
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        return self.audit.accepted + self.audit.void

    def _pace(self) -> str:
        scenario = "" if self.options.scenario == DEFAULT else f"{self.options.scenario}, "
        return scenario + (f"{self.options.rate:g}/s each" if self.options.rate is not None else "at its own pace")

    def lines(self) -> list[str]:
        options, histories = self.options, self.histories
        away = ack_latency(histories, lambda step: step.is_away)
        lines = [
            "",
            f"{options.players} players, {self._pace()} for {options.seconds:g} s "
            f"(--random-seed {options.random_seed})",
            f"  accepted     {self.audit.accepted} + {self.audit.void} void of {self.audit.offered} offered, "
            f"{self.answered / self.play_s:.0f}/s",
            f"  ack latency  {ack_latency(histories)}  (from the time each was due)",
            f"  saved        {saved_latency(histories)}",
        ]
        if away.count:
            lines.append(f"  offline      {away.count} updates made without a connection, accepted after {away}")
        lines += [
            f"  came back    {show_counts(sum_counts(history.welcomes for history in histories))}",
            f"  closes       {show_counts(sum_counts(history.closes for history in histories))}",
            f"  errors       {show_counts(sum_counts(history.errors for history in histories))}",
        ]
        if self.commits is not None:
            per_commit = self.answered / self.commits if self.commits else 0.0
            lines.append(
                f"  commits      {self.commits} in Postgres ({self.commits_of_ramp} while the players came), "
                f"one for {per_commit:.1f} accepted updates"
            )
        lines += show_cost(self.cost)
        for fault in self.faults:
            lines += self._fault_lines(fault)
        if self.freeze is not None:
            lines += [
                f"  frozen       Postgres for {self.freeze.frozen_s:.1f} s: ack {self.freeze.ack}, "
                f"{self.freeze.saved_during} saved meanwhile",
                f"               caught up: accepted after {_seconds(self.freeze.accepted_caught_up_s)}, "
                f"saved after {_seconds(self.freeze.saved_caught_up_s)}",
            ]
        if not options.is_no_return:
            settled = "not everything in time" if self.settled_s is None else f"everything {self.settled_s:.1f} s after"
            lines.append(f"  settled      {settled}")
        if self.audit.unanswered:
            lines.append(
                f"  unanswered   {self.audit.unanswered} made updates had no answer; "
                f"{self.audit.unanswered_saved} of them are in Postgres all the same"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        histories = self.histories
        return {
            "options": self.options.as_dict(),
            "play_s": round(self.play_s, 3),
            "accepted_per_s": round(self.answered / self.play_s, 3),
            "ack": ack_latency(histories).as_dict(),
            "ack_after_absence": ack_latency(histories, lambda step: step.is_away).as_dict(),
            "saved": saved_latency(histories).as_dict(),
            "welcomes": sum_counts(history.welcomes for history in histories),
            "resumes": sum(history.resumes for history in histories),
            "closes": sum_counts(history.closes for history in histories),
            "errors": sum_counts(history.errors for history in histories),
            "commits": self.commits,
            "commits_of_ramp": self.commits_of_ramp,
            "accepted_per_commit": round(self.answered / self.commits, 2) if self.commits else None,
            "kills": [self._fault_as_dict(fault) for fault in self.faults if fault.how == "kill"],
            "restarts": [self._fault_as_dict(fault) for fault in self.faults if fault.how == "restart"],
            "freeze": self.freeze.as_dict() if self.freeze is not None else None,
            "settled_s": self.settled_s,
            "audit": self.audit.as_dict(),
        }

    def _fault_lines(self, fault: Fault) -> list[str]:
        verb = "killed" if fault.how == "kill" else "restarted"
        line = f"  {verb:12} {fault.process} (pid {fault.pid}) after {self._at_s(fault):.1f} s of play"
        if fault.back_s is None:
            return [f"{line}, not ready again within {BACK_WAIT_S:.0f} s"]
        meanwhile = ack_meanwhile(self.histories, fault.at_ms, fault.back_ms)
        return [
            f"{line}, ready again after {fault.back_s:.1f} s (pid {fault.back_pid})",
            *([f"               {meanwhile.count} updates due meanwhile: ack {meanwhile}"] if meanwhile.count else []),
        ]

    def _fault_as_dict(self, fault: Fault) -> dict[str, Any]:
        return {
            "at_s": round(self._at_s(fault), 3),
            "process": fault.process,
            "pid": fault.pid,
            "back_s": None if fault.back_s is None else round(fault.back_s, 3),
            "back_pid": fault.back_pid,
            "ack_meanwhile": ack_meanwhile(self.histories, fault.at_ms, fault.back_ms).as_dict(),
        }

    def _at_s(self, fault: Fault) -> float:
        return (fault.at_ms - self.start_ms) / 1000

    def as_document(self) -> dict[str, Any]:
        """The whole report: see report_document.py."""
        series = make_series(self.histories, self.folder, self.start_ms)
        run = {"cost": self.cost, **read_run(self.folder)}
        return make_document(self.as_dict(), self.histories, self.audit, series, run)


def _seconds(value_s: float | None) -> str:
    return "never" if value_s is None else f"{value_s:.1f} s"
