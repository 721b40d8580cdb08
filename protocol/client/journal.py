"""
The device journal: every update is here before it is sent, and stays until it is saved.

Promise: an update whose `sync()` has returned survives the death of the process and of the power; the numbers 1, 2,
3 … of a stream are given out here, once each; nothing is dropped silently, a full journal refuses (`JournalFull`).
What a file holds is proven by checksums when it is opened: a torn tail is cut, a damaged record is named (`damaged`)
and its seq is kept, so that the stream has no gap and later updates are not lost with it.

Not here: what an update means (a payload is bytes), and whom it is sent to. Only the session machine decides what
may be forgotten, and only `saved` lets it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import sys
import uuid
import zlib
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgpack

# As many steps as a day's walk without network makes; the server's own bound for what one progress may have pending.
ENTRIES_MAX: Final = 5_000
BYTES_MAX: Final = 4 * 1024 * 1024
LIST_MAX: Final = 1_000


class JournalFull(Exception):
    """The journal holds as much as it may and takes no further update until the server has saved some."""

    def __init__(self, entries: int, size_bytes: int) -> None:
        self.entries = entries
        self.size_bytes = size_bytes
        super().__init__(f"journal is full: {entries} updates, {size_bytes} bytes are not saved yet")


class JournalBusy(Exception):
    """Another process (or another object in this one) writes this journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"journal {path} is in use by another writer")


class JournalForeign(Exception):
    """The file is the journal of another player, experience, server or device."""

    def __init__(self, path: Path, found: object, wanted: object) -> None:
        self.path = path
        self.found = found
        self.wanted = wanted
        super().__init__(
            f"journal {path} belongs to {_differing(found, wanted)}, not to {_differing(wanted, found)}; "
            "give that one, or another file"
        )


def _differing(one: object, other: object) -> str:
    """What of `one` is not that of `other`, in words."""
    if not isinstance(one, StreamIdentity) or not isinstance(other, StreamIdentity):
        return str(one)
    return ", ".join(
        f"{name} {value}" for name, value, wanted in zip(one._fields, one, other, strict=True) if value != wanted
    )


class JournalDamaged(Exception):
    """Nothing in the file says whose journal it is. It is left untouched."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"journal {path} cannot be read: {reason}")


class JournalBroken(Exception):
    """The disk refused to make records durable; nothing is taken until the journal is opened anew."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"journal cannot write: {reason}")


class StreamIdentity(NamedTuple):
    """Whose updates a journal holds; the device id makes it a stream."""

    server: str
    player: str
    experience: str


class Journal(Protocol):
    """
    What the client needs of a journal. Reading is from memory and never waits. One event loop at a time.

    `made` ≥ `saved`; what lies above `synced` must not be sent yet (-1: a reset is not on disk). Nothing above
    `exposed` can have left this device: it was neither here when the journal was opened nor listed since.
    `moved_at`: the journal was restored or migrated when it had made so many, and must learn what became of its
    stream before it goes on as a new device (see `FileJournal`).
    """

    @property
    def device(self) -> str: ...
    @property
    def made(self) -> int: ...
    @property
    def synced(self) -> int: ...
    @property
    def saved(self) -> int: ...
    @property
    def exposed(self) -> int: ...
    @property
    def moved_at(self) -> int | None: ...

    def append(self, payload: bytes) -> int:
        """
        Give the update the next seq and hold it. It is durable only after `sync`. Raises JournalFull, JournalBroken.
        """
        ...

    async def sync(self) -> None:
        """
        Make all that was appended before this call durable. Call it without an await in between.

        Callers that come together share one write. Cancelling is safe: the write goes on.

        Raises:
            OSError: the disk refused; every update that was not durable yet was taken back, its seq is free again.
            JournalBroken: nobody knows what the disk holds; open the journal anew.
        """
        ...

    def list_after(self, seq: int, limit: int) -> list[tuple[int, bytes]]:
        """The updates that follow `seq`, in order, at most `limit` (and `LIST_MAX`). They count as `exposed`."""
        ...

    def forget(self, saved: int) -> None:
        """The server has saved everything up to `saved`. A crash may bring updates back; they are then sent again."""
        ...

    def reset(self, device: str, keep_after: int) -> dict[int, int]:
        """
        Go on as a new device: what lies above `keep_after` is numbered from 1; answers old seq → new seq.

        Nothing counts as synced afterwards until `sync` returns: no update may leave under a number that a crash
        would take back.
        """
        ...

    async def close(self) -> None:
        """Write what is left and let go of the file. Closing twice is harmless."""
        ...


