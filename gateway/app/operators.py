"""
Who may watch and help players: operators of the console and of the live-ops API.

  wayhold operators add ada --role admin
  wayhold operators token nightly-report --days 90
  wayhold operators disable ada

Roles, each with all that those before it may: viewer looks, support helps one player, operator also acts on everybody,
admin also erases and keeps the accounts. Passwords are asked for, or read from the first line of stdin with
--password-stdin. The database is that of the settings, else that of the `dev` that runs on the data folder.
"""

# The text above is shown by --help. Not here: what is a good password and how it is kept (persistence.operators).

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.app.checks import check_postgres
from gateway.app.errors import CommandError, ExitCode, SettingsError
from gateway.app.migrate import find_database_url
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.suggest import suggest
from persistence.cold.store import ColdStore
from persistence.operators import Account, BadAccount, Operators, Role, check_name, check_password

ROLES = [role.label for role in Role]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    subs = {
        "list": "who there is",
        "add": "a new operator, with a password or (--no-password) for tokens alone",
        "passwd": "another password; signs them out everywhere",
        "change": "another role, or whether they see exact places; signs them out everywhere",
        "disable": "they may do nothing any more, and their tokens neither",
        "enable": "a disabled operator may sign in again",
        "token": "a token for a program, shown this once",
        "tokens": "an operator's tokens",
        "revoke": "a token opens nothing any more",
    }
    for name, about in subs.items():
        sub = kinds.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".", allow_abbrev=False)
        if name == "revoke":
            sub.add_argument("token", metavar="ID", help="the token's id, as `operators tokens NAME` shows it")
        elif name != "list":
            sub.add_argument("name", metavar="NAME")
        if name in ("add", "change"):
            is_new = name == "add"
            sub.add_argument("--role", choices=ROLES, required=is_new, help="what they may do")
            sub.add_argument(
                "--precise-location",
                action=argparse.BooleanOptionalAction,
                default=False if is_new else None,
                help="see where players are to the metre (each look is logged); else some hundred metres",
            )
        if name == "add":
            sub.add_argument("--no-password", action="store_true", help="tokens only")
        if name in ("add", "passwd"):
            sub.add_argument("--password-stdin", action="store_true", help="read the password from stdin")
        if name == "token":
            sub.add_argument("--label", default="", help="what it is for")
            sub.add_argument("--days", type=int, metavar="N", help="how long it is good (1 to 3650; else for ever)")
        sub.add_argument("--json", action="store_true", help="machine-readable")
        add_setting_flags(sub, ["database_url", "data_dir"])


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    url = find_database_url(settings)
    if url is None:
        raise SettingsError("no database", "start `wayhold dev`, or set DATABASE_URL (or give --database-url)")
    if getattr(args, "days", None) is not None and not 1 <= args.days <= 3650:
        raise SettingsError("--days must be from 1 to 3650", "leave it out for a token without an end")
    try:
        if args.what == "add":
            check_name(args.name)
        password = _ask_password(args) if _needs_password(args) else None
        return asyncio.run(_run(url, args, password))
    except BadAccount as bad:
        raise SettingsError(str(bad), "choose another") from None


def _needs_password(args: argparse.Namespace) -> bool:
    return args.what == "passwd" or (args.what == "add" and not args.no_password)


def _ask_password(args: argparse.Namespace) -> str:
    if args.password_stdin:
        return check_password(sys.stdin.readline().rstrip("\r\n"), args.name)
    if not sys.stdin.isatty():
        raise SettingsError("there is no terminal to ask for a password", "give --password-stdin")
    password = check_password(getpass.getpass(f"password for {args.name}: "), args.name)
    if getpass.getpass("once more: ") != password:
        raise SettingsError("those two are not the same", "try again")
    return password


