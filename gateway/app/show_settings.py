"""
Print every setting: its value, where the value came from, what it does. Secrets are masked.

Reads settings as `serve` would; with --dev as `dev` would. With --explain each setting's bounds and what gets worse
when it is raised or lowered.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gateway.app.errors import ExitCode
from gateway.app.settings import Setting, list_settings
from gateway.app.settings_source import LoadedSettings, add_setting_flags, load_settings, shown_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--dev", action="store_true", help="with the defaults of `wayhold dev`")
    parser.add_argument("--explain", action="store_true", help="what each setting is for")
    add_setting_flags(parser)


def run(args: argparse.Namespace) -> int:
    loaded = load_settings(args, for_dev=args.dev)
    if args.dev and not (loaded.is_given("jwt_secret") or loaded.is_given("jwt_secret_file")):
        from gateway.app.dev_folder import SECRET_FILE

        # What `dev` makes when nobody gives it one.
        loaded = loaded.with_values("default (dev)", jwt_secret_file=loaded.settings.data_dir / SECRET_FILE)
    if args.json:
        print(json.dumps({setting.name: _as_json(setting, loaded) for setting in list_settings()}, indent=2))
        return ExitCode.OK
    rows = [
        (setting, shown_value(setting, getattr(loaded.settings, setting.name)), loaded.sources[setting.name])
        for setting in list_settings()
    ]
    name_width = max(len(setting.name) for setting, _value, _source in rows)
    value_width = min(40, max(len(value) for _setting, value, _source in rows))
    for setting, value, source in rows:
        print(f"{setting.name:<{name_width}}  {value:<{value_width}}  {source}")
        if args.explain:
            for line in _explain(setting):
                print(f"    {line}")
    return ExitCode.OK


def _as_json(setting: Setting, loaded: LoadedSettings) -> dict[str, Any]:
    value = getattr(loaded.settings, setting.name)
    if setting.is_secret or isinstance(value, Path):
        value = None if value is None else shown_value(setting, value)
    return {"value": value, "source": loaded.sources[setting.name], "env": setting.env, "flag": setting.flag or None}


def _explain(setting: Setting) -> list[str]:
    names = setting.env + (f"  {setting.flag}" if setting.flag else "")
    lines = [names + (f"  ({setting.bounds})" if setting.bounds else ""), setting.about]
    if setting.raised:
        lines.append(f"raised: {setting.raised}")
    if setting.lowered:
        lines.append(f"lowered: {setting.lowered}")
    return [*lines, ""]