def new_device_id() -> str:
    """A name that no installation had before."""
    return str(uuid.uuid4())


class _Entries:
    """
    Updates in memory: contiguous seqs from `saved` + 1 to `made`. The bounds are for them, not for what a disk holds.
    """

    __slots__ = (
        "bytes_max",
        "damaged",
        "device",
        "entries_max",
        "exposed",
        "made",
        "payloads",
        "saved",
        "size_bytes",
    )

    def __init__(self, device: str, entries_max: int, bytes_max: int) -> None:
        if not 1 <= len(device) <= 64:
            raise ValueError("a device id has 1 to 64 characters")
        self.device = device
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.made = 0
        self.saved = 0
        self.exposed = 0
        self.payloads: dict[int, bytes] = {}
        self.size_bytes = 0
        self.damaged: frozenset[int] = frozenset()

    def append(self, payload: bytes) -> int:
        if not payload:
            raise ValueError("an update has a payload")
        if len(self.payloads) >= self.entries_max or self.size_bytes + len(payload) > self.bytes_max:
            raise JournalFull(len(self.payloads), self.size_bytes)
        self.made += 1
        self.payloads[self.made] = payload
        self.size_bytes += len(payload)
        return self.made

    def list_after(self, seq: int, limit: int) -> list[tuple[int, bytes]]:
        first = max(seq, self.saved) + 1
        last = min(self.made, first + min(limit, LIST_MAX) - 1)
        self.exposed = max(self.exposed, last)
        payloads = self.payloads
        return [(at, payloads[at]) for at in range(first, last + 1)]

    def forget(self, saved: int) -> bool:
        """True if anything changed. Refuses a number that was never made: it would swallow updates still to come."""
        if saved > self.made:
            raise ValueError(f"saved {saved} is beyond what was made ({self.made})")
        if saved <= self.saved:
            return False
        for seq in range(self.saved + 1, saved + 1):
            self.size_bytes -= len(self.payloads.pop(seq))
        self.saved = saved
        if self.damaged:
            self.damaged = frozenset(seq for seq in self.damaged if seq > saved)
        return True

    def drop_after(self, seq: int) -> None:
        """Take back the newest updates, which never became durable."""
        for gone in range(seq + 1, self.made + 1):
            self.size_bytes -= len(self.payloads.pop(gone))
        self.made = seq
        self.exposed = min(self.exposed, seq)

    def reset(self, device: str, keep_after: int) -> dict[int, int]:
        kept = self.list_between(max(keep_after, self.saved), self.made)
        renumbered = {old: new for new, (old, _) in enumerate(kept, start=1)}
        self.device = device
        self.payloads = {renumbered[old]: payload for old, payload in kept}
        self.size_bytes = sum(map(len, self.payloads.values()))
        self.damaged = frozenset(renumbered[old] for old in self.damaged if old in renumbered)
        self.made = len(kept)
        self.saved = 0
        self.exposed = 0
        return renumbered

    def list_between(self, after: int, upto: int) -> list[tuple[int, bytes]]:
        return [(seq, self.payloads[seq]) for seq in range(after + 1, upto + 1)]


