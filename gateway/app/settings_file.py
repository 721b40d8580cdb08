"""
wayhold.toml: the settings by their names at the top of the file, or below one table `[wayhold]`.

    play_port = 7400
    flush_interval_s = 5

Refuses to guess: a line that cannot be read, a name that is no setting, a value of another kind stop the start.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from gateway.app.errors import SettingsError
from gateway.app.settings import list_settings
from gateway.app.suggest import suggest

FILE_BYTES_MAX = 256 * 1024


def read_settings_file(path: Path) -> dict[str, Any]:
    """
    Setting name → value, unchecked but for its name.

    Raises:
        SettingsError: the file cannot be read, is no TOML, or holds a name that is no setting.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SettingsError(
            f"settings file {path} cannot be read ({error.strerror})", "check the path given with --config"
        ) from None
    if len(data) > FILE_BYTES_MAX:
        raise SettingsError(f"settings file {path} is larger than {FILE_BYTES_MAX} bytes", "is it the right file?")
    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is no TOML: {error}", "lines read like: play_port = 7400") from None
    table = values.get("wayhold")
    if isinstance(table, dict):
        if len(values) > 1:
            other = next(key for key in values if key != "wayhold")
            raise SettingsError(
                f"settings file {path} has {other!r} beside [wayhold]", "keep all settings in one place of the file"
            )
        values = table
    names = [setting.name for setting in list_settings()]
    for key in values:
        if key not in names:
            raise SettingsError(
                f"settings file {path} sets {key!r}, which is no setting{suggest(key, names)}",
                "see `wayhold settings`",
            )
    return values
