"""
Where settings come from: flag > environment > --config file > default, each value with its source.

Promise: nothing that looks like a setting is ignored. An unknown `WAYHOLD_*` variable or file key stops the start and
the error suggests the nearest real name. An empty variable counts as not set, as compose files write them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.app.errors import SettingsError
from gateway.app.settings import Setting, Settings, check_value, get_setting, list_settings, parse_value
from gateway.app.suggest import find_nearest
from gateway.app.urls import MASK, mask_url

# Ours, but no settings: what the supervisor hands to its processes (`children.py`), and what tests and make read.
INTERNAL_NAMES = frozenset(
    {
        "WAYHOLD_LIFELINE_FD",
        "WAYHOLD_READY_FD",
        "WAYHOLD_PLAY_FD",
        "WAYHOLD_OPS_FD",
        "WAYHOLD_PROCESS",
        "WAYHOLD_REDIS_WARNING",
        "WAYHOLD_SETUP_KEY",
        "WAYHOLD_SETUP_UNTIL",
        "WAYHOLD_PRODUCTION",
        "WAYHOLD_SEED",
        "WAYHOLD_SCHEDULES",
    }
)
INTERNAL_PREFIXES = ("WAYHOLD_TEST_",)

_DEST = "setting:"


@dataclass(frozen=True)
class LoadedSettings:
    """The settings of this process and, for each, where its value came from."""

    settings: Settings
    sources: Mapping[str, str]

    def is_given(self, name: str) -> bool:
        """Whether somebody chose this value (rather than the table's default)."""
        return not self.sources[name].startswith("default")

    def with_values(self, source: str, **values: Any) -> LoadedSettings:
        """The same settings with some values that the program found out by itself."""
        merged = {setting.name: getattr(self.settings, setting.name) for setting in list_settings()} | values
        return LoadedSettings(Settings(**merged), dict(self.sources) | dict.fromkeys(values, source))


def add_setting_flags(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Flags for the named settings (all without `names`) and `--config`."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings file (wayhold.toml)")
    chosen = list_settings() if names is None else [get_setting(name) for name in names]
    group = parser.add_argument_group("settings", "each also by environment, see `wayhold settings`")
    for setting in chosen:
        if not setting.flag:
            continue
        about = f"{setting.about} [{setting.env}]".replace("%", "%%")
        if setting.kind is bool:
            group.add_argument(
                setting.flag, dest=_DEST + setting.name, default=None, action="store_const", const="true", help=about
            )
            continue
        group.add_argument(setting.flag, dest=_DEST + setting.name, default=None, metavar=_metavar(setting), help=about)


def load_settings(
    args: argparse.Namespace | None = None, environ: Mapping[str, str] | None = None, *, for_dev: bool = False
) -> LoadedSettings:
    """
    The settings of this process.

    Raises:
        SettingsError: an unknown name, a value that cannot be read, out of bounds or against a relation.
    """
    environ = os.environ if environ is None else environ
    check_environment_names(environ)
    file_path: Path | None = getattr(args, "config", None)
    in_file = {}
    if file_path is not None:
        # Imported here: most commands read no file, and `--help` must stay quick.
        from gateway.app.settings_file import read_settings_file

        in_file = read_settings_file(file_path)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for setting in list_settings():
        flag = getattr(args, _DEST + setting.name, None)
        text = environ.get(setting.env, "")
        if flag is not None:
            values[setting.name] = check_value(setting, parse_value(setting, flag, setting.flag), setting.flag)
            sources[setting.name] = f"flag {setting.flag}"
        elif text.strip():
            values[setting.name] = parse_value(setting, text, setting.env)
            sources[setting.name] = f"environment {setting.env}"
        elif setting.name in in_file:
            values[setting.name] = check_value(setting, in_file[setting.name], f"{setting.name} in {file_path}")
            sources[setting.name] = f"file {file_path}"
        elif for_dev and setting.dev_default != setting.default:
            values[setting.name] = setting.dev_default
            sources[setting.name] = "default (dev)"
        else:
            values[setting.name] = setting.default
            sources[setting.name] = "default"
    return LoadedSettings(Settings(**values), sources)


def check_environment_names(environ: Mapping[str, str]) -> None:
    """Raises SettingsError on a WAYHOLD_* variable that is no setting."""
    known = {setting.env for setting in list_settings()}
    for name in sorted(environ):
        if not name.startswith("WAYHOLD_") or name in known or name in INTERNAL_NAMES:
            continue
        if name.startswith(INTERNAL_PREFIXES):
            continue
        # Compared without the prefix, or every name would be near to every other.
        nearest = find_nearest(name.removeprefix("WAYHOLD_"), [env.removeprefix("WAYHOLD_") for env in known])
        full = next((env for env in known if nearest is not None and env in (nearest, f"WAYHOLD_{nearest}")), None)
        raise SettingsError(
            f"environment variable {name} is no setting" + (f" (did you mean {full}?)" if full else ""),
            "correct or unset it; `wayhold settings --help` lists all",
        )


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that make a child process load exactly these settings."""
    variables = {}
    for setting in list_settings():
        value = getattr(settings, setting.name)
        if value is None:
            continue
        if isinstance(value, Path):
            value = value.absolute()
        variables[setting.env] = str(value).lower() if isinstance(value, bool) else str(value)
    return variables


def shown_value(setting: Setting, value: Any) -> str:
    """The value for print: secrets masked, unset as '-'."""
    if value is None or value == "":
        return "-"
    if setting.name in ("redis_url", "database_url"):
        return mask_url(value)
    if setting.is_secret:
        return MASK
    return str(value).lower() if isinstance(value, bool) else str(value)


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return "|".join(setting.choices)
    unit = setting.name.rpartition("_")[2].upper()
    if setting.name.endswith("_per_s"):
        return "N"
    if unit in ("S", "HOST", "PORT", "URL", "BYTES", "DIR"):
        return unit
    return {int: "N", float: "N", Path: "PATH"}.get(setting.kind, "TEXT")
