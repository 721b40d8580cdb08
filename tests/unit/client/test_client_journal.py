"""The device journal: what survives truncation, damage, death, power cuts, full disks and restored backups."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from random import Random
from typing import Any

import pytest

from protocol.client.journal import (
    DAMAGED,
    RECORDS_START,
    Disk,
    FileJournal,
    Journal,
    JournalBroken,
    JournalBusy,
    JournalDamaged,
    JournalForeign,
    JournalFull,
    MemoryJournal,
    encode_record,
    read_journal,
)
from tests.unit.client.forgetful_disk import ForgetfulDisk

OWNER = {"server": "ws://localhost/v1/play", "player": "7d9f", "experience": "wylding-woods"}


def open_journal(path: Path, **more: Any) -> FileJournal:
    return FileJournal(path, **{**OWNER, **more})


async def make(journal: Journal, *payloads: bytes) -> list[int]:
    seqs = [journal.append(payload) for payload in payloads]
    await journal.sync()
    return seqs


async def fill(path: Path, count: int, **more: Any) -> FileJournal:
    journal = open_journal(path, **more)
    await make(journal, *(b"payload %d" % n for n in range(1, count + 1)))
    return journal


@pytest.fixture(params=["memory", "file"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "memory":
        return MemoryJournal("phone", entries_max=5, bytes_max=100)
    return open_journal(tmp_path / "journal", device="phone", entries_max=5, bytes_max=100)


async def test_numbers_are_given_once_each_from_one(journal: Journal) -> None:
    assert (journal.made, journal.saved, journal.synced) == (0, 0, 0)
    assert await make(journal, b"a", b"b", b"c") == [1, 2, 3]
    assert (journal.made, journal.synced, journal.saved) == (3, 3, 0)
    journal.forget(3)
    assert await make(journal, b"d") == [4]
    assert journal.list_after(0, 100) == [(4, b"d")]


async def test_list_after_is_bounded_and_in_order(journal: Journal) -> None:
    await make(journal, b"a", b"b", b"c", b"d")
    assert journal.list_after(1, 2) == [(2, b"b"), (3, b"c")]
    assert journal.list_after(4, 2) == []
    journal.forget(2)
    assert journal.list_after(0, 9) == [(3, b"c"), (4, b"d")]


async def test_full_journal_refuses_and_drops_nothing(journal: Journal) -> None:
    await make(journal, *[b"x" * 10] * 5)
    with pytest.raises(JournalFull) as full:
        journal.append(b"y")
    assert (full.value.entries, full.value.size_bytes) == (5, 50)
    journal.forget(1)
    with pytest.raises(JournalFull):
        journal.append(b"y" * 61)
    assert await make(journal, b"y" * 60) == [6]
    assert [seq for seq, _ in journal.list_after(0, 9)] == [2, 3, 4, 5, 6]


async def test_forgetting_what_was_never_made_is_refused(journal: Journal) -> None:
    await make(journal, b"a")
    with pytest.raises(ValueError, match="beyond"):
        journal.forget(2)
    journal.forget(1)
    journal.forget(0)
    assert journal.saved == 1


async def test_reset_numbers_what_is_left_from_one(journal: Journal) -> None:
    await make(journal, b"a", b"b", b"c", b"d")
    journal.forget(1)
    assert journal.reset("other", keep_after=2) == {3: 1, 4: 2}
    assert (journal.device, journal.made, journal.saved) == ("other", 2, 0)
    await journal.sync()
    assert journal.synced == 2
    assert journal.list_after(0, 9) == [(1, b"c"), (2, b"d")]
    assert await make(journal, b"e") == [3]


async def test_what_was_never_listed_cannot_have_left_the_device(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = await fill(path, 4)
    assert journal.exposed == 0
    journal.list_after(1, 2)
    assert journal.exposed == 3
    await journal.close()
    again = open_journal(path)
    assert again.exposed == 4, "an earlier process may have sent all of it"
    again.append(b"new")
    assert again.exposed == 4
    again.reset("other", keep_after=4)
    assert again.exposed == 0
    await again.close()


async def test_file_is_the_same_after_opening_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = await fill(path, 5)
    first.forget(2)
    await first.close()
    await first.close()
    second = open_journal(path)
    assert (second.device, second.made, second.saved, second.synced) == (first.device, 5, 2, 5)
    assert second.list_after(0, 9) == [(n, b"payload %d" % n) for n in (3, 4, 5)]
    assert second.moved_at is None
    second.forget(5)
    await second.close()
    third = open_journal(path)
    assert (third.made, third.saved, third.list_after(0, 9)) == (5, 5, [])
    assert await make(third, b"x") == [6]
    await third.close()
    with pytest.raises(JournalBroken):
        third.append(b"late")


async def test_number_is_not_used_again_after_everything_was_saved_and_the_file_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = open_journal(path)
    for _ in range(20):
        await make(journal, *[bytes(20_000)] * 4)
        journal.forget(journal.made)
    assert path.stat().st_size < 600_000, "the file is rewritten when most of it is waste"
    await journal.close()
    again = open_journal(path)
    assert (again.made, again.saved) == (80, 80)
    await again.close()


async def test_file_cut_at_any_byte_keeps_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = await fill(path, 4)
    journal.forget(1)
    await make(journal, b"payload 5")
    await journal.close()
    data = path.read_bytes()
    for size in range(len(data) + 1):
        try:
            contents = read_journal(path, data[:size])
        except JournalDamaged:
            assert size < RECORDS_START / 2, "one header is enough"
            continue
        assert contents.made <= 5
        assert contents.payloads == {n: b"payload %d" % n for n in range(contents.saved + 1, contents.made + 1)}, (
            f"cut at {size}"
        )
    assert contents.made == 5


@pytest.mark.parametrize("cut_bytes", [1, 7, 16, 20, 26])
async def test_torn_tail_is_cut_and_the_number_used_again(tmp_path: Path, cut_bytes: int) -> None:
    path = tmp_path / "journal"
    await (await fill(path, 3)).close()
    os.truncate(path, path.stat().st_size - cut_bytes)
    journal = open_journal(path)
    made = journal.made
    assert made in (1, 2)
    assert await make(journal, b"new") == [made + 1]
    await journal.close()
    again = open_journal(path)
    assert again.list_after(made, 9) == [(made + 1, b"new")]
    assert not again.damaged
    await again.close()


async def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = await fill(path, 3)
    device = journal.device
    await journal.close()
    data = path.read_bytes()
    truth = {n: b"payload %d" % n for n in (1, 2, 3)}
    record_bytes = len(encode_record(1, truth[1]))
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            contents = read_journal(path, bytes(flipped))
            assert contents.header.device == device
            if at < RECORDS_START:
                assert contents.payloads == truth
                assert contents.good_bytes is None, "a damaged header is written anew"
                continue
            hit = (at - RECORDS_START) // record_bytes + 1
            expected = dict(truth)
            if hit == 3:
                del expected[3]  # nothing behind it: it looks like a torn tail
            else:
                expected[hit] = DAMAGED
            assert contents.payloads == expected, f"byte {at} bit {bit}"


async def test_damaged_record_keeps_its_number_and_those_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    await (await fill(path, 4)).close()
    data = bytearray(path.read_bytes())
    data[RECORDS_START + 30] ^= 0x10
    path.write_bytes(data)
    for _ in range(2):  # and the same when it is opened again, because it was written anew
        journal = open_journal(path)
        assert journal.damaged == {2}
        assert [payload for _, payload in journal.list_after(0, 9)] == [
            b"payload 1",
            DAMAGED,
            b"payload 3",
            b"payload 4",
        ]
        await journal.close()


@pytest.mark.parametrize("content", [b"", b"hello", bytes(4096), b"WAYHOLDJ" + bytes(4096)])
def test_file_that_is_no_journal_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(JournalDamaged):
        open_journal(path)
    assert path.read_bytes() == content
    path.unlink()
    open_journal(path)  # the lock was let go


async def test_journal_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    await (await fill(path, 1)).close()
    for more in ({"player": "other"}, {"experience": "other"}, {"server": "ws://other"}, {"device": "other"}):
        with pytest.raises(JournalForeign):
            open_journal(path, **more)
    journal = open_journal(path)
    assert journal.made == 1
    await journal.close()


def test_second_writer_is_refused_in_this_process_and_in_another(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = open_journal(path)
    with pytest.raises(JournalBusy):
        open_journal(path)
    program = textwrap.dedent(
        f"""
        from protocol.client.journal import FileJournal, JournalBusy
        try:
            FileJournal({str(path)!r}, **{OWNER!r})
        except JournalBusy:
            print("busy")
        """
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert child.stdout == "busy\n"
    asyncio.run(journal.close())
    asyncio.run(open_journal(path).close())


def test_killed_writer_loses_nothing_that_was_synced(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    program = textwrap.dedent(
        f"""
        import asyncio
        from protocol.client.journal import FileJournal
        async def main():
            journal = FileJournal({str(path)!r}, entries_max=100_000, **{OWNER!r})
            while True:
                for _ in range(20):
                    journal.append(b"payload %d" % (journal.made + 1))
                await journal.sync()
                if journal.made % 400 == 0:
                    journal.forget(journal.made - 200)
                print(journal.made, flush=True)
        asyncio.run(main())
        """
    )
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        told = 0
        for _ in range(40):
            told = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest, _ = child.communicate(timeout=30)
        told = max([told, *(int(line) for line in rest.split("\n")[:-1])])
        journal = open_journal(path)
        assert journal.made >= told
        assert journal.moved_at is None
        kept = journal.list_after(0, 1000)
        assert kept == [(seq, b"payload %d" % seq) for seq in range(journal.saved + 1, journal.saved + len(kept) + 1)]
        assert not journal.damaged
        asyncio.run(journal.close())


class CountingDisk(Disk):
    """A real disk that counts its syncs."""

    def __init__(self) -> None:
        self.syncs = 0

    def sync(self, handle: int) -> None:
        self.syncs += 1
        super().sync(handle)


async def test_updates_made_together_share_a_sync(tmp_path: Path) -> None:
    disk = CountingDisk()
    journal = open_journal(tmp_path / "journal", disk=disk)
    disk.syncs = 0

    async def make_one(n: int) -> int:
        seq = journal.append(b"%d" % n)
        await journal.sync()
        assert journal.synced >= seq
        return seq

    seqs = await asyncio.gather(*(make_one(n) for n in range(200)))
    assert seqs == list(range(1, 201))
    assert disk.syncs <= 2
    await journal.close()


async def test_cancelled_sync_still_writes(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = open_journal(path)
    journal.append(b"payload 1")
    task = asyncio.create_task(journal.sync())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await journal.sync()
    assert journal.synced == 1
    await journal.close()
    assert open_journal(path).made == 1


def make_disk(tmp_path: Path, **more: Any) -> tuple[ForgetfulDisk, Path]:
    return ForgetfulDisk(**more), tmp_path / "journal"


async def test_full_disk_takes_back_what_it_refused(tmp_path: Path) -> None:
    disk, path = make_disk(tmp_path)
    journal = await fill(path, 2, disk=disk)
    disk.room_bytes = 30
    journal.append(b"x" * 10)
    journal.append(b"y" * 10)
    with pytest.raises(OSError, match="space"):
        await journal.sync()
    assert (journal.made, journal.synced) == (2, 2)
    disk.room_bytes = None
    assert await make(journal, b"z") == [3]
    await journal.close()
    again = open_journal(path, disk=disk.restart(Random(1)))
    assert again.list_after(0, 9) == [(1, b"payload 1"), (2, b"payload 2"), (3, b"z")]


async def test_failed_sync_breaks_the_journal_until_it_is_opened_anew(tmp_path: Path) -> None:
    disk, path = make_disk(tmp_path)
    journal = await fill(path, 2, disk=disk)
    disk.fails_sync = True
    journal.append(b"x")
    with pytest.raises(JournalBroken):
        await journal.sync()
    disk.fails_sync = False
    with pytest.raises(JournalBroken):
        journal.append(b"y")
    assert journal.synced == 2
    assert [seq for seq, _ in journal.list_after(0, 9)] == [1, 2], "what is there can still be sent"
    await journal.close()
    assert open_journal(path, disk=disk.restart(Random(1))).list_after(0, 2) == [(1, b"payload 1"), (2, b"payload 2")]


async def test_reset_that_the_disk_refuses_is_not_synced(tmp_path: Path) -> None:
    disk, path = make_disk(tmp_path)
    journal = await fill(path, 3, disk=disk)
    old = journal.device
    disk.room_bytes = 100
    journal.reset("other", keep_after=1)
    journal.append(b"later")
    with pytest.raises(OSError, match="space"):
        await journal.sync()
    assert (journal.synced, journal.made) == (-1, 2), "what was durable under its old number is kept"
    survivor = open_journal(path, disk=disk.restart(Random(1)))
    assert (survivor.device, survivor.made) == (old, 3)
    disk.room_bytes = None
    journal.append(b"more")
    await journal.sync()
    assert (journal.synced, journal.device) == (3, "other")
    await journal.close()
    again = open_journal(path, disk=disk.restart(Random(1)))
    assert (again.device, again.made, again.moved_at) == ("other", 3, None)
    assert again.list_after(0, 9) == [(1, b"payload 2"), (2, b"payload 3"), (3, b"more")]


async def test_journal_without_its_marker_knows_that_it_was_moved(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = await fill(path, 3)
    old = journal.device
    await journal.close()
    (tmp_path / "journal.marker").unlink()
    moved = open_journal(path)
    assert (moved.device, moved.moved_at) == (old, 3)
    await make(moved, b"made here")
    await moved.close()

    # Until it has asked, it stays moved: also when it is opened again, and even if a marker turns up.
    (tmp_path / "journal.marker").write_text(old)
    moved = open_journal(path)
    assert (moved.moved_at, moved.made) == (3, 4)
    moved.reset("new", keep_after=2)
    await moved.sync()
    assert moved.moved_at is None
    await moved.close()
    again = open_journal(path)
    assert (again.device, again.moved_at) == ("new", None)
    assert again.list_after(0, 9) == [(1, b"payload 3"), (2, b"made here")]
    await again.close()


async def test_marker_can_lie_apart(tmp_path: Path) -> None:
    marker = tmp_path / "not backed up" / "marker"
    journal = await fill(tmp_path / "data" / "journal", 1, marker_path=marker)
    assert marker.read_text().strip() == journal.device
    await journal.close()
    elsewhere = tmp_path / "restored"
    elsewhere.mkdir()
    (elsewhere / "journal").write_bytes((tmp_path / "data" / "journal").read_bytes())
    restored = open_journal(elsewhere / "journal", marker_path=tmp_path / "new phone" / "marker")
    assert restored.moved_at == 1
    await restored.close()


def test_later_format_is_not_touched(tmp_path: Path) -> None:
    import msgpack

    from protocol.client import journal_format as module

    path = tmp_path / "journal"
    body = msgpack.packb({"format": 2})
    header = module._HEADER.pack(module.MAGIC, len(body), module.zlib.crc32(body)) + body
    path.write_bytes(header.ljust(1024, b"\0") * 2)
    with pytest.raises(JournalDamaged, match="format is 2"):
        open_journal(path)
