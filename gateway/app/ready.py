"""
ready.json: what runs, where, as which processes. Scripts wait for it, `status`, `stop`, `walk` and `loadtest` read it.

Promise: readers see a whole file or none (written aside, then renamed), only its owner can read it (it may hold
passwords), and it names only processes that live. It is rewritten after each restart of a child and removed on a clean
end; a file that a killed supervisor has left behind is recognised, because nobody holds the folder's lock any more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.app.errors import CommandError, ExitCode, UnusableFolder

FORMAT = 1
FILE_NAME = "ready.json"
FILE_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True)
class Ready:
    """The content of a ready.json."""

    version: str
    play_url: str
    ops_url: str
    redis_url: str
    database_url: str
    data_dir: str
    processes: Mapping[str, int]
    starting: Sequence[str] = ()
    """Processes that live and do not do their work yet: they were started again."""

    @property
    def supervisor_pid(self) -> int:
        return self.processes.get("supervisor", 0)

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "version": self.version,
                "play_url": self.play_url,
                "ops_url": self.ops_url,
                "redis_url": self.redis_url,
                "database_url": self.database_url,
                "data_dir": self.data_dir,
                "processes": dict(self.processes),
                "starting": list(self.starting),
            },
            indent=2,
        )


class NotRunning(CommandError):
    """No Wayhold runs where one was looked for."""

    exit_code = ExitCode.UNFIT


class NotReady(CommandError):
    """One runs, but it cannot be used just now."""

    exit_code = ExitCode.BAD_VERDICT


def write_ready(path: Path, ready: Ready) -> None:
    """Replace the file in one step. Raises UnusableFolder when it cannot be written."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.unlink(missing_ok=True)
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(ready.to_json() + "\n")
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise UnusableFolder(f"cannot write {path} ({error.strerror})", "choose another --ready-json FILE") from None


def remove_ready(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def read_ready(path: Path) -> Ready | None:
    """The file's content; None when there is none or it cannot be understood."""
    try:
        with path.open("rb") as file:
            found: Any = json.loads(file.read(FILE_BYTES_MAX))
        if found["format"] != FORMAT:
            return None
        return Ready(
            version=str(found["version"]),
            play_url=str(found["play_url"]),
            ops_url=str(found["ops_url"]),
            redis_url=str(found["redis_url"]),
            database_url=str(found["database_url"]),
            data_dir=str(found["data_dir"]),
            processes={str(name): int(pid) for name, pid in found["processes"].items()},
            starting=tuple(map(str, found.get("starting", ()))),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def find_running(data_dir: Path, ready_json: Path | None = None) -> Ready | None:
    """
    The Wayhold that runs on a data folder, or wrote `ready_json`; None when none does.

    A `dev` counts as running while it holds its folder's lock, a `serve` while its process lives.
    """
    ready = read_ready(ready_json if ready_json is not None else data_dir / FILE_NAME)
    if ready is None or not is_alive(ready.supervisor_pid):
        return None
    if ready.data_dir:
        # Imported here: `serve` has no data folder.
        from persistence.embedded.data_folder import find_owner_pid

        if find_owner_pid(ready.data_dir) != ready.supervisor_pid:
            return None
    return ready


def get_running(data_dir: Path, ready_json: Path | None = None) -> Ready:
    """As `find_running`. Raises NotRunning with the line to type, NotReady while it starts or stops."""
    running = find_running(data_dir, ready_json)
    if running is None and ready_json is None:
        from persistence.embedded.data_folder import find_owner_pid

        owner = find_owner_pid(data_dir)
        if owner is not None:
            raise NotReady(f"process {owner} is starting or stopping on {data_dir}", f"look into {data_dir / 'logs'}")
    if running is None:
        where = f"{ready_json} names no running process" if ready_json else f"no wayhold runs on {data_dir}"
        raise NotRunning(where, _how_to_start(None if ready_json else data_dir))
    return running


def is_alive(pid: int) -> bool:
    """Whether a process runs. One that has ended and was not fetched yet (in a container perhaps never) does not."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Only Linux can tell; elsewhere the answer is no."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[:1] == ["Z"]


def _how_to_start(data_dir: Path | None) -> str:
    """The line to type: in a source tree with the folder of every day, the one that a newcomer has typed before."""
    from gateway.app.typed import typed_command, typed_data_dir

    folder = "" if data_dir is None else typed_data_dir(data_dir)
    command = f"{typed_command()} dev{folder}"
    return f"start one: {command}" if folder or not is_source_tree() else f"start one: make run (or {command})"


def is_source_tree() -> bool:
    """Whether we are where `make run` works."""
    makefile = Path("Makefile")
    return makefile.is_file() and "wayhold dev" in makefile.read_text("utf-8", "replace")
