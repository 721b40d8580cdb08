"""
Compute everything in Postgres that follows from the events again, and say what differs.

  wayhold verify                 look; nothing is changed, flushers may run
  wayhold verify --repair        mend totals, levels, completion and rollups, then look again

States and streams that differ are told and never mended. The exit code is 0 without drift and 1 with. The database is
that of the settings, else that of the `dev` that runs on the data folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from gateway.app.checks import check_postgres
from gateway.app.errors import ExitCode, SettingsError, UnfitDependency
from gateway.app.experience_files import load_experiences
from gateway.app.level_rule import LEVEL_SETTINGS, make_level_rule
from gateway.app.migrate import find_database_url
from gateway.app.settings_source import add_setting_flags, load_settings
from persistence.errors import StoreUnavailable
from persistence.flusher.levels import LevelRule
from persistence.verify import CHECKS, Findings, RepairReport, VerifyProgress, repair, verify
from protocol.experience import ExperienceDefinition

TOLD_EVERY_S = 1.0
ROWS_DEFAULT, ROWS_MAX = 10, 10_000

SETTINGS = ("database_url", "data_dir", "experiences_dir", *LEVEL_SETTINGS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="mend totals, levels, completion and rollups")
    parser.add_argument(
        "--rows", type=int, default=ROWS_DEFAULT, metavar="N", help=f"differences told of each check [{ROWS_DEFAULT}]"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_setting_flags(parser, SETTINGS)


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    url = find_database_url(settings)
    if url is None:
        raise SettingsError("no database to verify", "set DATABASE_URL or give --database-url")
    if not 0 <= args.rows <= ROWS_MAX:
        raise SettingsError(f"--rows {args.rows} is not possible", f"give a number from 0 to {ROWS_MAX:,}")
    levels, experiences = make_level_rule(settings), load_experiences(settings)
    asyncio.run(check_postgres(url, is_migrated_later=False))
    try:
        findings, mended = asyncio.run(_look(url, levels, experiences, args.rows, must_repair=args.repair))
    except StoreUnavailable as error:
        raise UnfitDependency(
            f"the verification stopped: {error}", "look at the server with wayhold doctor, then run it again"
        ) from None
    if args.json:
        print(_to_json(findings, mended))
    else:
        print(_to_table(findings, mended))
    return ExitCode.OK if not findings.drift else ExitCode.BAD_VERDICT


async def _look(
    url: str, levels: LevelRule, experiences: Mapping[str, ExperienceDefinition], rows: int, *, must_repair: bool
) -> tuple[Findings, RepairReport | None]:
    teller = _Teller()
    findings = await verify(url, levels=levels, experiences=experiences, rows_max=rows, on_progress=teller.tell)
    if not must_repair or not findings.drift:
        teller.end()
        return findings, None
    mended = await repair(url, findings, levels=levels, experiences=experiences, on_progress=teller.tell)
    findings = await verify(url, levels=levels, experiences=experiences, rows_max=rows, on_progress=teller.tell)
    teller.end()
    return findings, mended


class _Teller:
    """Says on a terminal how far it got, about once a second."""

    def __init__(self) -> None:
        self._next = time.monotonic() + TOLD_EVERY_S
        self._has_told = False

    def tell(self, progress: VerifyProgress) -> None:
        now = time.monotonic()
        if now < self._next or not progress.part or not sys.stderr.isatty():
            return
        self._next = now + TOLD_EVERY_S
        self._has_told = True
        share = f" {progress.done:,} of about {progress.of:,}" if progress.of > 1 else ""
        print(f"\r\x1b[Klooking at {progress.part}{share}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._has_told:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _to_table(findings: Findings, mended: RepairReport | None) -> str:
    lines = []
    width = max(len(check.name) for check in CHECKS)
    for check in CHECKS:
        count = findings.counts[check.name]
        lines.append(f"{check.name:<{width}}  {count:>9,}  {check.about}")
    header = f"{'check':<{width}}  {'different':>9}  compares"
    lines = [header, *lines]
    for check in CHECKS:
        first = findings.first[check.name]
        if not first:
            continue
        count = findings.counts[check.name]
        lines += ["", check.name if count == len(first) else f"{check.name}: the first {len(first)} of {count:,}"]
        for difference in first:
            where = ", ".join(f"{name} {_shown(value)}" for name, value in difference.where.items())
            lines.append(
                f"  {where}: {difference.what} is {_shown(difference.found)}, should be {_shown(difference.expected)}"
            )
    lines.append("")
    if findings.unknowable:
        lines.append(f"{findings.unknowable:,} progress lost old events to their age: only bounds are known of those.")
    if mended is not None:
        lines.append(f"repaired: profiles={mended.profiles} progress={mended.progress} rollups={mended.experiences}")
    elif any(findings.counts[check.name] for check in CHECKS if check.is_repairable):
        lines.append("Totals, levels, completion and rollups can be mended: wayhold verify --repair")
    lines.append(_verdict(findings))
    return "\n".join(lines)


def _verdict(findings: Findings) -> str:
    word = "FAILED" if findings.drift else "ok"
    return (
        f"verify: {word} players={findings.players} progress={findings.progress} events={findings.events} "
        f"drift={findings.drift}"
    )


def _to_json(findings: Findings, mended: RepairReport | None) -> str:
    return json.dumps(
        {
            "ok": not findings.drift,
            "players": findings.players,
            "progress": findings.progress,
            "events": findings.events,
            "progress_without_old_events": findings.unknowable,
            "drift": findings.drift,
            "repaired": None
            if mended is None
            else {"profiles": mended.profiles, "progress": mended.progress, "experiences": mended.experiences},
            "checks": [
                {
                    "check": check.name,
                    "different": findings.counts[check.name],
                    "is_repairable": check.is_repairable,
                    "first": [
                        {
                            "where": {name: _plain(value) for name, value in difference.where.items()},
                            "what": difference.what,
                            "found": _plain(difference.found),
                            "expected": _plain(difference.expected),
                        }
                        for difference in findings.first[check.name]
                    ],
                }
                for check in CHECKS
            ],
        },
        ensure_ascii=False,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, UUID) or not isinstance(value, str | int | float | list | None):
        return str(value)
    return value


def _shown(value: Any) -> str:
    """For a terminal: what players' clients made up shows no control character."""
    if value is None:
        return "missing"
    text = str(_plain(value))[:200]
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
