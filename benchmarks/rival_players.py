"""
Players of the protocols that are not ours: Socket.IO and Colyseus. The others speak Wayhold's.

Same workload, same counting; only hello, the frames around an update and the acknowledgement differ.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgpack

from benchmarks.players import Crowd, Player
from benchmarks.walk_step import TURNS, StepFrames, make_frame, make_update

_DIGITS = 8
_ID_FIRST = 10_000_000
"""Ids and seqs of Socket.IO are text; both are kept at eight characters, so that a frame can be made before the run."""


class SocketIoPlayer(Player):
    """Engine.IO 4 on a WebSocket, Socket.IO events with acknowledgements, text."""

    path = "/socket.io/?EIO=4&transport=websocket"
    subprotocol = ""
    __slots__ = ()

    @staticmethod
    def make_parts() -> list[Any]:
        """For each turn: what stands before the id, its mask, what is up to the seq, its mask, the rest."""
        parts = []
        for turn in range(TURNS):
            text = json.dumps(["update", make_update(_ID_FIRST, turn)], separators=(",", ":"))
            payload = f"42{_ID_FIRST}{text}".encode()
            frame = make_frame(payload, 1)
            head = len(frame) - len(payload)
            first, second = head + 2, head + payload.index(b'"seq":') + 6
            # What is in both places now, XORed with what shall be seen there, is the mask.
            plain = int.from_bytes(b"%d" % _ID_FIRST, "big")
            keys = [int.from_bytes(frame[at : at + _DIGITS], "big") ^ plain for at in (first, second)]
            parts.append((frame[:first], keys[0], frame[first + _DIGITS : second], keys[1], frame[second + _DIGITS :]))
        return parts

    def take_upgrade(self) -> None:
        pass  # the server speaks first

    def say_hello(self) -> None:
        self._send_text("40" + json.dumps({"token": self.crowd.make_token(self.index)}))

    def send_update(self) -> None:
        seq = self.sent = self.sent + 1
        before, id_key, between, seq_key, after = self.crowd.parts[seq % TURNS]
        number = int.from_bytes(b"%d" % (_ID_FIRST + seq), "big") ^ id_key
        padded = int.from_bytes(b"%8d" % seq, "big") ^ seq_key
        self.transport.write(  # type: ignore[union-attr]
            before + number.to_bytes(_DIGITS, "big") + between + padded.to_bytes(_DIGITS, "big") + after
        )

    def send_ping(self) -> None:
        pass  # the server asks

    def take_message(self, payload: bytes) -> None:
        kind = payload[:2]
        if kind == b"43":
            self.take_ack(int(payload[2 : 2 + _DIGITS]) - _ID_FIRST)
        elif kind == b"42":
            name, frame = json.loads(payload[2:])
            if name == "welcome":
                self.take_frame(frame)
        elif payload[:1] == b"0":
            self.say_hello()
        elif payload == b"2":
            self._send_text("3")
        elif kind != b"40":
            self.crowd.tally.note_error(payload[:40].decode("utf-8", "replace"))

    def _send_text(self, text: str) -> None:
        self.transport.write(make_frame(text.encode(), 1))  # type: ignore[union-attr]


_ROOM_DATA, _JOIN_ROOM = 13, 10
_UPDATE_HEAD = bytes([_ROOM_DATA]) + msgpack.packb("update")


class ColyseusPlayer(Player):
    """Colyseus 0.16: a seat by HTTP, then a WebSocket to the room, messages by name."""

    subprotocol = ""
    __slots__ = ("is_seated",)

    def __init__(self, crowd: Crowd, index: int) -> None:
        super().__init__(crowd, index)
        self.is_seated = False

    @staticmethod
    def make_parts() -> list[Any]:
        return list(StepFrames(_UPDATE_HEAD).parts)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.is_open = True
        self.is_seated = False
        body = json.dumps({"token": self.crowd.make_token(self.index)}).encode()
        self.transport.write(  # type: ignore[union-attr]
            f"POST /matchmake/joinOrCreate/walk HTTP/1.1\r\nHost: {self.crowd.host}:{self.crowd.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    def _read_answer(self, data: bytes) -> bytes:
        if self.is_seated:
            return super()._read_answer(data)
        head, found, rest = data.partition(b"\r\n\r\n")
        seat = _read_json(head, rest) if found else None
        if seat is None:
            self.tail = data
        elif "sessionId" not in seat:
            self.crowd.tally.note_error(str(seat)[:100])
            self.transport.abort()  # type: ignore[union-attr]
        else:
            self.is_seated = True
            room = seat["room"]
            self.ask_upgrade(f"/{room['processId']}/{room['roomId']}?sessionId={seat['sessionId']}")
        return b""

    def take_upgrade(self) -> None:
        pass  # the server says JOIN_ROOM first

    def send_ping(self) -> None:
        pass  # the server pings

    def take_message(self, payload: bytes) -> None:
        if payload[0] == _JOIN_ROOM:
            self.transport.write(make_frame(bytes([_JOIN_ROOM])))  # type: ignore[union-attr]
        elif payload[0] == _ROOM_DATA:
            self.take_frame(msgpack.unpackb(payload[2 + (payload[1] & 31) :]))
        else:
            self.crowd.tally.note_error(f"colyseus {payload[:40]!r}")


def _read_json(head: bytes, body: bytes) -> dict[str, Any] | None:
    """The body of an answer, whole; None when more has to come."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:") and len(body) < int(line.partition(b":")[2]):
            return None
    if b"transfer-encoding: chunked" in head.lower():
        if not body.endswith(b"0\r\n\r\n"):
            return None
        body = body[body.index(b"\r\n") + 2 :]
        body = body[: body.rindex(b"\r\n0\r\n\r\n")]
    found: dict[str, Any] = json.loads(body)
    return found


DIALECTS: dict[str, type[Player]] = {"wayhold": Player, "socketio": SocketIoPlayer, "colyseus": ColyseusPlayer}