async def _run(url: str, args: argparse.Namespace, password: str | None) -> int:
    await check_postgres(url, is_migrated_later=False)
    cold = await ColdStore.open(url, pool_max=1)
    try:
        said = await _do(Operators(cold), args, password)
    finally:
        await cold.close()
    print(json.dumps(said, indent=2) if args.json else _speak(args.what, said))
    return ExitCode.OK


async def _do(operators: Operators, args: argparse.Namespace, password: str | None) -> Any:
    by = f"{os.environ.get('USER', '')}@cli".lstrip("@")[:64]
    match args.what:
        case "list":
            return [_show(account) for account in await operators.list_all()]
        case "add":
            role = Role.of(args.role)
            added = await operators.add(args.name, role, password=password, is_precise=args.precise_location, by=by)
            if added is None:
                raise CommandError(f"there is an operator {args.name}", "see wayhold operators list")
            await operators.note(by, "operator_added", details={"operator": args.name, "role": args.role})
            return _show(added)
        case "revoke":
            if not _is_uuid(args.token) or not await operators.revoke_token(args.token):
                raise CommandError("there is no such token, or it was revoked", "see wayhold operators tokens NAME")
            await operators.note(by, "token_revoked", details={"token": args.token})
            return {"id": args.token, "revoked": True}
    names = [account.name for account in await operators.list_all()]
    if args.name not in names:
        raise CommandError(
            f"there is no operator {args.name!r}{suggest(args.name, names)}", "see wayhold operators list"
        )
    match args.what:
        case "token":
            expires_at = None if args.days is None else datetime.now(UTC) + timedelta(days=args.days)
            made = await operators.add_token(args.name, args.label, expires_at)
            if made is None:
                raise CommandError(f"{args.name} is disabled", f"wayhold operators enable {args.name}")
            await operators.note(by, "token_added", details={"operator": args.name, "token": made[0]})
            return {"id": made[0], "token": made[1], "expires_at": _time(expires_at)}
        case "tokens":
            return [
                {
                    "id": token.id,
                    "label": token.label,
                    "created_at": _time(token.created_at),
                    "expires_at": _time(token.expires_at),
                    "revoked_at": _time(token.revoked_at),
                }
                for token in await operators.list_tokens(args.name)
            ]
    changes: dict[str, Any] = {}
    if args.what == "passwd":
        changes["password"] = password
    elif args.what == "change":
        changes = {"role": Role.of(args.role) if args.role else None, "is_precise": args.precise_location}
        if changes == {"role": None, "is_precise": None}:
            raise SettingsError("nothing to change", "give --role or --precise-location")
    else:
        changes["is_disabled"] = args.what == "disable"
    changed = await operators.change(args.name, **changes)
    assert changed is not None
    await operators.note(by, "operator_changed", details={"operator": args.name, "what": args.what})
    return _show(changed)


def _show(account: Account) -> dict[str, Any]:
    return {
        "name": account.name,
        "role": account.role.label,
        "precise_location": account.is_precise,
        "has_password": account.has_password,
        "tokens": account.tokens,
        "created_at": _time(account.created_at),
        "disabled_at": _time(account.disabled_at),
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _speak(what: str, said: Any) -> str:
    if what == "token":
        until = f", good until {said['expires_at']}" if said["expires_at"] else ""
        return f"{said['token']}\n(keep it now: it is shown this once{until}; its id is {said['id']})"
    if what == "revoke":
        return "revoked"
    if isinstance(said, dict):
        state = "disabled" if said["disabled_at"] else "active"
        return f"{said['name']}: {said['role']}, {state}, {'password' if said['has_password'] else 'tokens only'}"
    if not said:
        return "none" if what == "tokens" else "no operators yet: wayhold operators add NAME --role admin"
    columns = [name for name in said[0] if name != "has_password"]
    rows = [[_cell(row[name]) for name in columns] for row in said]
    widths = [max(len(name), *(len(row[at]) for row in rows)) for at, name in enumerate(columns)]
    lines = [columns, *rows]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _cell(value: Any) -> str:
    return "" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)
