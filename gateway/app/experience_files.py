"""
Finds the definitions of experiences: `<experience id>.toml` files in one folder, or those that are shipped.

Promise: either every definition of the folder is good, or none is used: an experience whose file is broken must not be
played without its privacy rules. Processes of one supervisor all read the same texts, whatever is edited meanwhile
(`hold_experiences`).
"""

from __future__ import annotations

import shutil
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from gateway.app.errors import SettingsError
from gateway.app.settings import Settings
from protocol.experience import ExperienceDefinition
from protocol.experience_file import ExperienceRefused, parse_experience

FILE_BYTES_MAX = 4 << 20
FILES_MAX = 1_000
SUFFIX = ".toml"


def load_experiences(settings: Settings) -> dict[str, ExperienceDefinition]:
    """
    Every definition that these settings name, by experience id.

    Raises:
        SettingsError: the folder or one of its files cannot be used; names file, key and what to write.
    """
    return {name: read_definition(file, name=name) for name, file in list_files(settings).items()}


def list_files(settings: Settings) -> dict[str, Path | Traversable]:
    """Experience id, as its file is named → the file. Raises SettingsError for a folder that cannot be read."""
    folder: Path | Traversable = settings.experiences_dir or resources.files("protocol.experiences")
    try:
        found = {file.name.removesuffix(SUFFIX): file for file in folder.iterdir() if file.name.endswith(SUFFIX)}
    except OSError as error:
        raise SettingsError(
            f"experiences_dir {folder} cannot be read ({error.strerror})",
            "correct WAYHOLD_EXPERIENCES_DIR, or unset it for the shipped ones",
        ) from None
    if len(found) > FILES_MAX:
        raise SettingsError(
            f"experiences_dir {folder} holds {len(found)} definitions, at most {FILES_MAX} are read",
            "give a folder of its own with WAYHOLD_EXPERIENCES_DIR",
        )
    return dict(sorted(found.items()))


def read_definition(file: Path | Traversable, *, name: str | None = None) -> ExperienceDefinition:
    """The definition in one file. `name`: what its id must be. Raises SettingsError."""
    return _parse(read_text(file), file, name)


def read_text(file: Path | Traversable) -> str:
    """Raises SettingsError."""
    try:
        with file.open("rb") as source:
            raw = source.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            raise SettingsError(f"{file} is larger than {FILE_BYTES_MAX >> 20} MiB", "split the experience")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{file} cannot be read ({error.strerror})", "check the path and its owner") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not UTF-8", "save it as UTF-8") from None


def hold_experiences(settings: Settings, folder: Path) -> Path:
    """
    Copy the definitions into `folder`, for processes that will be started again: one that comes back after an edit
    would have other rules than its neighbours, or, after a bad edit, would not come back at all. Returns the folder.

    Raises:
        SettingsError: as `load_experiences`; nothing was copied then.
    """
    texts = {}
    for name, file in list_files(settings).items():
        texts[name] = read_text(file)
        _parse(texts[name], file, name)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        for name, text in texts.items():
            (folder / f"{name}{SUFFIX}").write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written ({error.strerror})", "make room, check its owner") from None
    return folder


def _parse(text: str, file: Path | Traversable, name: str | None) -> ExperienceDefinition:
    try:
        return parse_experience(text, str(file), experience_id=name)
    except ExperienceRefused as refused:
        where = f"{refused.source}: {refused.key}" if refused.key else refused.source
        raise SettingsError(f"{where}: {refused.reason}", refused.advice) from None
