"""
The short ways of the client (an update sent as it is made, a plain ack, a plain `saved`) are the long ways with less
work: after every step of random sessions, two machines agree of which one has no short ways.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgpack
import pytest

from protocol import frames
from protocol.client.actions import Accepted, Action, Forget, ResetStream, Send
from protocol.client.journal import MemoryJournal
from protocol.client.machine import MachineState, SessionMachine
from protocol.client.outbox import PLAIN_ACCEPTED, PLAIN_SAVED
from protocol.codec import MSGPACK

SESSIONS = 40
STEPS = 120
LONG, SHORT = False, True


class Side:
    """A machine, its journal, and what it had said and done."""

    def __init__(self, is_short: bool) -> None:
        self.is_short = is_short
        self.journal = MemoryJournal("phone")
        self.machine = SessionMachine(self.journal, "e", random=Random(1))
        self.said: list[Any] = []
        self.taken_short = 0

    def perform(self, actions: list[Action], now_ms: int) -> None:
        for action in actions:
            self.said.append(action.frame if isinstance(action, Send) else action)
            if isinstance(action, Forget):
                self.journal.forget(action.seq)
            elif isinstance(action, ResetStream):
                self.journal.reset("phone again", action.keep_after)
                self.perform(self.machine.journal_synced(now_ms), now_ms)

    def make(self, body: dict[str, Any], now_ms: int) -> None:
        seq = self.journal.append(MSGPACK.encode(body))
        if self.is_short:
            payload = self.machine.send_made(seq, now_ms)
            if payload is not None:
                self.taken_short += 1
                self.said.append(msgpack.unpackb(MSGPACK.encode_update(seq, payload)))
                return
        self.perform(self.machine.journal_synced(now_ms), now_ms)

    def hear_ack(self, seq: int, version: int, saved: int, now_ms: int) -> None:
        news = self.machine.heard_plain_ack(seq, version, saved, now_ms) if self.is_short else None
        if news is None:
            self.perform(self.machine.received(frames.ack(seq, version, saved), now_ms), now_ms)
            return
        self.taken_short += 1
        plain: list[Action] = []
        if news & PLAIN_ACCEPTED:
            plain.append(Accepted(seq))
        if news & PLAIN_SAVED:
            plain.append(Forget(saved))
        self.perform(plain, now_ms)

    def hear_saved(self, seq: int, now_ms: int) -> None:
        if self.is_short and self.machine.heard_plain_saved(seq, now_ms):
            self.taken_short += 1
            self.perform([Forget(seq)], now_ms)
        else:
            self.perform(self.machine.received(frames.saved(seq), now_ms), now_ms)

    def remember(self) -> dict[str, Any]:
        """Everything it knows."""
        known: dict[str, Any] = {}
        for thing in (self.machine, self.machine._outbox, self.journal):
            for kind in type(thing).__mro__:
                for name in getattr(kind, "__slots__", ()):
                    value = getattr(thing, name)
                    if isinstance(value, int | str | None | dict | set | frozenset | MachineState):
                        known[f"{type(thing).__name__}.{name}"] = value
        known["frames"] = list(self.machine._outbox._frames)
        return known


def welcome(side: Side, rng: Random, window: int) -> dict[str, Any]:
    accepted = rng.randint(side.journal.saved, side.journal.made)
    return {
        "t": "welcome",
        "session": {"id": "s", "token": "t"},
        "resumed": False,
        "reason": "new",
        "seq": {"accepted": accepted, "saved": rng.randint(0, accepted)},
        "version": accepted,
        "state": {},
        "heartbeat_s": 20,
        "window": window,
    }


def test_short_and_long_ways_lead_to_the_same_place() -> None:
    short_ways = 0
    for seed in range(SESSIONS):
        rng = Random(seed)
        sides = Side(SHORT), Side(LONG)
        window = rng.choice((1, 3, 256))
        for now_ms in range(1000, 1000 + STEPS * 10, 10):
            for side, draw in zip(sides, (Random(f"{seed}/{now_ms}"), Random(f"{seed}/{now_ms}")), strict=True):
                take_step(side, draw, window, now_ms)
            short, long = sides
            assert short.said == long.said, f"seed {seed} at {now_ms}"
            assert short.remember() == long.remember(), f"seed {seed} at {now_ms}"
        short_ways += sides[0].taken_short
        assert sides[1].taken_short == 0
    assert short_ways > SESSIONS * STEPS / 5, "most of it went the short way"


def take_step(side: Side, rng: Random, window: int, now_ms: int) -> None:
    machine = side.machine
    if machine.state is MachineState.CLOSED:
        return
    if machine.state is MachineState.OFFLINE:
        side.perform(machine.connected("token", now_ms), now_ms)
        side.perform(machine.received(welcome(side, rng, window), now_ms), now_ms)
        return
    chance = rng.random()
    if machine.is_closing and chance < 0.7:
        side.perform(machine.disconnected(None, now_ms), now_ms)
        return
    sent, accepted = machine._outbox.sent_max, machine.accepted
    if chance < 0.4:
        side.make(
            rng.choice(({"event": {"type": "e"}}, {"effects": []}, {"event": {"type": "e"}, "durable": True})), now_ms
        )
    elif chance < 0.65:
        seq = rng.randint(max(0, accepted - 1), sent + (rng.random() < 0.02))
        side.hear_ack(seq, seq, rng.randint(0, seq + (rng.random() < 0.05)), now_ms)
    elif chance < 0.8:
        highest = accepted if rng.random() < 0.9 else sent + 1
        side.hear_saved(rng.randint(side.journal.saved, max(side.journal.saved, highest)), now_ms)
    elif chance < 0.85 and accepted < sent:
        void = frames.ack(accepted + 1, 1, 0) | {"void": [{"seq": accepted + 1, "code": 102}]}
        side.perform(machine.received(void, now_ms), now_ms)
    elif chance < 0.88:
        error: dict[str, Any] = {
            "t": "error",
            "code": rng.choice((100, 102, 103, 200)),
            "seq": rng.choice((None, sent)),
        }
        error |= {"expected": accepted + 1, "retry_after_ms": rng.choice((5, 50))}
        side.perform(
            machine.received({key: value for key, value in error.items() if value is not None}, now_ms), now_ms
        )
    elif chance < 0.9:
        side.perform(machine.suspend(30, now_ms), now_ms)
    elif chance < 0.91:
        side.perform(machine.received({"t": "suspended", "expires_s": 60}, now_ms), now_ms)
    elif chance < 0.92:
        side.perform(machine.wake(now_ms), now_ms)
    elif chance < 0.93:
        side.perform(machine.received({"t": "drain", "within_ms": 300}, now_ms), now_ms)
    elif chance < 0.932:
        side.perform(machine.leave(now_ms), now_ms)
        machine.is_leaving = machine.is_leaving and rng.random() < 0.3  # the player thought again
    elif chance < 0.95:
        side.perform(machine.disconnected(rng.choice((None, 4001)), now_ms), now_ms)
    else:
        side.perform(machine.tick(now_ms), now_ms)


@pytest.mark.parametrize("seq", (0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1))
def test_a_saved_is_read_by_its_layout(seq: int) -> None:
    data = MSGPACK.encode(frames.saved(seq))
    assert MSGPACK.decode_saved(data) == seq
    for cut in range(len(data)):
        assert MSGPACK.decode_saved(data[:cut]) is None
    assert MSGPACK.decode_saved(data + b"\x00") is None


def test_what_is_no_plain_saved_or_ack_is_left_to_the_decoder() -> None:
    head = MSGPACK.encode({"t": "saved", "seq": 0})[:-1]
    for seq in (-1, -40, 2**32, None, True, 1.5, "7", "seventeen", b"1", [1], {}):
        assert MSGPACK.decode_saved(MSGPACK.encode({"t": "saved", "seq": seq})) is None
    for tail in (
        b"",
        b"\xcc",
        b"\xcd\x01",
        b"\xce\x00\x00\x01",
        b"\xa1x",
        b"\xcf" + bytes(8),
        b"\xd0\x05",
        b"\xd1\x00\x05",
    ):
        assert MSGPACK.decode_saved(head + tail) is None
    assert MSGPACK.decode_saved(MSGPACK.encode({"t": "saved", "seq": 1, "x": 1})) is None
    ack = MSGPACK.encode_ack(5, 6, 4)
    assert MSGPACK.decode_ack(ack) == (5, 6, 4) and MSGPACK.decode_saved(ack) is None
    for at in (0, 5, 11, 16, 24, 29, 35):
        assert MSGPACK.decode_ack(ack[:at] + bytes((ack[at] ^ 1,)) + ack[at + 1 :]) is None
    assert MSGPACK.decode_ack(ack[:-1]) is None and MSGPACK.decode_ack(ack + b"\x00") is None
