"""
What can be wrong with the embedded servers, each as one line that ends with the next step.

Every error here is for a person at a terminal: `str(error)` is the whole message. The command line picks the exit
code by class: `DataFolderBusy` 4, `DataFolderUnusable` 2 (the folder that was asked for), the rest 3.
"""

from __future__ import annotations

import re

CAUSE = re.compile(r"fatal|panic|error|bad file|can't|could not|denied", re.IGNORECASE)


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


class DataFolderUnusable(EmbeddedUnfit):
    """The data folder cannot be written to, or its file system does not keep what the servers rely on."""


class DataFolderBusy(EmbeddedError):
    """Another supervisor holds the data folder's lock."""


class ChildFailed(EmbeddedError):
    """A child process could not be started, or ended before it was ready."""

    def __init__(self, name: str, reason: str, log_tail: list[str] | None = None, advice: str = "") -> None:
        self.name = name
        self.log_tail = log_tail or []
        super().__init__(f"{name} {reason}", advice)

    def __str__(self) -> str:
        lines = [line for line in self.log_tail if line.strip()]
        # The last words are often only that it is going down; why stands a few lines earlier.
        causes = [line for line in lines if CAUSE.search(line)]
        last = (causes or lines or [""])[-1]
        return super().__str__() + (f" (its log ends with: {last.strip()[-300:]})" if last else "")
