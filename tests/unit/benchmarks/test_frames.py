"""The frames that benchmarks send are those that any client sends: whole, masked, and the seq that was meant."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from websockets.frames import Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from benchmarks.players import Crowd, Player
from benchmarks.rival_players import ColyseusPlayer, SocketIoPlayer
from benchmarks.walk_step import SEEDED_UPDATES, StepFrames, make_seeding, make_update
from protocol.effects import compile_update

SEQS = (1, 2, 71, 72, 255, 256, 65_536, 4_000_000_000)


class Wire:
    """Stands for a transport: keeps what was written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def player_of(kind: type[Player], seq: int) -> tuple[Player, Wire]:
    crowd = Crowd(host="127.0.0.1", port=1, make_token=lambda index: "", parts=kind.make_parts())
    player, wire = kind(crowd, 0), Wire()
    player.transport = wire  # type: ignore[assignment]
    player.sent = player.acked = seq - 1
    return player, wire


def send(kind: type[Player], seq: int) -> Any:
    player, wire = player_of(kind, seq)
    player.send_update()
    assert player.sent == seq
    return read(wire.written)


def read(data: bytes) -> Any:
    """As a server reads it: the library refuses what is unmasked or malformed."""
    server = ServerProtocol(state=OPEN)
    server.receive_data(data)
    (frame,) = server.events_received()
    return frame


@pytest.mark.parametrize("seq", SEQS)
def test_an_update_is_that_of_its_seq(seq: int) -> None:
    frame = send(Player, seq)
    assert frame.opcode is Opcode.BINARY and frame.fin
    assert msgpack.unpackb(frame.data) == make_update(seq, seq % 72)


@pytest.mark.parametrize("seq", SEQS[:-1])
def test_an_update_of_socketio_carries_its_seq_and_its_id(seq: int) -> None:
    frame = send(SocketIoPlayer, seq)
    assert frame.opcode is Opcode.TEXT
    text = frame.data.decode()
    assert text[:2] == "42" and int(text[2:10]) == 10_000_000 + seq
    assert json.loads(text[10:]) == ["update", make_update(seq, seq % 72)]


def test_an_update_of_colyseus_has_its_name_before_it() -> None:
    frame = send(ColyseusPlayer, 300)
    assert frame.data[:8] == bytes([13]) + msgpack.packb("update")
    assert msgpack.unpackb(frame.data[8:]) == make_update(300, 300 % 72)


def test_the_workload_is_what_the_page_says() -> None:
    """About 127 bytes of msgpack, one event and two effects, four operations, none of them void."""
    assert 120 <= StepFrames().payload_bytes <= 130
    update = make_update(1, 5)
    assert len(update["effects"]) == 2
    assert len(compile_update(update["event"], update["effects"]).ops) == 4
    seeding = make_seeding(1)["updates"]
    assert [each["seq"] for each in seeding] == list(range(1, SEEDED_UPDATES + 1))
    assert SEEDED_UPDATES == 18 + 8 + 5


def ack(seq: int, saved: int = 0) -> bytes:
    payload = msgpack.packb({"t": "ack", "seq": seq, "version": seq, "saved": saved})
    return bytes([0x82, len(payload)]) + payload


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_acks_are_counted_cumulatively_wherever_the_network_cuts_them(cut: int) -> None:
    player, _ = player_of(Player, 1)
    player.is_upgraded = True
    player.sent = 70_000
    stream = ack(3) + ack(200) + ack(200) + ack(70_000)
    for at in range(0, len(stream), cut):
        player.data_received(stream[at : at + cut])
    assert player.acked == 70_000
    assert player.crowd.tally.acked == 70_000


def test_in_an_open_loop_a_stall_is_charged_to_every_update_that_was_due_in_it() -> None:
    player, _ = player_of(Player, 1)
    player.is_upgraded = True
    player.sent = 3
    now = __import__("time").monotonic()
    player.crowd.due_of = lambda _, seq: now - 10 + seq
    player.data_received(ack(3))
    assert [round(took) for took in player.crowd.tally.latencies] == [9, 8, 7]


def test_what_a_resync_takes_back_is_sent_again_and_counted_once() -> None:
    player, wire = player_of(Player, 1)
    player.is_upgraded = True
    player.sent = player.acked = player.crowd.tally.acked = 4
    frame = msgpack.packb({"t": "resync", "reason": "redis_lost", "seq": {"accepted": 2, "saved": 2}})
    player.data_received(bytes([0x82, len(frame)]) + frame)
    assert len(wire.written) == 2 * len(StepFrames().parts[0][0] + b"1234" + StepFrames().parts[0][2])
    player.data_received(ack(4))
    assert player.crowd.tally.acked == 4
    assert player.sent == 4
