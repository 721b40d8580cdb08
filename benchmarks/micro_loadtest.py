"""
What the load test's own players cost per update, without a gateway and without sockets of the kernel.

Real players of `loadtest` with the real client on them: scenario, schedule, journal, session machine, codec, history,
samples. Their transports are stand-ins that keep what is written. The answers are made outside the clock: each update
is acked in a frame of its own and saved in another, as a player sees it who makes fewer updates than there are flushes.

Not here: measuring and comparing (micro.py).
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import msgpack

from loadtest.experience import WYLDING_WOODS
from loadtest.game import Game
from loadtest.history import HistoryWriter
from loadtest.phone import Account
from loadtest.player_random import make_random
from loadtest.scenarios.story import EvenStory
from loadtest.schedule import Schedule
from loadtest.simulation import Player
from loadtest.tally import Tally
from loadtest.transport import LeanSocket
from protocol.codec import MSGPACK

if TYPE_CHECKING:
    from benchmarks.micro_cases import Bench, Clock

PLAYERS = 1_000
RATE_PER_S = 3.0
STEPS_PER_ROUND = 6
WELCOME_TURNS_MAX = 100


class StandInTransport:
    """Takes everything and keeps it until it is asked for."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...

    def take_seq(self) -> int:
        """The number of the last update that was written; 0 without any."""
        written, self.written = self.written, []
        seq = 0
        for data in written:
            frame = msgpack.unpackb(_list_payloads(data)[-1])
            updates = frame.get("updates") or [frame]
            seq = updates[-1].get("seq", seq)
        return seq


class Crowd:
    """Players of one process, all of them in a session."""

    def __init__(
        self, game: Game, step_clock: Callable[[float], None], folder: tempfile.TemporaryDirectory[str]
    ) -> None:
        self.game = game
        self._advance = step_clock
        self._folder = folder
        self._sockets: list[tuple[LeanSocket, StandInTransport]] = []
        self.players: list[Player] = []

    @classmethod
    async def open(cls) -> Crowd:
        folder = tempfile.TemporaryDirectory(prefix="wh-micro-")
        now_ms = time.time() * 1000
        clock = [now_ms]

        def advance(by_ms: float) -> None:
            clock[0] += by_ms

        tally = Tally()
        game = Game(
            scenario=EvenStory(),
            experience=WYLDING_WOODS,
            tracks=[],
            schedule=Schedule(lambda: clock[0], tally.note_late_ms),
            writer=HistoryWriter(Path(folder.name) / "history", is_crash_safe=False),
            tally=tally,
            find_source=lambda index, moves: None,
            players=PLAYERS,
            seconds=1e6,
            settle_s=1.0,
            rate_per_s=RATE_PER_S,
        )
        game.play_from_ms = now_ms
        crowd = cls(game, advance, folder)
        loop = asyncio.get_running_loop()

        async def open_stand_in(url: str, subprotocol: str, *_: Any) -> LeanSocket:
            socket, transport = LeanSocket(loop, None), StandInTransport()
            socket.connection_made(cast(Any, transport))
            socket.subprotocol = subprotocol
            crowd._sockets.append((socket, transport))
            return socket

        with mock.patch("loadtest.phone.open_socket", open_stand_in):
            for index in range(PLAYERS):
                account = Account("ws://127.0.0.1:1/", WYLDING_WOODS.experience_id, str(uuid.uuid4()), lambda: "token")
                player = Player(index, account, make_random(f"micro/{index}"), game)
                crowd.players.append(player)
                player.arrive(now_ms, None)
            while game.schedule.run_due():
                pass
            for _ in range(WELCOME_TURNS_MAX):
                await asyncio.sleep(0)
                if len(crowd._sockets) == PLAYERS:
                    break
            await asyncio.sleep(0)
        crowd._welcome()
        assert all(player.state == "playing" for player in crowd.players)
        return crowd

    async def close(self) -> None:
        for player in self.players:
            await player.phone.client.stop()
        self.game.writer.close()
        self._folder.cleanup()

    def _welcome(self) -> None:
        for number, (socket, transport) in enumerate(self._sockets):
            transport.written.clear()
            welcome = {
                "t": "welcome",
                "session": {"id": f"session-{number}", "token": "token"},
                "resumed": False,
                "seq": {"accepted": 0, "saved": 0},
                "version": 0,
                "state": {},
                "heartbeat_s": 3600,
                "window": 256,
            }
            socket.data_received(_make_frame(MSGPACK.encode(welcome)))

    def run_round(self, clock: Clock) -> int:
        """Some updates of every player; answers how many they were."""
        made = self.game.tally.made
        for _ in range(STEPS_PER_ROUND):
            self._advance(1000 / RATE_PER_S)
            with clock:
                while self.game.schedule.run_due():
                    pass
            told = [(socket, transport.take_seq()) for socket, transport in self._sockets]
            answers = [
                (
                    socket,
                    _make_frame(MSGPACK.encode_ack(seq, seq, seq - 1)),
                    _make_frame(MSGPACK.encode({"t": "saved", "seq": seq})),
                )
                for socket, seq in told
                if seq
            ]
            with clock:
                for socket, ack, _ in answers:
                    socket.data_received(ack)
                for socket, _, saved in answers:
                    socket.data_received(saved)
                self.game.tally.fold()
        tally = self.game.tally
        assert tally.made == tally.accepted == tally.saved, "every update was answered"
        return tally.made - made


_crowd: Crowd | None = None


async def loadtest_players(_: Bench, clock: Clock) -> int:
    """An update of the load test: made when it is due, journaled, noted, sent, acked, saved."""
    global _crowd
    if _crowd is None:
        _crowd = await Crowd.open()
    return _crowd.run_round(clock)


def _make_frame(payload: bytes) -> bytes:
    """As a gateway sends it: not masked."""
    if len(payload) < 126:
        return bytes((0x82, len(payload))) + payload
    return b"\x82\x7e" + len(payload).to_bytes(2, "big") + payload


def _list_payloads(data: bytes) -> list[bytes]:
    """Of client frames, masked with zeros."""
    found = []
    at = 0
    while at < len(data):
        length, start = data[at + 1] & 0x7F, at + 2
        if length == 126:
            length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
        found.append(data[start + 4 : start + 4 + length])
        at = start + 4 + length
    return found
