"""
Who waits for what: a number to be accepted or saved, a session, an answer, the end.

Promise: nobody waits for ever. Whoever waits is told when the client comes to rest, if nothing else happened before.
"""

from __future__ import annotations

import asyncio
from typing import Any

from protocol.client.actions import Refused
from protocol.client.client_errors import ClientStopped, QueryRefused


class AskAgain(Exception):
    """A query found no answer now: repeat it after this wait."""

    def __init__(self, retry_s: float) -> None:
        self.retry_s = retry_s
        super().__init__()


class Waiting:
    """Of one client. The futures are of its loop."""

    __slots__ = ("accepted", "leaving", "queries", "saved", "suspending", "turn")

    def __init__(self) -> None:
        self.accepted = SeqWaiters()
        self.saved = SeqWaiters()
        self.turn: list[asyncio.Future[None]] = []  # for the next welcome
        self.queries: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.leaving: asyncio.Future[bool] | None = None
        self.suspending: asyncio.Future[float] | None = None

    def note_welcome(self) -> None:
        for future in self.turn:
            resolve(future)
        self.turn = []

    def answer(self, id: str, data: Any) -> None:
        answer = self.queries.get(id)
        if answer is not None and not answer.done():
            answer.set_result(data if isinstance(data, dict) else {})

    def refuse(self, id: str, refused: Refused) -> None:
        answer = self.queries.get(id)
        if answer is None or answer.done():
            return
        if 200 <= refused.code < 300:
            answer.set_exception(AskAgain((refused.retry_after_ms or 1000) / 1000))
        else:
            answer.set_exception(QueryRefused(refused.code, refused.name, refused.message))

    def note_suspended(self, expires_s: float) -> None:
        if self.suspending is not None and not self.suspending.done():
            self.suspending.set_result(expires_s)
        self.suspending = None

    def note_left(self, is_saved: bool) -> None:
        if self.leaving is not None and not self.leaving.done():
            self.leaving.set_result(is_saved)

    def note_disconnected(self) -> None:
        """Questions are asked again over the next connection; nobody is in the background any more."""
        for answer in self.queries.values():
            if not answer.done():
                answer.set_exception(AskAgain(0.0))
        if self.suspending is not None and not self.suspending.done():
            self.suspending.cancel()
            self.suspending = None

    def renumber(self, renumbered: dict[int, int]) -> None:
        self.accepted.renumber(renumbered)
        self.saved.renumber(renumbered)

    def come_to_rest(self, stopped: ClientStopped, is_all_saved: bool) -> None:
        """The client is stopped: everybody hears it, and who leaves hears whether everything is saved."""
        waiting: list[asyncio.Future[Any]] = [*self.accepted.take_all(), *self.saved.take_all()]
        waiting += [*self.turn, *self.queries.values()]
        if self.suspending is not None:
            waiting.append(self.suspending)
        for future in waiting:
            if not future.done():
                future.set_exception(stopped)
        if self.suspending is not None:
            self.suspending.exception()  # it may have nobody who waits for it any more
        self.turn, self.suspending = [], None
        self.note_left(is_all_saved)
        self.leaving = None


class SeqWaiters:
    """Who waits until everything up to a number is so."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: list[tuple[int, asyncio.Future[None]]] = []

    def add(self, seq: int, future: asyncio.Future[None]) -> None:
        self.waiting.append((seq, future))

    def resolve_upto(self, seq: int) -> None:
        rest = []
        for waiter in self.waiting:
            if waiter[0] <= seq:
                resolve(waiter[1])
            elif not waiter[1].done():
                rest.append(waiter)
        self.waiting = rest

    def renumber(self, renumbered: dict[int, int]) -> None:
        """What is not in the new stream is in the server's hands: whoever waited for it may go on."""
        rest = []
        for seq, future in self.waiting:
            if seq in renumbered:
                rest.append((renumbered[seq], future))
            else:
                resolve(future)
        self.waiting = rest

    def take_all(self) -> list[asyncio.Future[None]]:
        """Everybody, who is then waiting here no more."""
        futures = [future for _, future in self.waiting]
        self.waiting = []
        return futures


def resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
