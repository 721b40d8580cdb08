"""Questions of many players share reads: in which order, how many, and what becomes of them when a read fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import asyncpg
import pytest

from gateway.sessions import cold_reads
from gateway.sessions.cold_reads import ANSWERS_AT_ONCE, BATCH_MAX, LANES, WAIT_S, ColdReads
from persistence.errors import StoreUnavailable


class Postgres:
    """Answers `n` with `-n`, when it is let; a question that it refuses fails the read that it is in."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reads: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refused: set[int] = set()
        self.error: Exception | None = None
        self.under_way = 0
        self.under_way_max = 0
        self.store: ColdReads[int, int] = ColdReads(self.read, lambda: self.now)

    async def read(self, questions: Sequence[int]) -> list[int]:
        self.reads.append(list(questions))
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        if self.refused.intersection(questions):
            cause = asyncpg.exceptions.CharacterNotInRepertoireError("a NUL")
            raise StoreUnavailable("postgres", "find_many", cause) from cause
        return [-question for question in questions]

    async def ask(self, question: int, *, is_live: bool = False) -> int:
        async with self.store.turn(question, is_live=is_live) as answer:
            return answer

    def start(self, questions: Sequence[int], *, is_live: bool = False) -> list[asyncio.Task[int]]:
        return [asyncio.create_task(self.ask(question, is_live=is_live)) for question in questions]

    async def occupy(self) -> list[asyncio.Task[int]]:
        """Every lane has a read that hangs; what is asked from here on waits."""
        self.gate.clear()
        tasks = []
        for lane in range(LANES):
            tasks += self.start([1000 + lane])
            await until(partial(self._are_under_way, lane + 1))
        return tasks

    def _are_under_way(self, count: int) -> bool:
        return self.under_way == count


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 - turns of the loop are what is waited for
            await asyncio.sleep(0)


async def test_what_is_asked_in_one_turn_of_the_loop_is_one_read() -> None:
    postgres = Postgres()
    assert await asyncio.gather(*postgres.start(range(1, 11))) == [-n for n in range(1, 11)]
    assert postgres.reads == [list(range(1, 11))]


async def test_what_is_asked_while_reads_are_under_way_goes_in_the_next_live_players_first() -> None:
    postgres = Postgres()
    busy = await postgres.occupy()
    new = postgres.start(range(1, 4))
    live = postgres.start(range(4, 6), is_live=True)
    await until(lambda: postgres.store.waiting == 5)
    postgres.gate.set()
    await asyncio.gather(*busy, *new, *live)
    assert postgres.reads[LANES:] == [[4, 5, 1, 2, 3]]


async def test_reads_and_their_size_are_bounded() -> None:
    postgres = Postgres()
    busy = await postgres.occupy()
    asked = range(1, 3 * BATCH_MAX)
    tasks = postgres.start(asked)
    await until(lambda: postgres.store.waiting == len(asked))
    postgres.gate.set()
    assert await asyncio.gather(*tasks) == [-n for n in asked]
    await asyncio.gather(*busy)
    assert postgres.under_way_max == LANES
    assert max(len(read) for read in postgres.reads) == BATCH_MAX
    assert sorted(chain(*postgres.reads[LANES:])) == list(asked)


async def test_answers_are_worked_on_a_few_at_a_time() -> None:
    postgres = Postgres()
    let_go = asyncio.Event()
    working: list[int] = []

    async def work(question: int) -> None:
        async with postgres.store.turn(question, is_live=False):
            working.append(question)
            await let_go.wait()

    tasks = [asyncio.create_task(work(n)) for n in range(ANSWERS_AT_ONCE * 2)]
    await until(lambda: len(working) >= ANSWERS_AT_ONCE)
    for _ in range(20):
        await asyncio.sleep(0)
    assert working == list(range(ANSWERS_AT_ONCE))
    let_go.set()
    await asyncio.gather(*tasks)
    assert working == list(range(ANSWERS_AT_ONCE * 2))


async def test_whoever_never_lets_go_holds_up_the_others_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_reads, "RELEASE_S", 0.01)
    postgres = Postgres()
    never = asyncio.Event()

    async def hang(question: int) -> None:
        async with postgres.store.turn(question, is_live=False):
            await never.wait()

    hanging = [asyncio.create_task(hang(n)) for n in range(ANSWERS_AT_ONCE)]
    later = postgres.start([100])
    async with asyncio.timeout(5):
        assert await asyncio.gather(*later) == [-100]
    never.set()
    await asyncio.gather(*hanging)


async def test_a_question_that_postgres_refuses_fails_alone() -> None:
    postgres = Postgres()
    postgres.refused = {5}
    answers = await asyncio.gather(*postgres.start(range(1, 17)), return_exceptions=True)
    assert [n for n, answer in enumerate(answers, 1) if isinstance(answer, StoreUnavailable)] == [5]
    assert [answer for answer in answers if isinstance(answer, int)] == [-n for n in range(1, 17) if n != 5]
    assert len(postgres.reads) <= 2 * 4 + 1, "halves, not one read for each"


