"""
A player in the mud: tunnels, silent sockets, dying phones, another phone.

Not here: when what happens (mud.py), the bytes (link.py, transport.py), the disk (phone_disk.py).
"""

from __future__ import annotations

import asyncio
import random

from loadtest import mud
from loadtest.game import Game
from loadtest.mud import Mishaps
from loadtest.phone import Account
from loadtest.scenario import Update
from loadtest.simulation import Player
from protocol.closes import CloseCode

OPEN_AGAIN_S_MIN, OPEN_AGAIN_S_MAX = 0.3, 2.0


class MuddyPlayer(Player):
    """A player to whom things happen."""

    __slots__ = ("_mishaps", "_moves")

    def __init__(self, index: int, account: Account, rng: random.Random, game: Game) -> None:
        self._mishaps = Mishaps(game.mud, rng)
        self._moves = 0
        super().__init__(index, account, rng, game)

    def _begin(self, due_ms: float) -> None:
        if not self._game.is_over:
            self._plan_mishap(due_ms)
        super()._begin(due_ms)

    def _plan_mishap(self, from_ms: float) -> None:
        found = self._mishaps.next()
        if found is not None:
            after_s, kind = found
            self._game.schedule.at(from_ms + after_s * 1000, lambda due_ms: self._suffer(kind, due_ms))

    def _suffer(self, kind: str, due_ms: float) -> None:
        game, mishaps = self._game, self._mishaps
        if game.is_over or due_ms >= game.over_ms or self._is_gone:
            return
        self._plan_mishap(due_ms)
        if not self._is_open:
            return
        game.tally.mishaps += 1
        if kind == mud.DROPOUT:
            self._lose_network(mishaps.draw_dropout_s())
        elif kind == mud.HALF_OPEN and self._link is not None:
            self._link.forget_sockets()
        elif kind == mud.ADDRESS_CHANGE and self._link is not None:
            self._moves += 1
            self._link.forget_sockets()
            self.phone.source_address = self._game.find_source(self.index, self._moves)
            self.phone.client.source_address = self.phone.source_address
            self._drop()
        elif kind in (mud.APP_KILL, mud.POWER_CUT):
            self._job(lambda: self._die(kind == mud.POWER_CUT))
        elif kind == mud.SECOND_DEVICE:
            self._change_phone(1)
            back_ms = game.schedule.now_ms() + mishaps.draw_other_phone_s() * 1000
            game.schedule.at(back_ms, lambda _: self._change_phone(0))

    def _lose_network(self, for_s: float) -> None:
        link, mishaps, schedule = self._link, self._mishaps, self._game.schedule
        assert link is not None
        until_s = asyncio.get_running_loop().time() + for_s
        if link.down_until_s:
            return
        link.go_down(until_s, is_hanging=mishaps.draw_chance() < 0.5)
        self.phone.recording.is_away = True

        def come_up(_: float) -> None:
            link.come_up(is_forgotten=mishaps.draw_chance() < 0.5)
            if mishaps.draw_chance() < 0.7:  # most systems tell the app that the network is back
                self.phone.client.wake()
            if self.phone.client.connected:
                self.phone.recording.is_away = False

        schedule.at(schedule.now_ms() + for_s * 1000, come_up)

    async def _die(self, is_power_cut: bool) -> None:
        phone, mishaps = self.phone, self._mishaps
        phone.recording.is_away = True
        if is_power_cut and phone.client.is_running:
            # It dies in the player's hand: the update of this moment is in no journal yet.
            self._make(Update(effects=[{"op": "incr", "path": "records.power_cuts", "value": 1}]))
        await phone.die(is_power_cut=is_power_cut)
        back_ms = self._game.schedule.now_ms() + mishaps.draw_closed_s() * 1000
        self._game.schedule.at(back_ms, lambda _: self._job(self._start))

    def _change_phone(self, number: int) -> None:
        if self._game.is_over or self._is_gone:
            return
        if number == len(self._phones):
            self._add_phone()
        self._active = number
        self._open()

    def _add_phone(self) -> None:
        super()._add_phone()
        number = len(self._phones) - 1
        self._phones[number].recording.on_stop = lambda code: self._hear_stop(number, code)

    def _hear_stop(self, number: int, code: int) -> None:
        """A player whose other phone took the session opens the app again on the one in the hand."""
        if code == CloseCode.REPLACED and number == self._active and not self._game.is_over:
            wait_s = self.random.uniform(OPEN_AGAIN_S_MIN, OPEN_AGAIN_S_MAX)
            self._game.schedule.at(self._game.schedule.now_ms() + wait_s * 1000, lambda _: self._job(self._start))
