"""The journal under power cuts: whatever happened, what was synced is there, in order, under a number of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from protocol.client.journal import FileJournal
from tests.unit.client.forgetful_disk import ForgetfulDisk, PowerCut

OWNER = {"server": "s", "player": "p", "experience": "e"}


class Story:
    """Random work on one journal, and what may and must be on its disk afterwards."""

    def __init__(self, seed: int, path: Path, cut_at: int | None) -> None:
        self.rng = Random(seed)
        self.path = path
        self.disk = ForgetfulDisk(cut_at=cut_at)
        self.steps = 0
        # Per device: what must be there (synced, not forgotten) and everything that may be.
        self.device = ""
        self.must: dict[int, bytes] = {}
        self.must_before: dict[str, dict[int, bytes]] = {}
        self.may: dict[str, dict[int, bytes]] = {}

    async def run(self) -> None:
        journal = FileJournal(self.path, disk=self.disk, **OWNER)
        try:
            self.device = journal.device
            self.may = {self.device: {}}
            for _ in range(12):
                await self._work(journal)
            await journal.close()
        finally:
            await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))

    async def _work(self, journal: FileJournal) -> None:
        match self.rng.choice(["make", "make", "make", "forget", "reset", "many"]):
            case "forget" if journal.made:
                upto = self.rng.randint(journal.saved, journal.made)
                for seq in range(journal.saved + 1, upto + 1):
                    self.must.pop(seq, None)
                journal.forget(upto)
            case "reset":
                keep_after = self.rng.randint(journal.saved, journal.made)
                device = f"device-{len(self.may) + 1}"
                self.may[device] = {seq - keep_after: payload for seq, payload in journal.list_after(keep_after, 1000)}
                # Either the old journal or the new one is on the disk; what both must have is under another number.
                before, self.must = self.must, {}
                self.must_before = {self.device: before}
                journal.reset(device, keep_after)
                await journal.sync()
                self.must_before = {}
                self.device = device
                self.must = {seq - keep_after: payload for seq, payload in before.items() if seq > keep_after}
            case kind:
                for _ in range(self.rng.randint(2, 6) if kind == "many" else 1):
                    self.steps += 1
                    payload = b"step %d" % self.steps + (bytes(90_000) if kind == "many" else b"")
                    self.may[journal.device][journal.append(payload)] = payload
                made = list(journal.list_after(0, 1000))
                await journal.sync()
                self.must.update(made)

    def check(self, disk: ForgetfulDisk) -> None:
        journal = FileJournal(self.path, disk=disk, **OWNER)
        assert journal.moved_at is None, "a power cut is no migration"
        if not self.may:
            return
        assert journal.device in self.may or not self.must, "a journal that was there is there again"
        held = dict(journal.list_after(0, 1000))
        assert not journal.damaged
        assert all(self.may[journal.device][seq] == payload for seq, payload in held.items())
        must = {self.device: self.must, **self.must_before}
        if self.must:
            assert journal.device in must, "a device that was left must not come back"
        for seq, payload in must.get(journal.device, {}).items():
            assert held.get(seq) == payload, f"{seq} was synced"
        if journal.device == self.device:
            assert sorted(held) == list(range(journal.saved + 1, journal.made + 1))


def run_story(seed: int, path: Path, cut_at: int | None) -> Story:
    story = Story(seed, path, cut_at)
    try:
        asyncio.run(story.run())
    except (PowerCut, BaseExceptionGroup):
        pass
    return story


@pytest.mark.parametrize("seed", range(6))
def test_power_cut_at_every_operation(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = run_story(seed, path, None)
    whole.check(whole.disk.restart(Random(seed)))
    for cut_at in range(1, whole.disk.operations + 1):
        story = run_story(seed, path, cut_at)
        for fate in range(3):
            story.check(story.disk.restart(Random(seed * 1000 + fate)))
