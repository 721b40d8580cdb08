"""
What can be wrong with the embedded servers, each as one line that ends with the next step.

Every error here is for a person at a terminal. `str(error)` is the whole message; the command line prints it and
picks the exit code by class (`DataFolderBusy` is 4, the rest are 3).
"""

from __future__ import annotations


class EmbeddedError(Exception):
    """The family: a reason (what is wrong) and an advice (what to do now)."""

    def __init__(self, reason: str, advice: str = "") -> None:
        self.reason = reason
        self.advice = advice
        super().__init__(reason, advice)

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}" if self.advice else self.reason


class EmbeddedUnfit(EmbeddedError):
    """This machine, folder or installation cannot run the servers as it is. Nothing was changed."""


class DataFolderBusy(EmbeddedError):
    """Another supervisor holds the data folder's lock."""


class ChildFailed(EmbeddedError):
    """A child process could not be started, or ended before it was ready."""

    def __init__(self, name: str, reason: str, log_tail: list[str] | None = None, advice: str = "") -> None:
        self.name = name
        self.log_tail = log_tail or []
        super().__init__(f"{name} {reason}", advice)

    def __str__(self) -> str:
        last = next((line for line in reversed(self.log_tail) if line.strip()), "")
        return super().__str__() + (f" (its log ends with: {last.strip()[-300:]})" if last else "")
