"""
A simulated player on one raw socket: as few instructions per message as Python allows.

Promise: it speaks the protocol honestly (upgrade, hello with a token, every seq once and in order, pings, resume,
resync), counts acknowledgements cumulatively, and measures each from the moment at which its update was due.

Not here: when to send (load.py) and what is sent (walk_step.py). A journal: what this process forgets is forgotten.
"""

from __future__ import annotations

import asyncio
import struct
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import msgpack

from benchmarks.walk_step import DEVICE, EXPERIENCE, TURNS, StepFrames, make_frame, make_seeding

clock = time.monotonic  # one clock for all processes of this machine

_ACK = b"\x84\xa1t\xa3ack\xa3seq"
_KEY = "d2F5aG9sZC1iZW5jaC0wMA=="


@dataclass
class Tally:
    """What all players of one process have met. Latencies and lags in seconds."""

    acked: int = 0
    voids: int = 0
    resyncs: int = 0
    welcomes: int = 0
    resumed: int = 0
    refused: int = 0
    lost_sockets: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latencies: array[float] = field(default_factory=lambda: array("d"))
    dues: array[float] = field(default_factory=lambda: array("d"))
    """When the update of each latency was due (open loop only)."""
    lags: array[float] = field(default_factory=lambda: array("d"))

    def note_error(self, what: str) -> None:
        self.errors[what] = self.errors.get(what, 0) + 1


class Crowd:
    """What the players of one process share: frames, counts, and what happens on an ack."""

    def __init__(self, *, host: str, port: int, make_token: Callable[[int], str], parts: list[Any]) -> None:
        self.host, self.port = host, port
        self.make_token = make_token
        self.parts = parts
        """What the frames of updates are put together from; see `Player.make_parts`."""
        self.tally = Tally()
        self.is_closed_loop = False
        """On an ack the next update goes out at once."""
        self.reads_all = False
        """Decode every frame whole, to learn `saved` from acks."""
        self.due_of: Callable[[Player, int], float] | None = None
        """In an open loop: when an update was due."""
        self.when_welcome: Callable[[Player], None] = lambda player: None
        self.when_gone: Callable[[Player], None] = lambda player: None


