"""
What can stop a command that is not the program's own fault, with the exit code that scripts rely on.

Promise: each of these becomes one line on stderr (`wayhold COMMAND: what is wrong; what to do`), never a traceback.
An exception that is not one of these is a bug and keeps its traceback.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    BAD_VERDICT = 1  # it ran, and the answer is bad
    USAGE = 2  # what was asked for cannot be: a flag, a setting, a port that is taken, a folder that is not ours
    UNFIT = 3  # something Wayhold needs is missing or unfit: a server, its version or policy, the schema, disk space
    BUSY = 4  # another Wayhold owns the data folder
    INTERRUPTED = 130


class CommandError(Exception):
    """One line for the user: `what` is wrong, and the `next_step` to take."""

    exit_code: ExitCode = ExitCode.BAD_VERDICT

    def __init__(self, what: str, next_step: str = "") -> None:
        self.what = " ".join(what.split())
        self.next_step = " ".join(next_step.split())
        super().__init__(f"{self.what}; {self.next_step}" if self.next_step else self.what)


class SettingsError(CommandError):
    """A flag, an environment variable or a line of the settings file is wrong."""

    exit_code = ExitCode.USAGE


class UnusableFolder(CommandError):
    """The data folder cannot be what was asked for: not ours, not writable, not a folder."""

    exit_code = ExitCode.USAGE


class PortTaken(CommandError):
    """Another program listens where we should."""

    exit_code = ExitCode.USAGE


class UnfitDependency(CommandError):
    """A server, its version or policy, the schema, the disk: missing or unfit. Nothing was changed."""

    exit_code = ExitCode.UNFIT


class ChildGaveUp(CommandError):
    """A process of ours died again and again; `log_tail` is what it said last."""

    exit_code = ExitCode.UNFIT

    def __init__(self, what: str, next_step: str, log_tail: list[str]) -> None:
        super().__init__(what, next_step)
        self.log_tail = log_tail


class DataFolderBusy(CommandError):
    """Another Wayhold owns the data folder."""

    exit_code = ExitCode.BUSY


def find_command_error(error: Exception) -> CommandError | None:
    """The same fault as one of ours, if it is one that a user or a server caused; None for a bug."""
    if isinstance(error, CommandError):
        return error
    # Imported here: most commands never touch the embedded servers, and nothing failed yet.
    from persistence.embedded.errors import ChildFailed, DataFolderUnusable, EmbeddedError
    from persistence.embedded.errors import DataFolderBusy as FolderBusy
    from persistence.errors import PersistenceError

    if isinstance(error, FolderBusy):
        return DataFolderBusy(error.reason, error.advice)
    if isinstance(error, DataFolderUnusable):
        return UnusableFolder(error.reason, error.advice)
    if isinstance(error, ChildFailed):
        return ChildGaveUp(error.reason, error.advice or "its last lines stand above", error.log_tail)
    if isinstance(error, EmbeddedError):
        return UnfitDependency(error.reason, error.advice)
    if isinstance(error, PersistenceError):
        return UnfitDependency(str(error))
    return None