class MemoryJournal:
    """
    A journal that dies with its process: for simulated players, of which thousands share one.

    Everything counts as synced at once, because there is no disk that could forget it.
    """

    __slots__ = ("_entries",)

    def __init__(
        self, device: str | None = None, *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._entries = _Entries(device or new_device_id(), entries_max, bytes_max)

    @property
    def device(self) -> str:
        return self._entries.device

    @property
    def made(self) -> int:
        return self._entries.made

    @property
    def synced(self) -> int:
        return self._entries.made

    @property
    def saved(self) -> int:
        return self._entries.saved

    @property
    def exposed(self) -> int:
        return self._entries.exposed

    @property
    def moved_at(self) -> int | None:
        return None

    def append(self, payload: bytes) -> int:
        return self._entries.append(payload)

    async def sync(self) -> None:
        return None

    def list_after(self, seq: int, limit: int) -> list[tuple[int, bytes]]:
        return self._entries.list_after(seq, limit)

    def forget(self, saved: int) -> None:
        self._entries.forget(saved)

    def reset(self, device: str, keep_after: int) -> dict[int, int]:
        return self._entries.reset(device, keep_after)

    async def close(self) -> None:
        return None


# --- the file ----------------------------------------------------------------------------------------------------

FORMAT: Final = 1
MAGIC: Final = b"WAYHOLDJ"
# Two copies of the header, each in a slot of its own: one bad sector must not make all records anonymous.
HEADER_SLOT_BYTES: Final = 1024
RECORDS_START: Final = 2 * HEADER_SLOT_BYTES
_HEADER: Final = struct.Struct("<8sII")  # magic, length and crc32 of the body
_RECORD: Final = struct.Struct("<IIQ")  # length of the payload, crc32 over length + seq + payload, seq
_CRC_HEAD: Final = struct.Struct("<IQ")
# Stands for a payload that the disk lost. 0xC1 is the one byte that msgpack never uses: nothing can decode it.
DAMAGED: Final = b"\xc1"
# Rewriting costs two fsyncs; below this much waste it is not worth them.
WASTE_BYTES_MIN: Final = 256 * 1024
MARKER_DEVICES_MAX: Final = 4
# So many records in a row can be damaged and still leave a seq; more is no journal but noise.
SEQ_JUMP_MAX: Final = 2 * ENTRIES_MAX


class Disk:
    """
    The few things a journal asks of a file system. Tests put a disk in its place that forgets what was not synced.
    """

    def read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def create(self, path: Path, data: bytes) -> int:
        """A new file with this content, durable under this name only after `replace`; replaces what was there."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | _CLOEXEC, 0o600)
        try:
            self.append(handle, data)
            self.sync(handle)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_APPEND | _CLOEXEC)

    def append(self, handle: int, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def sync(self, handle: int) -> None:
        """Return once the file is on the medium, as far as the system can tell."""
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)  # its fsync leaves the data in the drive's cache
        else:
            os.fsync(handle)

    def close(self, handle: int) -> None:
        os.close(handle)

    def replace(self, source: Path, target: Path) -> None:
        """Rename, and make the rename durable."""
        source.replace(target)
        if sys.platform != "win32":
            folder = os.open(target.parent, os.O_RDONLY | _CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def lock(self, path: Path) -> int:
        """
        Hold the only writer's lock, which the system lets go of when the process dies. Raises OSError if it is held.
        """
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _CLOEXEC, 0o600)
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(handle)
            raise
        return handle


_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class _Header(NamedTuple):
    device: str
    identity: StreamIdentity
    made: int  # what records may not tell any more: the highest seq used and saved when the file was written
    saved: int
    moved_at: int | None


class _Contents(NamedTuple):
    """
    What could be read of a file. `good_bytes`: up to where it can be appended to; None: it must be written anew.
    """

    header: _Header
    payloads: dict[int, bytes]
    made: int
    saved: int
    good_bytes: int | None


class FileJournal:
    """
    A journal in one append-only file.

    The file is opened, read and cleaned here, which may take a few milliseconds of disk. Beside it are `.lock` (one
    writer), `.new` (while it is rewritten) and the marker.

    The **marker** holds the device id and should lie where backups of the device do not reach (`marker_path`; by
    default beside the file). A journal that finds no marker of its own was restored or migrated: what it holds may
    have been accepted long ago from the original, and another installation may still use its device id. It is
    `is_moved` then: the next hello under the old id learns how far the stream got, and what lies above goes on as a
    new device. Until then nothing is sent. Without asking, going on would count steps twice, and starting empty
    would lose some.

    `damaged` are seqs whose payload the disk lost; they are sent as skips, so that the updates behind them still
    arrive.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        server: str,
        player: str,
        experience: str,
        device: str | None = None,
        marker_path: Path | str | None = None,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        disk: Disk | None = None,
    ) -> None:
        """
        Raises:
            JournalBusy: somebody else writes it.
            JournalForeign: it is another player's, experience's or server's (or `device` is given and is not its
            device). JournalDamaged: both headers are unreadable, or it is of a later format. The file is left as it
            is. OSError: the disk.
        """
        self._path = Path(path)
        self._new_path = self._path.with_name(self._path.name + ".new")
        self._marker_path = Path(marker_path or self._path.with_name(self._path.name + ".marker"))
        self._disk = disk or Disk()
        self._identity = StreamIdentity(server, player, experience)
        self._handle: int | None = None
        self._broken: str | None = None
        self._unwritten: list[bytes] = []
        self._is_saved_written = True
        self._is_rewrite_due = False
        self._devices_before: tuple[str, ...] = ()
        self._moved_at: int | None = None
        self._synced = 0
        self._floor = 0  # what a refusing disk may not take back: it is durable, perhaps under an older number
        self._size = 0
        self._ticket = self._done = 0  # operations asked for, and done
        self._resets = 0
        self._job: asyncio.Task[None] | None = None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock: int | None = self._disk.lock(self._path.with_name(self._path.name + ".lock"))
        except OSError as failed:
            if failed.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise JournalBusy(self._path) from failed
            raise
        try:
            self._entries = self._open(device, entries_max, bytes_max)
        except BaseException:
            self._release()
            raise

    # --- facts ------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        return self._path

    @property
    def device(self) -> str:
        return self._entries.device

    @property
    def made(self) -> int:
        return self._entries.made

    @property
    def synced(self) -> int:
        return self._synced

    @property
    def saved(self) -> int:
        return self._entries.saved

    @property
    def exposed(self) -> int:
        return self._entries.exposed

    @property
    def moved_at(self) -> int | None:
        return self._moved_at

    @property
    def damaged(self) -> frozenset[int]:
        return self._entries.damaged

    def list_after(self, seq: int, limit: int) -> list[tuple[int, bytes]]:
        return self._entries.list_after(seq, limit)

    # --- changing it ------------------------------------------------------------------------------------------------

    def append(self, payload: bytes) -> int:
        self._check_usable()
        seq = self._entries.append(payload)
        self._unwritten.append(encode_record(seq, payload))
        self._ticket += 1
        return seq

    def forget(self, saved: int) -> None:
        # Not worth a sync of its own: what a crash brings back is sent again and refused by its number.
        if self._entries.forget(saved):
            self._is_saved_written = False

    def reset(self, device: str, keep_after: int) -> dict[int, int]:
        self._devices_before = (*self._devices_before, self._entries.device)[-MARKER_DEVICES_MAX:]
        renumbered = self._entries.reset(device, keep_after)
        self._unwritten = []
        self._moved_at = None
        self._is_rewrite_due = True
        self._synced = -1
        self._floor = self._entries.made
        self._resets += 1
        self._ticket += 1
        return renumbered

    async def sync(self) -> None:
        ticket = self._ticket
        while self._done < ticket:
            self._check_usable()
            if self._job is None:
                self._job = asyncio.create_task(self._write_waiting())
            await asyncio.shield(self._job)

    async def close(self) -> None:
        while self._job is not None:
            try:
                await asyncio.shield(self._job)
            except (OSError, JournalBroken):
                pass  # told to those who waited for it
        if self._lock is None:
            return
        try:
            if self._broken is None and (self._unwritten or self._is_rewrite_due or not self._is_saved_written):
                await self._write_waiting()
        finally:
            self._release()

    async def _write_waiting(self) -> None:
        """One write for everything that waits now. What is appended meanwhile waits for the next one."""
        ticket, made, resets = self._ticket, self._entries.made, self._resets
        live_bytes = RECORDS_START + self._entries.size_bytes + _RECORD.size * len(self._entries.payloads)
        waste_bytes = self._size - live_bytes
        must_rewrite = self._is_rewrite_due
        whole = None
        if must_rewrite or waste_bytes > max(WASTE_BYTES_MIN, live_bytes):
            whole = self._encode_file()
        if not self._is_saved_written and self._entries.saved:
            self._unwritten.append(encode_record(self._entries.saved, b""))
        records = b"".join(self._unwritten)
        self._unwritten = []
        self._is_saved_written = True
        device, before = self._entries.device, self._devices_before
        try:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(None, self._write, records, whole, must_rewrite, device, before)
            await _wait_through(work)
        except Exception as failed:
            if not isinstance(failed, OSError | JournalBroken):
                self._broken = repr(failed)  # not the disk's fault, so nobody knows how far it came
            self._is_saved_written = False
            # Nobody may believe in an update that is not on disk, nor in those that came after it.
            self._unwritten = []
            self._entries.drop_after(self._floor)
            raise
        else:
            self._done = ticket
            if resets == self._resets:
                self._is_rewrite_due = False
                self._devices_before = ()
                self._synced = self._floor = made
        finally:
            self._job = None

    # --- in the writing thread --------------------------------------------------------------------------------------

    def _write(
        self, records: bytes, whole: bytes | None, must_rewrite: bool, device: str, before: tuple[str, ...]
    ) -> None:
        if whole is not None:
            try:
                self._rewrite(whole, device, before)
                return
            except OSError:
                if must_rewrite:
                    raise
                # It was only to save room; a disk without room for two files may still have some for a record.
        self._append(records)

    def _append(self, data: bytes) -> None:
        disk, handle = self._disk, self._handle
        assert handle is not None
        try:
            disk.append(handle, data)
        except OSError:
            # A full disk: cut off what it took of it, so that the next record does not follow half a one.
            try:
                disk.truncate(handle, self._size)
                disk.sync(handle)
            except OSError as failed:
                raise self._break(failed) from failed
            raise
        try:
            disk.sync(handle)
        except OSError as failed:
            # After a failed fsync the system may have dropped the data and call the next fsync a success.
            raise self._break(failed) from failed
        self._size += len(data)

    def _rewrite(self, data: bytes, device: str, before: tuple[str, ...]) -> None:
        """Put a new file in the place of the old one. A crash at any line leaves one of the two, whole."""
        disk = self._disk
        if before:
            # A marker for all of them, so that whichever file a crash leaves knows that it is at home.
            self._write_marker([device, *before])
        handle = disk.create(self._new_path, data)
        try:
            disk.replace(self._new_path, self._path)
        except OSError as failed:
            disk.close(handle)
            raise self._break(failed) from failed
        old, self._handle = self._handle, handle
        self._size = len(data)
        if old is not None:
            disk.close(old)
        if before:
            self._write_marker([device])

    def _write_marker(self, devices: list[str]) -> None:
        new_path = self._marker_path.with_name(self._marker_path.name + ".new")
        self._disk.close(self._disk.create(new_path, "".join(f"{device}\n" for device in devices).encode()))
        self._disk.replace(new_path, self._marker_path)

    def _break(self, failed: OSError) -> JournalBroken:
        self._broken = str(failed)
        return JournalBroken(self._broken)

    # --- opening ----------------------------------------------------------------------------------------------------

    def _open(self, device: str | None, entries_max: int, bytes_max: int) -> _Entries:
        disk = self._disk
        self._marker_path.parent.mkdir(parents=True, exist_ok=True)
        data = disk.read(self._path)
        if data is None:
            entries = self._entries = _Entries(device or new_device_id(), entries_max, bytes_max)
            self._write_marker([entries.device])
            self._rewrite(self._encode_file(), entries.device, ())
            return entries
        contents = read_journal(self._path, data)
        header = contents.header
        if header.identity != self._identity:
            raise JournalForeign(self._path, header.identity, self._identity)
        if device is not None and device != header.device:
            raise JournalForeign(self._path, f"device {header.device}", f"device {device}")
        entries = self._entries = _Entries(header.device, entries_max, bytes_max)
        entries.made, entries.saved, entries.payloads = contents.made, contents.saved, contents.payloads
        entries.size_bytes = sum(map(len, contents.payloads.values()))
        entries.damaged = frozenset(seq for seq, payload in contents.payloads.items() if payload == DAMAGED)
        self._moved_at = header.moved_at
        is_at_home = header.device in (disk.read(self._marker_path) or b"").decode("utf-8", "replace").split()
        if self._moved_at is None and not is_at_home:
            self._moved_at = contents.made
        if contents.good_bytes is None or self._moved_at != header.moved_at:
            self._rewrite(self._encode_file(), entries.device, ())
        else:
            self._handle = disk.open(self._path)
            if contents.good_bytes < len(data):
                disk.truncate(self._handle, contents.good_bytes)
            # What a killed process had written but not synced was read from memory; now it is on the medium.
            disk.sync(self._handle)
            self._size = contents.good_bytes
        entries.exposed = entries.made if self._moved_at is None else self._moved_at
        self._synced = self._floor = entries.made
        return entries

    def _encode_file(self) -> bytes:
        entries = self._entries
        header = encode_header(_Header(entries.device, self._identity, entries.made, entries.saved, self._moved_at))
        records = [encode_record(seq, payload) for seq, payload in sorted(entries.payloads.items())]
        return b"".join([header, header, *records])

    def _check_usable(self) -> None:
        if self._broken is not None:
            raise JournalBroken(self._broken)
        if self._lock is None:
            raise JournalBroken("it is closed")

    def _release(self) -> None:
        for handle in (self._handle, self._lock):
            if handle is not None:
                self._disk.close(handle)
        self._handle = self._lock = None


