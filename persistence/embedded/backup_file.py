"""
The file of a backup: an ordinary zip with three members, so that it can be looked into, and used, without Wayhold.

    postgres.dump     what pg_dump wrote, in its custom format (pg_restore reads it)
    tombstones.json   who was erased before the backup was taken: hashes, see `Tombstones`
    manifest.json     what the others are, with their size and SHA-256; written last

Promise: a file is a whole backup or is not there: it is written aside, synced and renamed. `check_backup` reads every
byte before anything is done with one.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from persistence.embedded.errors import EmbeddedUnfit

FORMAT: Final = 1
KIND: Final = "wayhold backup"
CHUNK_BYTES: Final = 1 << 20
DUMP, TOMBSTONES, MANIFEST = "postgres.dump", "tombstones.json", "manifest.json"
SMALL_BYTES_MAX: Final = 256 << 20
"""Manifest and tombstones are read into memory: a million tombstones are about 200 MB of text."""

# Members carry a time; a backup says its own in the manifest.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(slots=True)
class Tombstones:
    """
    Who was erased, as the hashes that the database holds. `installation` tells whose key made them: those of another
    installation mean nothing here. `erased_at` is ISO 8601, or "infinity" for an erase that was under way.
    """

    installation: str
    taken_at: str
    erased: list[Erased] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, "kind": "wayhold tombstones", **asdict(self)}, indent=1)


@dataclass(slots=True)
class Erased:
    user_hash: str
    device_hashes: list[str]
    erased_at: str


@dataclass(slots=True)
class Manifest:
    """What a backup holds. `roles`: names that the dump grants something to."""

    wayhold: str
    created_at: str
    schema: int
    postgres: str
    installation: str
    roles: list[str]
    users: int
    dump_bytes: int = 0
    dump_sha256: str = ""
    tombstones_sha256: str = ""

    @property
    def postgres_major(self) -> int:
        return int(self.postgres.split(".")[0].split("b")[0].split("r")[0])


class BackupWriter:
    """Writes one backup. Use `with`: without `finish` nothing is left."""

    def __init__(self, path: Path) -> None:
        """Raises EmbeddedUnfit: the file cannot be made."""
        self._path = path
        self._aside = path.with_name(f".{path.name}.{os.getpid()}")
        self._sha256 = hashlib.sha256()
        self._dump: IO[bytes] | None = None
        self.dump_bytes = 0
        try:
            fd = os.open(self._aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise _cannot_write(path, error) from None
        self._file = os.fdopen(fd, "w+b")
        # The dump is compressed already, and stored members can be read at any place.
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED, allowZip64=True)

    def write_dump(self, chunk: bytes) -> None:
        """Raises EmbeddedUnfit: the disk is full."""
        try:
            if self._dump is None:
                self._dump = self._zip.open(_member(DUMP), "w", force_zip64=True)
            self._dump.write(chunk)
        except OSError as error:
            raise _cannot_write(self._path, error) from None
        self._sha256.update(chunk)
        self.dump_bytes += len(chunk)

    def finish(self, manifest: Manifest, tombstones: Tombstones) -> None:
        """The file appears, whole and on disk. Raises EmbeddedUnfit: the disk is full."""
        assert self._dump is not None, "there is no backup without a dump"
        text = tombstones.to_json()
        manifest.dump_bytes = self.dump_bytes
        manifest.dump_sha256 = self._sha256.hexdigest()
        manifest.tombstones_sha256 = hashlib.sha256(text.encode()).hexdigest()
        try:
            self._dump.close()
            self._zip.writestr(_member(TOMBSTONES), text)
            facts = {"format": FORMAT, "kind": KIND, **asdict(manifest)}
            self._zip.writestr(_member(MANIFEST), json.dumps(facts, indent=1))
            self._zip.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._aside.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def __enter__(self) -> BackupWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        # A zip that is let go of half-written closes itself later, and complains then.
        for half in (self._dump, self._zip, self._file):
            with suppress(Exception):
                if half is not None:
                    half.close()
        with suppress(FileNotFoundError):
            self._aside.unlink()


def check_backup(path: Path, on_progress: Callable[[int, int], None] = lambda _done, _all: None) -> Manifest:
    """
    Read a backup from its first to its last byte.

    Raises:
        EmbeddedUnfit: it is none, is damaged, or is of a format that this release does not know.
    """
    manifest = read_manifest(path)
    sha256, size = hashlib.sha256(), 0
    for chunk in read_dump(path):
        sha256.update(chunk)
        size += len(chunk)
        on_progress(size, manifest.dump_bytes)
    if (size, sha256.hexdigest()) != (manifest.dump_bytes, manifest.dump_sha256):
        raise _damaged(path, "the dump is not what was written")
    read_tombstones_of_backup(path, manifest)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Raises EmbeddedUnfit, as `check_backup`."""
    facts = _read_json(path, _read_member(path, MANIFEST), KIND)
    try:
        return Manifest(**{name: facts[name] for name in Manifest.__dataclass_fields__})
    except (KeyError, TypeError):
        raise _damaged(path, "its manifest is incomplete") from None


