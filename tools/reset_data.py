"""
Empty the data folder of `wayhold dev`: every player, every log, the development secret.

    python tools/reset_data.py        WAYHOLD_DATA_DIR (default .data)

Refuses while a supervisor owns the folder (exit 4). Servers that you gave by URL are not touched.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from persistence.embedded.data_folder import DataFolder
from persistence.embedded.errors import DataFolderBusy, EmbeddedError

# What `dev` makes in its folder. Anything else in there is somebody's own and stays.
OURS = ("logs", "run", "walk", "valkey.lock", "postgres.lock", "jwt_secret", "ready.json", "urls.json")


def main() -> int:
    path = Path(os.environ.get("WAYHOLD_DATA_DIR") or ".data")
    if not path.exists():
        print(f"reset-data: {path} does not exist, nothing to do")
        return 0
    try:
        # A full disk is a good reason to be here.
        with DataFolder(path, disk_free_bytes_min=0) as folder:
            folder.remove_server_data()
            for name in OURS:
                entry = folder.path / name
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink(missing_ok=True)
            left = sorted(entry.name for entry in folder.path.iterdir() if entry.name != "lock")
    except EmbeddedError as error:
        print(f"reset-data: {error}", file=sys.stderr)
        return 4 if isinstance(error, DataFolderBusy) else 2
    print(f"reset-data: {path} is empty" + (f" but for {', '.join(left)}, which Wayhold has not made" if left else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