async def _wait_through(work: asyncio.Future[None]) -> None:
    """
    Wait for the writing thread, cancelled or not: it cannot be stopped, and whoever closed the file under it would
    let it write into another one.
    """
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    work.result()
    if cancelled is not None:
        raise cancelled


def encode_record(seq: int, payload: bytes) -> bytes:
    """One record; an empty payload says that everything up to `seq` is saved."""
    return _RECORD.pack(len(payload), _crc_of(seq, payload), seq) + payload


def encode_header(header: _Header) -> bytes:
    body: bytes = msgpack.packb(
        {
            "format": FORMAT,
            "device": header.device,
            "server": header.identity.server,
            "player": header.identity.player,
            "experience": header.identity.experience,
            "made": header.made,
            "saved": header.saved,
            "moved_at": header.moved_at,
        }
    )
    slot = _HEADER.pack(MAGIC, len(body), zlib.crc32(body)) + body
    if len(slot) > HEADER_SLOT_BYTES:
        raise ValueError(f"server, player, experience and device together are longer than {HEADER_SLOT_BYTES} bytes")
    return slot.ljust(HEADER_SLOT_BYTES, b"\0")


def read_journal(path: Path, data: bytes) -> _Contents:
    """Everything a file proves by its checksums, whatever happened to it. Raises JournalDamaged without a header."""
    header = _find_header(path, data)
    payloads: dict[int, bytes] = {}
    made, saved = header.made, header.saved
    # The records that a rewrite wrote are below `made` of the header; those appended later follow it.
    next_seq = saved + 1
    position: int | None = RECORDS_START
    good_bytes: int | None = RECORDS_START
    while position is not None:
        record = _find_record_at(data, position, next_seq - 1)
        if record is None:
            resumed_at = _find_record_after(data, position, next_seq - 1)
            if resumed_at is not None:
                good_bytes = None  # damage with good records behind it
            position = resumed_at
            continue
        seq, payload = record
        if payload:
            for lost in range(next_seq, seq):
                payloads[lost] = DAMAGED
                good_bytes = None
            payloads[seq] = payload
            next_seq = seq + 1
        else:
            for lost in range(next_seq, seq + 1):
                payloads[lost] = DAMAGED
                good_bytes = None
            next_seq = max(next_seq, seq + 1)
            saved = max(saved, seq)
        position += _RECORD.size + len(payload)
        if good_bytes is not None:
            good_bytes = position
    for lost in range(next_seq, made + 1):
        payloads[lost] = DAMAGED
        good_bytes = None
    made = max(made, next_seq - 1)
    payloads = {seq: payload for seq, payload in payloads.items() if seq > saved}
    if not _are_both_headers_good(data):
        good_bytes = None
    return _Contents(header, payloads, made, saved, good_bytes)


