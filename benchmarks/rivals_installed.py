"""
What the rivals need is installed when they are asked for, beside them, into folders that git does not see.

Promise: versions are pinned (`rivals/package.json`, `rivals/requirements.txt`), the machine's own package settings are
used, and a rival whose tools or packages cannot be had is left out with the reason.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "rivals"
NODE_PROGRAMS = {"ws", "socketio", "colyseus"}
INSTALL_DEADLINE_S = 300.0
NODE_MAJOR_MIN = 20


def find_unfit(name: str) -> str:
    """Why a rival cannot run here, or nothing."""
    if name not in NODE_PROGRAMS:
        return ""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return f"node {NODE_MAJOR_MIN} or later and npm are not installed"
    shown = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout
    major = shown.strip().lstrip("v").partition(".")[0]
    if not major.isdigit() or int(major) < NODE_MAJOR_MIN:
        return f"node {NODE_MAJOR_MIN} or later is needed, this is {shown.strip()}"
    return ""


def install(names: set[str]) -> dict[str, str]:
    """Install what these rivals need; answers why not for those that cannot run."""
    refused: dict[str, str] = {}
    if names & NODE_PROGRAMS:
        # Nothing of theirs has to be built: what is compiled comes ready made in the packages.
        why = _run(
            FOLDER / "node_modules" / ".wayhold",
            (FOLDER / "package.json").read_text(),
            [
                "npm",
                "install",
                "--no-package-lock",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--no-update-notifier",
            ],
        )
        refused |= dict.fromkeys(names & NODE_PROGRAMS, why) if why else {}
    if "fastapi" in names:
        requirements = FOLDER / "requirements.txt"
        why = _run(
            FOLDER / ".python" / ".wayhold",
            requirements.read_text() + sys.version,
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"),
                *("--target", str(FOLDER / ".python"), "-r", str(requirements)),
            ],
        )
        refused |= {"fastapi": why} if why else {}
    return refused


def _run(stamp: Path, wanted: str, command: list[str]) -> str:
    """Run an installer unless the stamp says that it has been; answers why it failed."""
    if stamp.exists() and stamp.read_text() == wanted:
        return ""
    try:
        done = subprocess.run(
            command, cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {type(error).__name__}"
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no word"]
        return f"{' '.join(command[:3])} failed: {last[0][:200]}"
    stamp.write_text(wanted)
    return ""