def read_dump(path: Path) -> Iterator[bytes]:
    """What pg_dump wrote, in pieces. Raises EmbeddedUnfit, as `check_backup`."""
    try:
        with zipfile.ZipFile(path) as opened, opened.open(DUMP) as dump:
            while chunk := dump.read(CHUNK_BYTES):
                yield chunk
    except (OSError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise _damaged(path, error) from None


def read_tombstones_of_backup(path: Path, manifest: Manifest) -> Tombstones:
    """Raises EmbeddedUnfit, as `check_backup`."""
    raw = _read_member(path, TOMBSTONES)
    if hashlib.sha256(raw).hexdigest() != manifest.tombstones_sha256:
        raise _damaged(path, "its tombstones are not what was written")
    return _parse_tombstones(path, raw)


def read_tombstones(path: Path) -> Tombstones:
    """
    Those of a file of tombstones, or of a backup.

    Raises:
        EmbeddedUnfit: it is neither.
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            return read_tombstones_of_backup(path, read_manifest(path))
        with path.open("rb") as file:
            raw = file.read(SMALL_BYTES_MAX + 1)
    except OSError as error:
        raise EmbeddedUnfit(f"{path} cannot be read ({error.strerror})", "check the path") from None
    if len(raw) > SMALL_BYTES_MAX:
        raise EmbeddedUnfit(f"{path} is too large for tombstones", "give a backup, or what --tombstones wrote")
    return _parse_tombstones(path, raw)


def write_small_file(path: Path, text: str) -> None:
    """Aside, synced, renamed; mode 0600. Raises EmbeddedUnfit."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise _cannot_write(path, error) from None


def sync_folder(folder: Path) -> None:
    """After a rename: the folder's own change reaches the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _parse_tombstones(path: Path, raw: bytes) -> Tombstones:
    facts = _read_json(path, raw, "wayhold tombstones")
    try:
        erased = [Erased(one["user_hash"], list(one["device_hashes"]), one["erased_at"]) for one in facts["erased"]]
        for one in erased:
            bytes.fromhex(one.user_hash)
            [bytes.fromhex(device) for device in one.device_hashes]
        return Tombstones(facts["installation"], facts["taken_at"], erased)
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, "its tombstones are incomplete") from None


def _read_json(path: Path, raw: bytes, kind: str) -> dict[str, Any]:
    try:
        facts = json.loads(raw)
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or facts.get("kind") != kind:
        raise EmbeddedUnfit(f"{path} is no file of a {kind}", "give one that `wayhold backup` wrote")
    if facts.get("format") != FORMAT:
        raise EmbeddedUnfit(
            f"{path} has format {facts.get('format')!r}, this release knows {FORMAT}", "use the release that wrote it"
        )
    return facts


def _read_member(path: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as opened:
            info = opened.getinfo(name)
            if info.file_size > SMALL_BYTES_MAX:
                raise _damaged(path, f"{name} is {info.file_size:,} bytes")
            return opened.read(info)
    except KeyError:
        raise EmbeddedUnfit(
            f"{path} is no backup: it holds no {name}", "give one that `wayhold backup` wrote"
        ) from None
    except FileNotFoundError:
        raise EmbeddedUnfit(f"{path} is not there", "check the path") from None
    except zipfile.BadZipFile:
        raise EmbeddedUnfit(f"{path} is no backup, or was cut short", "use another one") from None
    except (OSError, EOFError) as error:
        raise _damaged(path, error) from None


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o600 << 16
    return info


def _damaged(path: Path, why: object) -> EmbeddedUnfit:
    return EmbeddedUnfit(f"the backup {path} is damaged: {why}", "use another one; nothing was changed")


def _cannot_write(path: Path, error: OSError) -> EmbeddedUnfit:
    return EmbeddedUnfit(f"{path} cannot be written ({error.strerror})", "make room, or give another place")