def _find_record_at(data: bytes, position: int, made: int) -> tuple[int, bytes] | None:
    """The record that starts here, if it is one and can follow `made`: (seq, payload)."""
    if position + _RECORD.size > len(data):
        return None
    length, crc, seq = _RECORD.unpack_from(data, position)
    end = position + _RECORD.size + length
    if end > len(data) or seq > made + SEQ_JUMP_MAX or (length and seq <= made) or not seq:
        return None
    payload = data[position + _RECORD.size : end]
    return (seq, payload) if _crc_of(seq, payload) == crc else None


def _find_record_after(data: bytes, position: int, made: int) -> int | None:
    """Where the next good record starts behind a damaged one; None at the end: then it was a torn tail."""
    # A seq is below 2^53, so the last byte of every record's head is zero: jump from one to the next.
    head_end = _RECORD.size - 1
    at = data.find(b"\0", position + 1 + head_end)
    while at != -1:
        start = at - head_end
        if _find_record_at(data, start, made) is not None:
            return start
        at = data.find(b"\0", at + 1)
    return None


def _find_header(path: Path, data: bytes) -> _Header:
    reason = "it is no journal"
    for start in (0, HEADER_SLOT_BYTES):
        body = _find_header_body(data, start)
        if body is None:
            reason = "both headers are damaged"
            continue
        try:
            fields = msgpack.unpackb(body)
            if fields["format"] != FORMAT:
                raise JournalDamaged(path, f"its format is {fields['format']}, this program knows {FORMAT}")
            identity = StreamIdentity(fields["server"], fields["player"], fields["experience"])
            return _Header(fields["device"], identity, fields["made"], fields["saved"], fields["moved_at"])
        except (ValueError, KeyError, TypeError, msgpack.UnpackException):
            reason = "its header cannot be read"
    raise JournalDamaged(path, reason)


def _find_header_body(data: bytes, start: int) -> bytes | None:
    if len(data) < start + _HEADER.size:
        return None
    magic, length, crc = _HEADER.unpack_from(data, start)
    body = data[start + _HEADER.size : start + _HEADER.size + length]
    if magic != MAGIC or length > HEADER_SLOT_BYTES - _HEADER.size or zlib.crc32(body) != crc:
        return None
    return body


def _are_both_headers_good(data: bytes) -> bool:
    slot = data[:HEADER_SLOT_BYTES]
    return len(slot) == HEADER_SLOT_BYTES and slot == data[HEADER_SLOT_BYTES:RECORDS_START]


def _crc_of(seq: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_CRC_HEAD.pack(len(payload), seq)))
