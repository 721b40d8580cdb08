"""
Many players' progress with one read of Postgres: what is asked for while reads are under way goes together in the next.

Promise: a question is answered by a read that begins after it was asked, or with why there is none. Live players before
new ones, within a rank the first comes first. A question that Postgres refuses fails alone. Everything is bounded: the
reads at once, the questions in one, those that wait and how long, and how many answers are worked on together.

Not here: what is read, and what is done with it (hydrator.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from persistence.cold.connect import is_refused
from persistence.errors import StoreUnavailable

LANES = 2
"""Reads at once: while the answers of one are worked on, Postgres reads the next."""

BATCH_MAX = 64
"""Questions in one read: it stays one of a few ms, and its answers are soon worked off. Fewer after one that failed."""

ANSWERS_AT_ONCE = 8
"""Answers that are worked on together: all of them at once would keep the loop, and Redis, from those who play."""

WAITING_MAX = 20_000
"""Questions of either rank that wait. Far more than can be answered before whoever asked has gone."""

WAIT_S = 10.0
"""A question whose turn comes later is not read for any more: hellos have given up, and live players ask again."""

RELEASE_S = 5.0
"""How long a lane waits for those that it has answered before it goes on without them."""

Q = TypeVar("Q")
A = TypeVar("A")


class _Asker(Generic[Q, A]):
    __slots__ = ("answer", "due", "question", "released")

    def __init__(self, question: Q, due: float) -> None:
        loop = asyncio.get_running_loop()
        self.question = question
        self.due = due
        self.answer: asyncio.Future[A] = loop.create_future()
        self.released: asyncio.Future[None] = loop.create_future()

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class ColdReads(Generic[Q, A]):
    """
    `read` answers questions, in their order. StoreUnavailable whose cause is that Postgres refused a value makes it be
    asked again in halves, until the one that is to blame fails alone; every other error is everybody's.
    """

    def __init__(self, read: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._live: deque[_Asker[Q, A]] = deque()
        self._new: deque[_Asker[Q, A]] = deque()
        self._batch_max = BATCH_MAX
        self._running = 0
        self._is_starting = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        return len(self._live) + len(self._new)

    @asynccontextmanager
    async def turn(self, question: Q, *, is_live: bool) -> AsyncIterator[A]:
        """
        The answer. Those that were answered together are waited for before the next are, until they leave this block.

        Raises:
            StoreUnavailable: there is none.
        """
        line = self._live if is_live else self._new
        if len(line) >= WAITING_MAX:
            raise StoreUnavailable("postgres", "find_many", "too many wait for it")
        asker: _Asker[Q, A] = _Asker(question, self._clock() + WAIT_S)
        line.append(asker)
        self._start_lane()
        try:
            yield await asker.answer
        finally:
            if not asker.released.done():
                asker.released.set_result(None)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        for asker in (*self._live, *self._new):
            asker.answer.cancel()
        self._live.clear()
        self._new.clear()

    def _start_lane(self) -> None:
        # One that has not looked yet takes what is asked in the same turn of the loop, too.
        if self._running < LANES and not self._is_starting:
            self._running += 1
            self._is_starting = True
            task = asyncio.get_running_loop().create_task(self._run_lane(), name="cold reads")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_lane(self) -> None:
        self._is_starting = False
        try:
            while batch := self._take():
                await self._answer(batch)
        finally:
            # At once, not when the task is seen to be done: whoever asks in between must start another.
            self._running -= 1

    def _take(self) -> list[_Asker[Q, A]]:
        batch: list[_Asker[Q, A]] = []
        now = self._clock()
        while len(batch) < self._batch_max:
            line = self._live or self._new
            if not line:
                break
            asker = line.popleft()
            if asker.answer.done():
                continue  # whoever asked has gone
            if asker.due <= now:
                asker.fail(StoreUnavailable("postgres", "find_many", "it answers too slowly"))
            else:
                batch.append(asker)
        return batch

    async def _answer(self, batch: list[_Asker[Q, A]]) -> None:
        try:
            answers = await self._read([asker.question for asker in batch])
        except StoreUnavailable as error:
            cause = error.__cause__
            if len(batch) > 1 and cause is not None and is_refused(cause):
                middle = len(batch) // 2
                await self._answer(batch[:middle])
                await self._answer(batch[middle:])
                return
            # A Postgres that is slow rather than away has time for a few: they must not fail for their number.
            self._batch_max = max(1, self._batch_max // 2)
            for asker in batch:
                own = StoreUnavailable(error.store, error.operation, cause or error)
                own.__cause__ = cause
                asker.fail(own)
            return
        except asyncio.CancelledError:
            for asker in batch:
                asker.answer.cancel()
            raise
        except Exception as error:
            for asker in batch:
                asker.fail(error)
            return
        self._batch_max = min(self._batch_max * 2, BATCH_MAX)
        await self._hand_out(batch, answers)

    async def _hand_out(self, batch: list[_Asker[Q, A]], answers: Sequence[A]) -> None:
        told = 0
        try:
            for first in range(0, len(batch), ANSWERS_AT_ONCE):
                answered = batch[first : first + ANSWERS_AT_ONCE]
                for asker, answer in zip(answered, answers[first : first + ANSWERS_AT_ONCE], strict=True):
                    told += 1
                    if not asker.answer.done():
                        asker.answer.set_result(answer)
                    elif not asker.released.done():
                        asker.released.set_result(None)
                await asyncio.wait([asker.released for asker in answered], timeout=RELEASE_S)
        finally:
            for asker in batch[told:]:
                asker.answer.cancel()
