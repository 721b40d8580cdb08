"""
Bring the database to this release's schema; with --check only say whether it is.

The database is that of the settings (DATABASE_URL), else that of the `dev` that runs on the data folder.
With --check the exit code is 0 when there is nothing to do and 1 when there is.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from gateway.app.checks import check_postgres, get_postgres_facts
from gateway.app.errors import ExitCode, SettingsError, UnfitDependency
from gateway.app.ready import find_running
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings

DEADLINE_S = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="change nothing, say what is missing")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_setting_flags(parser, ["database_url", "data_dir"])


def run(args: argparse.Namespace) -> int:
    url = find_database_url(load_settings(args).settings)
    if url is None:
        raise SettingsError("no database to migrate", "set DATABASE_URL or give --database-url")
    return asyncio.run(_check(url, args.json) if args.check else _migrate(url, args.json))


def find_database_url(settings: Settings) -> str | None:
    """The database of the settings, else of the running `dev`."""
    if settings.database_url is not None:
        return settings.database_url
    running = find_running(settings.data_dir)
    return running.database_url if running else None


async def _check(url: str, as_json: bool) -> int:
    facts = await get_postgres_facts(url)
    if as_json:
        print(
            json.dumps(
                {
                    "applied": facts.schema_applied,
                    "newest": facts.schema_newest,
                    "pending": list(facts.schema_pending),
                    "is_current": facts.is_schema_current,
                }
            )
        )
    elif facts.is_schema_current:
        print(f"schema {facts.schema_applied} is current")
    elif facts.schema_applied < facts.schema_newest:
        print(f"schema {facts.schema_applied}, to apply: {', '.join(facts.schema_pending)}; run: wayhold migrate")
    if facts.schema_applied > facts.schema_newest:
        await check_postgres(url, is_migrated_later=True)  # raises: it has the words for it
    return ExitCode.OK if facts.is_schema_current else ExitCode.BAD_VERDICT


async def _migrate(url: str, as_json: bool) -> int:
    from persistence.cold.migrate import migrate
    from persistence.errors import PersistenceError, StoreUnfit

    await check_postgres(url, is_migrated_later=True)
    try:
        applied = await asyncio.wait_for(migrate(url), DEADLINE_S)
    except StoreUnfit as error:
        raise UnfitDependency(f"the database cannot be migrated: {error.reason}", error.advice) from None
    except (PersistenceError, TimeoutError) as error:
        raise UnfitDependency(
            f"the migration stopped: {error}", "what was applied stays; run it again: wayhold migrate"
        ) from None
    gap = (await get_postgres_facts(url)).append_only_gap
    if as_json:
        print(json.dumps({"applied": applied, "append_only_gap": gap}))
    else:
        print(f"applied {', '.join(applied)}" if applied else "nothing to do: the schema is current")
        if gap:
            print(f"events are not append-only: {gap}; migrate once as a login that may create roles")
    return ExitCode.OK