async def test_a_postgres_that_is_away_fails_everybody_with_one_read() -> None:
    postgres = Postgres()
    postgres.error = StoreUnavailable("postgres", "find_many", "gone")
    answers = await asyncio.gather(*postgres.start(range(1, 17)), return_exceptions=True)
    assert len(postgres.reads) == 1
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    assert len({id(answer) for answer in answers}) == 16, "an exception belongs to one who raises it"
    postgres.error = None
    assert await postgres.ask(1) == -1


async def test_a_postgres_that_is_too_slow_for_many_is_asked_about_fewer_until_it_answers() -> None:
    postgres = Postgres()
    read = postgres.read

    async def slow(questions: Sequence[int]) -> list[int]:
        answers = await read(questions)
        if len(questions) > 10:
            raise StoreUnavailable("postgres", "find_many", TimeoutError())
        return answers

    postgres.store = ColdReads(slow, lambda: postgres.now)
    for size in (64, 32, 16):
        failed = await asyncio.gather(*postgres.start(range(size)), return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) for answer in failed)
    assert await asyncio.gather(*postgres.start(range(8))) == [-n for n in range(8)]
    assert [len(read) for read in postgres.reads] == [64, 32, 16, 8]
    # It is given more again, as it answers.
    postgres.store = ColdReads(postgres.read, lambda: postgres.now)
    postgres.error = StoreUnavailable("postgres", "find_many", "gone")
    await asyncio.gather(*postgres.start(range(64)), return_exceptions=True)
    postgres.error = None
    postgres.reads.clear()
    await asyncio.gather(*postgres.start(range(160)))
    sizes = [len(read) for read in postgres.reads]
    assert sizes[0] == 32 and max(sizes) == BATCH_MAX


async def test_a_fault_of_ours_reaches_whoever_asked_and_the_next_read_goes_on() -> None:
    postgres = Postgres()
    postgres.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await postgres.ask(1)
    postgres.error = None
    assert await postgres.ask(1) == -1


async def test_a_question_that_waited_too_long_is_not_read_for() -> None:
    postgres = Postgres()
    busy = await postgres.occupy()
    late = postgres.start([1])
    await until(lambda: postgres.store.waiting == 1)
    postgres.now = WAIT_S
    fresh = postgres.start([2])
    await until(lambda: postgres.store.waiting == 2)
    postgres.gate.set()
    with pytest.raises(StoreUnavailable):
        await late[0]
    assert await fresh[0] == -2
    await asyncio.gather(*busy)
    assert postgres.reads[LANES:] == [[2]]


async def test_one_more_than_may_wait_is_told_at_once_and_live_players_have_a_line_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cold_reads, "WAITING_MAX", 3)
    postgres = Postgres()
    busy = await postgres.occupy()
    new = postgres.start(range(1, 4))
    await until(lambda: postgres.store.waiting == 3)
    with pytest.raises(StoreUnavailable):
        await postgres.ask(4)
    live = postgres.start([5], is_live=True)
    await until(lambda: postgres.store.waiting == 4)
    postgres.gate.set()
    assert await asyncio.gather(*new, *live) == [-1, -2, -3, -5]
    await asyncio.gather(*busy)


async def test_whoever_is_cancelled_is_not_read_for_and_holds_up_nobody() -> None:
    postgres = Postgres()
    busy = await postgres.occupy()
    tasks = postgres.start(range(1, 5))
    await until(lambda: postgres.store.waiting == 4)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]], timeout=5)
    postgres.gate.set()
    assert [await tasks[n] for n in (0, 2, 3)] == [-1, -3, -4]
    assert postgres.reads[LANES:] == [[1, 3, 4]]
    busy[0].cancel()  # after its answer: too late to matter
    assert await postgres.ask(9) == -9


async def test_whoever_is_cancelled_during_the_read_holds_up_nobody() -> None:
    postgres = Postgres()
    postgres.gate.clear()
    tasks = postgres.start(range(1, 4))
    await until(lambda: postgres.under_way == 1)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]], timeout=5)
    postgres.gate.set()
    assert [await task for task in tasks[1:]] == [-2, -3]
    assert await postgres.ask(9) == -9


async def test_closing_ends_whoever_waits() -> None:
    postgres = Postgres()
    tasks = [*await postgres.occupy(), *postgres.start([1, 2])]
    await until(lambda: postgres.store.waiting == 2)
    await postgres.store.close()
    done, pending = await asyncio.wait(tasks, timeout=5)
    assert not pending and all(task.cancelled() for task in done)
    assert postgres.under_way == 0
