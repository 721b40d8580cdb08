"""Group commit with a store that the test answers for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from gateway.sessions import committer as committer_module
from gateway.sessions.committer import BYTES_MAX, GROUPS_MAX, SHARE_MAX, UPDATES_MAX, Committer
from gateway.sessions.connection import Phase
from persistence.errors import StoreFull, StoreUnavailable
from persistence.hot.known_fields import KnownFields
from persistence.hot.shapes import GroupHeader, GroupVerdict, HotUpdate, Outcome, UpdateGroup
from persistence.progress_key import ProgressKey


class Player:
    """As much of a connection as the committer knows."""

    def __init__(self, name: str) -> None:
        self.key = ProgressKey(name, "x")
        self.phase = Phase.PLAYING
        self.header, self.told = GroupHeader(name.encode()), 0
        self.queue: list[HotUpdate] = []
        self.queue_bytes = self.in_flight = 0
        self.heard_at = self.looked_at = 0.0
        self.known: KnownFields | None = None
        self.is_durable = self.is_ready = False
        self.verdicts: list[GroupVerdict] = []
        self.faults: list[str] = []

    @property
    def is_open(self) -> bool:
        return self.phase is not Phase.ENDED

    def add(self, count: int, size: int = 10, ops: int = 1) -> None:
        first = len(self.queue) + 1
        for seq in range(first, first + count):
            self.queue.append(HotUpdate(seq, "id", b"x" * size, [("set", "a", "a", b"1")] * ops))
            self.queue_bytes += size


class Store:
    """Answers each call with what the test put into `answers`, by default with OK."""

    def __init__(self) -> None:
        self.calls: list[list[UpdateGroup]] = []
        self.answers: list[Any] = []
        self.gate: asyncio.Event | None = None

    async def apply_updates(self, groups: Sequence[UpdateGroup]) -> list[GroupVerdict]:
        self.calls.append(list(groups))
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else None
        if callable(answer):
            answer = answer(groups)
        if isinstance(answer, Exception):
            raise answer
        return [GroupVerdict(Outcome.OK, len(g.updates), 1, 0, len(g.updates), 0) for g in groups]


class Rig:
    def __init__(self, gather_s: float = 0.0) -> None:
        self.store = Store()
        self.changed = asyncio.Event()

        def tell(heard: list[Any], what: object) -> None:
            heard.append(what)
            self.changed.set()

        self.committer = Committer(
            self.store,  # type: ignore[arg-type]
            clock=asyncio.get_running_loop().time,
            on_verdict=lambda c, group, verdict: tell(c.verdicts, verdict),  # type: ignore[attr-defined]
            on_full=lambda c, group: tell(c.faults, "full"),  # type: ignore[attr-defined]
            on_outage=lambda c: tell(c.faults, "outage"),  # type: ignore[attr-defined]
            on_fault=lambda c, error: tell(c.faults, type(error).__name__),  # type: ignore[attr-defined]
            gather_s=gather_s,
        )

    def enqueue(self, *players: Player) -> None:
        for player in players:
            self.committer.enqueue(player)  # type: ignore[arg-type]

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not check():
                self.changed.clear()
                await self.changed.wait()

    async def settle(self) -> None:
        """Let everything that waits be committed."""
        self.committer.stop()
        async with asyncio.timeout(10):
            await self.committer.run()


async def test_what_waits_goes_together_and_in_order() -> None:
    rig, a, b = Rig(), Player("a"), Player("b")
    a.add(3)
    b.add(2)
    rig.enqueue(a, b, a)
    await rig.settle()
    (call,) = rig.store.calls
    assert [(g.header, [u.seq for u in g.updates]) for g in call] == [(b"a", [1, 2, 3]), (b"b", [1, 2])]
    assert a.verdicts[0].accepted == 3 and a.in_flight == 0 and not a.is_ready and a.queue_bytes == 0


async def test_one_call_is_in_flight_and_what_comes_meanwhile_goes_with_the_next() -> None:
    rig, players = Rig(), [Player(str(n)) for n in range(5)]
    rig.store.gate = asyncio.Event()
    running = asyncio.create_task(rig.committer.run())
    for player in players:
        player.add(1)
        rig.enqueue(player)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(rig.store.calls) == 1
    rig.store.gate.set()
    rig.committer.stop()
    await running
    assert [len(call) for call in rig.store.calls] == [1, 4]


async def test_what_comes_one_by_one_gathers_for_as_long_as_it_may() -> None:
    rig, players = Rig(gather_s=0.05), [Player(str(n)) for n in range(5)]
    running = asyncio.create_task(rig.committer.run())
    for player in players:
        player.add(1)
        rig.enqueue(player)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert rig.store.calls == []
    await rig.until(lambda: all(player.verdicts for player in players))
    rig.committer.stop()
    await running
    assert [len(call) for call in rig.store.calls] == [5]


async def test_a_whole_call_waits_for_nothing_more() -> None:
    rig, players = Rig(gather_s=60.0), [Player(str(n)) for n in range(GROUPS_MAX)]
    for player in players:
        player.add(1)
    rig.enqueue(*players)
    running = asyncio.create_task(rig.committer.run())
    await rig.until(lambda: all(player.verdicts for player in players))
    rig.committer.stop()
    await running


async def test_a_long_journal_does_not_hold_up_a_single_step() -> None:
    rig, long, short = Rig(), Player("long"), Player("short")
    long.add(500)
    short.add(1)
    rig.enqueue(long, short)
    await rig.settle()
    assert [len(g.updates) for g in rig.store.calls[0]] == [SHARE_MAX, 1]
    assert all(sum(len(g.updates) for g in call) <= UPDATES_MAX for call in rig.store.calls)
    seqs = [u.seq for call in rig.store.calls for g in call if g.header == b"long" for u in g.updates]
    assert seqs == list(range(1, 501))
    assert len(rig.store.calls) <= 6, "alone, it gets whole calls"


async def test_a_call_is_bounded_by_bytes_and_operations_and_a_giant_goes_alone() -> None:
    rig, big, many, giant = Rig(), Player("big"), Player("many"), Player("giant")
    big.add(10, size=BYTES_MAX // 4)
    many.add(5, ops=600)
    giant.add(1, size=BYTES_MAX * 2)
    rig.enqueue(giant, big, many)
    await rig.settle()
    for call in rig.store.calls:
        updates = [update for group in call for update in group.updates]
        assert len(updates) == 1 or sum(2 * len(update.body) for update in updates) <= BYTES_MAX
        assert len(updates) == 1 or sum(len(update.ops) for update in updates) <= 1000
    assert sum(len(g.updates) for call in rig.store.calls for g in call) == 16


async def test_a_call_without_an_answer_is_made_again_with_the_same_updates() -> None:
    rig, player = Rig(), Player("a")
    player.add(2)
    rig.store.answers = [StoreUnavailable("redis", "apply_updates", "no")] * 2
    rig.enqueue(player)
    running = asyncio.create_task(rig.committer.run())
    await rig.until(lambda: bool(player.verdicts))
    assert [[u.seq for u in call[0].updates] for call in rig.store.calls] == [[1, 2]] * 3
    assert player.faults == [] and rig.committer.failing_since is None
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_an_outage_that_lasts_is_given_up_and_healed_by_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer_module, "OUTAGE_DEADLINE_S", 0.05)
    rig, player, later = Rig(), Player("a"), Player("b")
    player.add(1)
    rig.store.answers = [StoreUnavailable("redis", "apply_updates", "no")] * 3
    rig.enqueue(player)
    running = asyncio.create_task(rig.committer.run())
    await rig.until(lambda: bool(player.faults))
    assert player.faults == ["outage"]
    rig.store.answers = []
    later.add(1)
    rig.enqueue(later)
    await rig.until(lambda: bool(later.verdicts))
    assert rig.committer.failing_since is None
    running.cancel()


async def test_those_who_left_are_not_asked_for_again() -> None:
    rig, gone, there = Rig(), Player("gone"), Player("there")
    gone.add(1)
    there.add(1)

    def leave(_: object) -> Exception:
        gone.phase = Phase.ENDED
        return StoreUnavailable("redis", "apply_updates", "no")

    rig.store.answers = [leave]
    rig.enqueue(gone, there)
    running = asyncio.create_task(rig.committer.run())
    await rig.until(lambda: bool(there.verdicts))
    assert [group.header for group in rig.store.calls[1]] == [b"there"]
    running.cancel()


async def test_a_full_store_and_a_poisoned_group_are_told_apart() -> None:
    rig, poison, fine = Rig(), Player("poison"), Player("fine")
    poison.add(1)
    fine.add(1)

    def refuse(groups: Any) -> Exception | None:
        return TypeError("poison") if any(g.header == b"poison" for g in groups) else None

    rig.store.answers = [refuse] * 3
    rig.enqueue(poison, fine)
    await rig.settle()
    assert poison.faults == ["TypeError"] and fine.faults == [] and fine.verdicts

    rig = Rig()
    fine.add(1)
    rig.store.answers = [StoreFull("apply_updates")]
    rig.enqueue(fine)
    await rig.settle()
    assert fine.faults == ["full"]


async def test_a_fault_in_telling_one_player_does_not_keep_the_others_from_hearing() -> None:
    rig, deaf, fine = Rig(), Player("deaf"), Player("fine")
    deaf.add(1)
    fine.add(1)
    deaf.verdicts = None  # type: ignore[assignment]
    rig.enqueue(deaf, fine)
    await rig.settle()
    assert fine.verdicts and deaf.faults == ["AttributeError"]
