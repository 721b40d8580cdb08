"""
Where the stores of a command are that works on them directly: those of the settings, else those of the running `dev`.
"""

from __future__ import annotations

from gateway.app.errors import SettingsError
from gateway.app.ready import find_running
from gateway.app.settings import Settings


def get_store_urls(settings: Settings) -> tuple[str, str]:
    """(Redis, Postgres). Raises SettingsError when one of them is nowhere to be found."""
    redis_url, database_url = settings.redis_url, settings.database_url
    if redis_url is None or database_url is None:
        running = find_running(settings.data_dir)
        if running is not None:
            redis_url, database_url = redis_url or running.redis_url, database_url or running.database_url
    if redis_url is None or database_url is None:
        raise SettingsError(
            "no stores to work on", "start `wayhold dev`, or set REDIS_URL and DATABASE_URL (or give the flags)"
        )
    return redis_url, database_url
