"""
A journal in one append-only file that survives the death of its process and of the power.

Not here: what its bytes mean (journal_format.py), how a platform syncs and locks (disk.py).
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Final

from protocol.client.disk import Disk
from protocol.client.held_updates import BYTES_MAX, ENTRIES_MAX, HeldUpdates, new_device_id
from protocol.client.journal_errors import JournalBroken, JournalBusy, JournalForeign, StreamIdentity
from protocol.client.journal_format import (
    DAMAGED,
    RECORD_HEAD_BYTES,
    RECORDS_START,
    Header,
    encode_header,
    encode_record,
    read_journal,
)

# Rewriting costs two fsyncs; below this much waste it is not worth them.
WASTE_BYTES_MIN: Final = 256 * 1024
MARKER_DEVICES_MAX: Final = 4


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
        live_bytes = RECORDS_START + self._entries.size_bytes + RECORD_HEAD_BYTES * len(self._entries.payloads)
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

    def _open(self, device: str | None, entries_max: int, bytes_max: int) -> HeldUpdates:
        disk = self._disk
        self._marker_path.parent.mkdir(parents=True, exist_ok=True)
        data = disk.read(self._path)
        if data is None:
            entries = self._entries = HeldUpdates(device or new_device_id(), entries_max, bytes_max)
            self._write_marker([entries.device])
            self._rewrite(self._encode_file(), entries.device, ())
            return entries
        contents = read_journal(self._path, data)
        header = contents.header
        if header.identity != self._identity:
            raise JournalForeign(self._path, header.identity, self._identity)
        if device is not None and device != header.device:
            raise JournalForeign(self._path, f"device {header.device}", f"device {device}")
        entries = self._entries = HeldUpdates(header.device, entries_max, bytes_max)
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
        header = encode_header(Header(entries.device, self._identity, entries.made, entries.saved, self._moved_at))
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