class Player(asyncio.Protocol):
    """One player of Wayhold's protocol. Sockets come and go (`connect`), its numbers stay."""

    path = "/v1/play"
    subprotocol = "wayhold.v1.msgpack"

    __slots__ = (
        "acked",
        "base",
        "crowd",
        "heartbeat_s",
        "index",
        "is_open",
        "is_upgraded",
        "is_welcome",
        "pinged_at",
        "resume",
        "saved",
        "sent",
        "sent_at",
        "sent_seen",
        "slot",
        "tail",
        "transport",
    )

    def __init__(self, crowd: Crowd, index: int) -> None:
        self.crowd = crowd
        self.index = index
        self.sent = self.acked = self.saved = 0
        self.base = 0
        """Updates up to here came before the open loop that is running."""
        self.slot = 0
        self.sent_at = 0.0
        self.pinged_at = 0.0
        self.sent_seen = 0
        self.heartbeat_s = 20.0
        self.resume: dict[str, str] | None = None
        self.transport: asyncio.Transport | None = None
        self.tail = b""
        self.is_open = self.is_upgraded = self.is_welcome = False

    @staticmethod
    def make_parts() -> list[Any]:
        return list(StepFrames().parts)

    async def connect(self) -> None:
        """Open a socket; the rest happens as answers come. Raises OSError."""
        self.is_upgraded = self.is_welcome = False
        self.tail = b""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, self.crowd.host, self.crowd.port)

    def drop(self) -> None:
        """As when the network is gone: no close, no word."""
        if self.transport is not None:
            self.transport.abort()

    # ── sending ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def send_update(self) -> None:
        seq = self.sent = self.sent + 1
        before, key, after = self.crowd.parts[seq % TURNS]
        self.transport.write(before + (seq ^ key).to_bytes(4, "big") + after)  # type: ignore[union-attr]

    def send_seeding(self) -> None:
        """31 updates at once: the state of the workload."""
        batch = make_seeding(self.sent + 1)
        self.sent += len(batch["updates"])
        self.send(batch)

    def send_ping(self) -> None:
        self.send({"t": "ping", "at": int(time.time() * 1000)})

    def send(self, frame: dict[str, Any]) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.sent_at = clock()
            self.transport.write(make_frame(msgpack.packb(frame)))

    def say_hello(self) -> None:
        hello: dict[str, Any] = {
            "t": "hello",
            "token": self.crowd.make_token(self.index),
            "experience": EXPERIENCE,
            "device": DEVICE,
            "at": int(time.time() * 1000),
            "made": self.sent,
            "saved": self.saved,
        }
        if self.resume is not None:
            hello["resume"] = self.resume
        self.send(hello)

    # ── asyncio.Protocol ────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in everything but its base class
        self.is_open = True
        self.ask_upgrade(self.path)

    def ask_upgrade(self, path: str) -> None:
        host = f"{self.crowd.host}:{self.crowd.port}"
        offer = f"Sec-WebSocket-Protocol: {self.subprotocol}\r\n" if self.subprotocol else ""
        self.transport.write(  # type: ignore[union-attr]
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = self.is_welcome = False
        self.transport = None
        self.crowd.tally.lost_sockets += 1
        self.crowd.when_gone(self)

    def data_received(self, data: bytes) -> None:
        if self.tail:
            data = self.tail + data
            self.tail = b""
        if not self.is_upgraded:
            data = self._read_answer(data)
        at, size = 0, len(data)
        reads_all = self.crowd.reads_all
        while at + 2 <= size:
            length = data[at + 1]
            start = at + 2
            if length > 125:
                width = 2 if length == 126 else 8
                start += width
                if start > size:
                    break
                length = int.from_bytes(data[start - width : start], "big")
            end = start + length
            if end > size:
                break
            if data[start : start + 11] == _ACK and not reads_all:
                seq = data[start + 11]
                if seq > 0x7F:
                    if seq == 0xCD:
                        seq = data[start + 12] << 8 | data[start + 13]
                    elif seq == 0xCC:
                        seq = data[start + 12]
                    else:
                        seq = int.from_bytes(data[start + 12 : start + 16], "big")
                self.take_ack(seq)
            else:
                self._receive(data[at], data[start:end])
            at = end
        if at < size:
            self.tail = data[at:]

    def take_upgrade(self) -> None:
        """The socket speaks WebSocket from now on."""
        self.say_hello()

    # ── receiving ───────────────────────────────────────────────────────────────────────────────────────────────────

    def take_ack(self, seq: int) -> None:
        acked = self.acked
        if seq <= acked:
            return
        crowd = self.crowd
        now = clock()
        self.acked = seq
        crowd.tally.acked += seq - acked
        if crowd.is_closed_loop:
            crowd.tally.latencies.append(now - self.sent_at)
            if seq == self.sent:
                self.sent_at = now
                self.send_update()
        elif crowd.due_of is not None:
            tally = crowd.tally
            for each in range(max(acked, self.base) + 1, seq + 1):
                due = crowd.due_of(self, each)
                tally.dues.append(due)
                tally.latencies.append(now - due)

    def take_saved(self, seq: int) -> None:
        saved = self.saved
        if seq <= saved:
            return
        self.saved = seq
        crowd = self.crowd
        if crowd.reads_all and crowd.due_of is not None:
            now = clock()
            for each in range(max(saved, self.base) + 1, seq + 1):
                crowd.tally.lags.append(now - crowd.due_of(self, each))

    def _receive(self, first: int, payload: bytes) -> None:
        opcode = first & 15
        if opcode == 8:
            code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
            self.crowd.tally.note_error(f"close {code}")
            if self.transport is not None:
                self.transport.abort()
        elif opcode == 9:
            self.transport.write(make_frame(payload, 10))  # type: ignore[union-attr]
        elif opcode in (1, 2):
            self.take_message(payload)

    def take_message(self, payload: bytes) -> None:
        """A whole message that is no plain ack."""
        self.take_frame(msgpack.unpackb(payload))

    def take_frame(self, frame: dict[str, Any]) -> None:
        kind = frame["t"]
        if kind == "ack":
            self.crowd.tally.voids += len(frame.get("void", ()))
            self.take_ack(frame["seq"])
            self.take_saved(frame["saved"])
        elif kind == "saved":
            self.take_saved(frame["seq"])
        elif kind == "welcome":
            self._take_welcome(frame)
        elif kind == "pong":
            self.take_saved(frame.get("saved") or 0)
        elif kind == "resync":
            self.crowd.tally.resyncs += 1
            self._go_back(frame["seq"]["accepted"])
        elif kind == "error":
            self.crowd.tally.note_error(f"error {frame['code']}")
        elif kind not in ("bye", "push", "drain"):
            self.crowd.tally.note_error(kind)

    def _take_welcome(self, frame: dict[str, Any]) -> None:
        tally = self.crowd.tally
        self.heartbeat_s = frame["heartbeat_s"]
        self.resume = {"session": frame["session"]["id"], "token": frame["session"]["token"]}
        self.is_welcome = True
        self.pinged_at = clock()
        tally.welcomes += 1
        tally.resumed += frame["resumed"]
        self.take_saved(frame["seq"]["saved"])
        self._go_back(frame["seq"]["accepted"])
        self.crowd.when_welcome(self)

    def _go_back(self, accepted: int) -> None:
        """Send again what the gateway does not have. The acknowledgement of a repeated one counts once."""
        made = max(self.sent, accepted)
        if self.acked < accepted:
            self.take_ack(accepted)
        self.sent = accepted
        while self.sent < made:
            self.send_update()

    def _read_answer(self, data: bytes) -> bytes:
        """The HTTP answer to the upgrade; returns what came behind it."""
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            self.tail = data
            return b""
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            self.crowd.tally.refused += 1
            self.crowd.tally.note_error(head.split(b"\r\n", 1)[0].decode("latin-1"))
            if self.transport is not None:
                self.transport.abort()
            return b""
        self.is_upgraded = True
        self.take_upgrade()
        return rest
