"""
Verify: everything in Postgres that follows from the events, computed again and compared with what is there.

`verify` looks and changes nothing, `repair` mends totals and rollups; `wayhold verify` is both for a person.
"""

from persistence.verify.findings import CHECKS, Check, Difference, Findings
from persistence.verify.repair import RepairReport, mend, repair
from persistence.verify.verification import VerifyProgress, look, verify

__all__ = [
    "CHECKS",
    "Check",
    "Difference",
    "Findings",
    "RepairReport",
    "VerifyProgress",
    "look",
    "mend",
    "repair",
    "verify",
]
