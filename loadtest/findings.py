"""
What an audit says: findings, counts, the verdict.

Promise: every finding is counted, and named (kind, player, device, seq, what, and when the update was due, made,
accepted, saved) up to `findings_max`; the last line is the verdict. Pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from loadtest.history import Step

FINDINGS_MAX = 1000
# Of these a terminal shows so many; a report shows all.
LINES_MAX = 50
ACCEPTED_MIN = 0.95

KINDS = ("lost", "duplicated", "reordered", "state_mismatches")
"""What makes an audit fail."""

LATE_ACK = "late_ack"
"""A kind of finding that is told and counted and makes no audit fail: the update is there, its answer was late."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    user_id: str
    device: str
    seq: int
    what: str
    due_ms: float | None = None
    made_ms: float | None = None
    accepted_ms: float | None = None
    saved_ms: float | None = None

    @classmethod
    def of(cls, kind: str, user_id: str, device: str, seq: int, what: str, step: Step | None) -> Finding:
        """`step`: the update it is about, if there is one; its times come along."""
        if step is None:
            return cls(kind, user_id, device, seq, what)
        return cls(kind, user_id, device, seq, what, step.due_ms, step.made_ms, step.accepted_ms, step.saved_ms)

    def __str__(self) -> str:
        place = f" device={self.device}" if self.device else ""
        place += f" seq={self.seq}" if self.seq else ""
        times = f" ({self.times()})" if self.made_ms is not None else ""
        return f"{self.kind}: player={self.user_id}{place}: {self.what}{times}"

    def times(self) -> str:
        """When its frames went: made at a time of day (UTC), answered so long after."""
        if self.made_ms is None:
            return ""
        made_at = datetime.fromtimestamp(self.made_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
        return (
            f"made {made_at}, accepted {_after(self.accepted_ms, self.made_ms)}, "
            f"saved {_after(self.saved_ms, self.made_ms)}"
        )

    def as_dict(self) -> dict[str, Any]:
        facts = asdict(self)
        facts["player"] = facts.pop("user_id")
        return facts


@dataclass(slots=True)
class AuditReport:
    """What was counted, what was found, and the verdict."""

    offered: int = 0
    accepted: int = 0  # effective ones; void ones are counted apart
    void: int = 0
    saved: int = 0  # accepted ones that have their row
    dead_lettered: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    state_mismatches: int = 0
    unanswered: int = 0  # made, but the player was never told what became of them
    unanswered_saved: int = 0  # … of which Postgres has these
    players: int = 0
    accepted_min: float = ACCEPTED_MIN
    findings_max: int = FINDINGS_MAX
    late_acks: int | None = None  # nobody looked
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_enough(self) -> bool:
        """Enough was answered for a verdict to mean anything."""
        return self.accepted > 0 and self.accepted + self.void >= self.accepted_min * self.offered

    @property
    def is_ok(self) -> bool:
        return self.is_enough and not any(getattr(self, kind) for kind in KINDS)

    def add(self, finding: Finding) -> None:
        if finding.kind == LATE_ACK:
            self.late_acks = (self.late_acks or 0) + 1
        else:
            setattr(self, finding.kind, getattr(self, finding.kind) + 1)
        if len(self.findings) < self.findings_max:
            self.findings.append(finding)

    def last_line(self) -> str:
        verdict = "ok" if self.is_ok else "FAILED"
        names = ("offered", "accepted", "void", "saved", "dead_lettered", *KINDS)
        return f"audit: {verdict} " + " ".join(f"{name}={getattr(self, name)}" for name in names)

    def lines(self) -> list[str]:
        """The findings, what was left off, and the verdict as the last line."""
        shown = self.findings[:LINES_MAX]
        lines = [f"  {finding}" for finding in shown]
        left_off = sum(getattr(self, kind) for kind in KINDS) + (self.late_acks or 0) - len(shown)
        if left_off > 0:
            lines.append(f"  … and {left_off} more")
        if not self.is_enough:
            lines.append(f"  {self._too_little()}")
        return [*lines, self.last_line()]

    def lines_of_verdict(self) -> list[str]:
        """Why it is not ok, without the single findings; empty when it is."""
        counted = [(kind, getattr(self, kind)) for kind in KINDS]
        reasons = [f"{kind.replace('_', ' ')}: {count}" for kind, count in counted if count]
        return reasons if self.is_enough else [*reasons, self._too_little()]

    def _too_little(self) -> str:
        return (
            f"too little was answered: {self.accepted + self.void} of {self.offered} offered, {self.accepted} of them "
            f"accepted (at least {self.accepted_min:.0%} are needed)"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": self.is_ok,
            **{name: getattr(self, name) for name in ("offered", "accepted", "void", "saved", "dead_lettered", *KINDS)},
            "unanswered": self.unanswered,
            "unanswered_saved": self.unanswered_saved,
            "players": self.players,
            "findings": [str(finding) for finding in self.findings],
        }


def _after(at_ms: float | None, made_ms: float) -> str:
    return "never" if at_ms is None else f"+{at_ms - made_ms:.1f} ms"
