"""
`dev --upgrade-data`: the data of another major version of Postgres becomes data of the installed one.

Not here: how (persistence.embedded.upgrade).
"""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.app.dev_folder import check_is_ours
from gateway.app.errors import SettingsError
from gateway.app.settings import Settings
from gateway.app.version import get_version
from persistence.embedded.binaries import get_postgres
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.upgrade import find_data_major, finish_upgrade, get_old_postgres, upgrade


def upgrade_data(settings: Settings, old_postgres: Path | None) -> None:
    """
    Convert the data folder of these settings; nothing happens where there is nothing to convert.

    Raises:
        CommandError, EmbeddedError, PersistenceError: it could not be done, and nothing was changed.
    """
    if settings.database_url is not None:
        raise SettingsError("--upgrade-data is for the Postgres of `dev`, and DATABASE_URL is given", "unset it")
    path = settings.data_dir.absolute()
    check_is_ours(path)
    new = get_postgres()
    with DataFolder(path, disk_free_bytes_min=settings.disk_free_min_bytes):
        finish_upgrade(path)
        major = find_data_major(path)
        if major is None or major == new.major:
            what = "no data yet" if major is None else f"of PostgreSQL {major} already"
            _say(f"nothing to upgrade: {path} holds {what}")
            return
        old = get_old_postgres(path, major, old_postgres, _say)
        kept = upgrade(path, old, new, get_version(), _say)
        _say(f"upgraded to PostgreSQL {new.version}; the old data is in {kept}: remove it when you need it no more")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
