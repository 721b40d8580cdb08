"""
List, show and check the definitions of experiences.

  list          every definition that `serve` and `dev` would use with the present settings
  show NAME     one of them, in full
  check [FILE]  whether files are good definitions; without FILE those of the settings

The exit code is 2 when a definition cannot be used; the message names the file, the key and what to write instead.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway.app.errors import ExitCode, SettingsError
from gateway.app.experience_files import SUFFIX, list_files, load_experiences, read_definition
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.suggest import suggest
from protocol.experience import ExperienceDefinition


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "show", "check"])
    parser.add_argument("what", nargs="*", metavar="NAME|FILE", help="show: an experience; check: files")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_setting_flags(parser, ["experiences_dir"])


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    match args.action:
        case "check" if args.what:
            definitions = [read_definition(Path(file), name=_id_of(Path(file))) for file in args.what]
            _say_checked(args.what, definitions, args.json)
        case "check":
            files = list_files(settings)
            definitions = [read_definition(file, name=name) for name, file in files.items()]
            _say_checked([str(file) for file in files.values()], definitions, args.json)
        case "show":
            if len(args.what) != 1:
                raise SettingsError("show needs one experience", "wayhold experiences list names them")
            files = list_files(settings)
            if args.what[0] not in files:
                raise SettingsError(
                    f"there is no definition of {args.what[0]!r}{suggest(args.what[0], files)}",
                    "wayhold experiences list names those that there are",
                )
            definition = read_definition(files[args.what[0]], name=args.what[0])
            _print_json(as_json(definition)) if args.json else _show(definition)
        case _:
            if args.what:
                raise SettingsError("list takes no names", "wayhold experiences show NAME shows one")
            found = load_experiences(settings)
            _print_json([as_json(one) for one in found.values()]) if args.json else _list(found)
    return ExitCode.OK


def as_json(definition: ExperienceDefinition) -> dict[str, Any]:
    """A definition as the console and scripts read it: the keys of its file, collectibles as an object."""
    shown = asdict(definition)
    shown["id"] = shown.pop("experience_id")
    for waypoint in shown["waypoints"]:
        waypoint["collectibles"] = dict(waypoint["collectibles"])
    if definition.completion is not None:
        shown["completion"] = {
            "by_event": definition.completion.by_event,
            "required_members": list(definition.completion.required_members),
            "required_counters": dict(definition.completion.required_counters),
        }
    return shown


def _id_of(file: Path) -> str | None:
    """What the file is named after; a file of another name (a draft) may hold any id."""
    return file.name.removesuffix(SUFFIX) if file.name.endswith(SUFFIX) else None


def _print_json(shown: Any) -> None:
    print(json.dumps(shown, indent=2, ensure_ascii=False))


def _say_checked(files: list[str], definitions: list[ExperienceDefinition], is_json: bool) -> None:
    if is_json:
        _print_json([{"file": file, "id": one.experience_id} for file, one in zip(files, definitions, strict=True)])
        return
    for file, one in zip(files, definitions, strict=True):
        print(f"ok  {file}  {_counts(one)}")
    if not files:
        print("no definitions: every experience is played as it is sent")


def _list(found: dict[str, ExperienceDefinition]) -> None:
    width = max(map(len, found), default=0)
    for name, definition in found.items():
        print(f"{name:<{width}}  {definition.name}: {_counts(definition)}")
    if not found:
        print("no definitions: every experience is played as it is sent")


def _show(definition: ExperienceDefinition) -> None:
    print(f"{definition.experience_id}  {definition.name}")
    print(f"  {_counts(definition)}")
    print(f"  unknown content: {definition.unknown_content}")
    print(f"  completion: {_say_completion(definition)}")
    print(f"  locations: {_say_locations(definition)}")
    days = definition.privacy.event_retention_days
    print(f"  events: {'kept for ever' if days is None else f'removed after {days} days'}")
    for waypoint in definition.waypoints:
        print(f"  waypoint     {waypoint.lat:>10.6f} {waypoint.lng:>11.6f}  {waypoint.id}  {waypoint.name}")
    for kind, things in (
        ("quest", definition.quests),
        ("item", definition.items),
        ("achievement", definition.achievements),
    ):
        for thing in things:
            print(f"  {kind:<11}  {thing.id}  {thing.name}")


def _counts(definition: ExperienceDefinition) -> str:
    return (
        f"{len(definition.waypoints)} waypoints, {len(definition.quests)} quests, {len(definition.items)} items, "
        f"{len(definition.achievements)} achievements"
    )


def _say_completion(definition: ExperienceDefinition) -> str:
    rule = definition.completion
    if rule is None:
        return "by an experience_completed event"
    count = len(rule.required_members) + len(rule.required_counters)
    return f"{count} things" + (", or an experience_completed event" if rule.by_event else "")


def _say_locations(definition: ExperienceDefinition) -> str:
    privacy = definition.privacy
    if not privacy.keep_location:
        return "not kept"
    if privacy.location_decimals is not None:
        return f"kept to {privacy.location_decimals} decimals"
    return "kept as sent" if privacy.precision_m is None else f"kept to {privacy.precision_m:g} m"
