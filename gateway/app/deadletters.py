"""
Look at what Postgres refused: list, replay or drop dead letters; list or release progress in quarantine.

  list                  dead letters, newest first, and progress in quarantine
  replay ID… | --all    write letters as the rows they should have been, once the cause is mended
  drop ID…              let go of letters for ever
  release PLAYER EXPERIENCE   flush a progress again that was put aside

The stores are those of the settings, else those of the `dev` that runs on the data folder; there the audit log says
what was done and why. The exit code is 1 when something could not be done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import uuid

from gateway.app.errors import ExitCode, SettingsError
from gateway.app.operate.api import Api, Refused, find_local_api
from gateway.app.operate.output import plain
from gateway.app.operate.to_the_end import act_to_the_end
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.store_urls import get_store_urls
from persistence.dead_letters import GONE, DeadLetter, DeadLetters, ReplayReport
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey

LIST_MAX = 1000
DEADLINE_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "replay", "drop", "release"])
    parser.add_argument("what", nargs="*", metavar="ID", help="letters by id; for release: PLAYER EXPERIENCE")
    parser.add_argument("--all", action="store_true", help="replay every letter there is")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help=f"how many to list (50, at most {LIST_MAX})")
    parser.add_argument("--reason", default="wayhold deadletters", metavar="TEXT", help="why, for the audit log")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_setting_flags(parser, ["redis_url", "database_url", "data_dir", "redis_partitions"])


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    match args.action:
        case "list":
            return asyncio.run(_list(settings, max(1, min(args.limit, LIST_MAX)), args.json))
        case "release":
            if len(args.what) != 2:
                raise SettingsError("release needs a player and an experience", "see wayhold deadletters --help")
            key = ProgressKey(_uuid(args.what[0]), args.what[1])
            return _release(settings, key, args.reason)
        case "replay":
            if bool(args.what) == args.all:
                raise SettingsError("no letters were named", "give their ids, or --all")
            return asyncio.run(_replay(settings, [_uuid(text) for text in args.what], args.json, args.reason))
        case _:
            if not args.what:
                raise SettingsError("no letters were named", "give their ids")
            return asyncio.run(_drop(settings, [_uuid(text) for text in args.what], args.reason))


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise SettingsError(f"{text!r} is no UUID", "ids are shown by wayhold deadletters list") from None


async def _list(settings: Settings, limit: int, as_json: bool) -> int:
    redis_url, database_url = get_store_urls(settings)
    async with DeadLetters(database_url) as letters:
        found = await letters.list_newest(limit)
    hot = await HotStore.open(redis_url, partitions=settings.redis_partitions)
    try:
        quarantined = await hot.list_quarantined(limit)
    finally:
        await hot.close()
    if as_json:
        for letter in found:
            print(json.dumps(_as_json(letter)))
        for key, reason in quarantined:
            print(
                json.dumps({"kind": "quarantine", "player": key.user_id, "experience": key.experience, "why": reason})
            )
        return ExitCode.OK
    for letter in found:
        print(
            f"{letter.id}  {letter.created_at:%Y-%m-%d %H:%M:%S}Z  {letter.user_id}  {letter.experience}  "
            f"{plain(letter.device)} seq {letter.seq}  {plain(letter.event_type)} {plain(letter.content_id or '')}\n"
            f"    {plain(letter.reason)}"
        )
    for key, reason in quarantined:
        print(f"quarantine  {key.user_id}  {key.experience}\n    {plain(reason)}")
    if not found and not quarantined:
        print("no dead letters, nothing in quarantine")
    return ExitCode.OK


def _as_json(letter: DeadLetter) -> dict[str, object]:
    return {
        "kind": "dead_letter",
        "id": letter.id,
        "player": letter.user_id,
        "experience": letter.experience,
        "device": letter.device,
        "seq": letter.seq,
        "event_type": letter.event_type,
        "content_id": letter.content_id,
        "data": json.loads(letter.data_json),
        "why": letter.reason,
        "sqlstate": letter.sqlstate,
        "created_at": letter.created_at.isoformat(),
    }


async def _replay(settings: Settings, ids: list[str], as_json: bool, reason: str) -> int:
    _, database_url = get_store_urls(settings)
    async with DeadLetters(database_url) as letters:
        if not ids:
            ids = [letter.id for letter in await letters.list_newest(LIST_MAX)]
        api = find_local_api(settings)
        report = await letters.replay(ids) if api is None else _replay_by_api(api, ids, reason)
    if as_json:
        print(json.dumps({"replayed": report.replayed, "refused": report.refused, "absent": report.absent}))
    else:
        print(f"replayed {report.replayed}, refused again {len(report.refused)}, not there {len(report.absent)}")
        for letter_id, why in report.refused:
            print(f"  {letter_id}  {plain(why)}")
    return ExitCode.BAD_VERDICT if report.refused or report.absent else ExitCode.OK


def _replay_by_api(api: Api, ids: list[str], reason: str) -> ReplayReport:
    report = ReplayReport(0, [], [])
    for letter_id in ids:
        answer = act_to_the_end(api, "replay_dead_letter", {}, {"id": letter_id}, reason, DEADLINE_S)
        if answer["state"] == "done":
            report.replayed += 1
        elif answer.get("message") == GONE:
            report.absent.append(letter_id)
        else:
            report.refused.append((letter_id, str(answer.get("message"))))
    return report


async def _drop(settings: Settings, ids: list[str], reason: str) -> int:
    api = find_local_api(settings)
    if api is not None:
        answers = [act_to_the_end(api, "drop_dead_letter", {}, {"id": each}, reason, DEADLINE_S) for each in ids]
        dropped = sum(answer["state"] == "done" for answer in answers)
    else:
        _, database_url = get_store_urls(settings)
        async with DeadLetters(database_url) as letters:
            dropped = await letters.drop(ids)
    print(f"dropped {dropped}")
    return ExitCode.OK if dropped == len(ids) else ExitCode.BAD_VERDICT


def _release(settings: Settings, key: ProgressKey, reason: str) -> int:
    api = find_local_api(settings)
    if api is not None:
        target = {"player": key.user_id, "experience": key.experience}
        try:
            answer = act_to_the_end(api, "release_quarantine", target, {}, reason, DEADLINE_S)
            is_released = answer["state"] == "done"
        except Refused:
            is_released = False  # nobody knows this player
    else:
        is_released = asyncio.run(_release_directly(settings, key))
    print("it is flushed again now" if is_released else "it was not in quarantine")
    return ExitCode.OK if is_released else ExitCode.BAD_VERDICT


async def _release_directly(settings: Settings, key: ProgressKey) -> bool:
    redis_url, _ = get_store_urls(settings)
    hot = await HotStore.open(redis_url, partitions=settings.redis_partitions)
    try:
        return await hot.release_quarantine(key)
    finally:
        await hot.close()
