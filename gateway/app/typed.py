"""How the user called us, for the lines that say what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def typed_command() -> str:
    """`wayhold` when the shell finds it under that name, else the path that works from here."""
    called = Path(sys.argv[0])
    if called.name != "wayhold":
        return f"{_short(Path(sys.executable))} -m gateway.cli"
    found = shutil.which("wayhold")
    if found is not None and _is_same(Path(found), called):
        return "wayhold"
    return _short(called)


def typed_data_dir(data_dir: Path) -> str:
    """` --data-dir X`, or nothing for the folder that every command looks into by itself."""
    if data_dir.absolute() == Path(".data").absolute() or os.environ.get("WAYHOLD_DATA_DIR"):
        return ""
    return f" --data-dir {_short(data_dir)}"


def _short(path: Path) -> str:
    with_cwd = path.absolute()
    try:
        return shlex.quote(str(with_cwd.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(with_cwd))


def _is_same(left: Path, right: Path) -> bool:
    try:
        return left.samefile(right)
    except OSError:
        return False
