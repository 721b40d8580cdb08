"""
The players of `make bench-data-model`: filled ones, who come back on a new device, walk on and ask.

One process with a raw socket for each, because what is measured is the gateway and not a client. Updates and queries
go out at fixed rates whatever the answers do; each is timed from the moment at which it was sent, and how late this
process itself was with sending is told beside it. Orders come as lines of JSON and are answered with one.

Not here: what to do and for how long (__main__.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgpack
import uvloop

from benchmarks.walk_step import make_frame
from gateway.app.launch import raise_file_limit
from gateway.sessions.tokens import make_token

TOKEN_TTL_S = 86_400
HEARTBEAT_SHARE = 0.7
CONNECT_PER_S = 400.0
ANSWER_DEADLINE_S = 15.0
TICK_S = 0.001
ORDERS = frozenset({"connect", "play", "visit", "leave"})

clock = time.monotonic


class Times:
    """Seconds that something took, by what it was."""

    def __init__(self) -> None:
        self._took: dict[str, list[float]] = {}

    def add(self, what: str, seconds: float) -> None:
        self._took.setdefault(what, []).append(seconds)

    def clear(self) -> None:
        self._took.clear()

    def describe(self) -> dict[str, dict[str, float]]:
        return {what: describe(took) for what, took in sorted(self._took.items())}


def describe(took: Sequence[float]) -> dict[str, float]:
    """Count and quantiles in milliseconds; of at least one."""
    ordered = sorted(took)
    last = len(ordered) - 1
    quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
    found = {name: round(ordered[min(last, int(share * len(ordered)))] * 1000, 3) for name, share in quantiles.items()}
    return {"count": len(ordered), **found, "max": round(ordered[-1] * 1000, 3)}


class Crowd:
    """What all players of this process share."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.host: str = plan["host"]
        self.port: int = plan["port"]
        self.secret: bytes = plan["secret"].encode()
        self.experience: str = plan["experience"]
        self.device: str = plan["device"]
        self.places: Sequence[Mapping[str, Any]] = plan["places"]
        self.times = Times()
        self.errors: dict[str, int] = {}
        self.queries = 0
        self.updates_acked = 0
        self.voids = 0

    def note_error(self, what: str) -> None:
        self.errors[what] = self.errors.get(what, 0) + 1


class Player(asyncio.Protocol):
    """One player on one socket. What it has not been told is saved is forgotten with it: this measures, no more."""

    def __init__(self, crowd: Crowd, user_id: str, number: int) -> None:
        self.crowd = crowd
        self.user_id = user_id
        self.number = number
        self.made = self.acked = self.saved = 0
        self.sent_at: dict[int, float] = {}
        self.unsaved: dict[int, float] = {}
        self.asked: dict[str, tuple[str, float]] = {}
        self.hello_at = 0.0
        self.wrote_at = 0.0
        self.heartbeat_s = 20.0
        self.welcome = asyncio.Event()
        self.gone = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._tail = b""
        self._is_upgraded = False

    @property
    def is_welcome(self) -> bool:
        return self.welcome.is_set() and not self.gone.is_set()

    async def connect(self) -> None:
        """Open a socket; `welcome` is set when the gateway has let the player in. Raises OSError."""
        self.welcome.clear()
        self.gone.clear()
        self._tail, self._is_upgraded = b"", False
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, self.crowd.host, self.crowd.port)

    def send_update(self) -> None:
        self.made += 1
        place = self.crowd.places[(self.number + self.made) % len(self.crowd.places)]
        data = {"distance_traveled": 31.5, "time_spent": 45, "interaction_method": "tap"}
        event = {"type": "waypoint_visited", "content_id": place["id"], "data": data}
        event |= {"lat": place["lat"], "lng": place["lng"]}
        self.send({"t": "update", "seq": self.made, "event": event})
        self.sent_at[self.made] = self.unsaved[self.made] = self.wrote_at

    def send_query(self, of: str, *, cursor: Any = None, began: float | None = None) -> None:
        """`full_history` asks for page after page and counts as one; `began`: when the first was asked for."""
        crowd = self.crowd
        crowd.queries += 1
        query_id = str(crowd.queries)
        frame: dict[str, Any] = {"t": "query", "id": query_id, "of": of.removeprefix("full_")}
        if of == "visited":
            frame["args"] = {"waypoint": crowd.places[crowd.queries % len(crowd.places)]["id"]}
        elif of in ("history", "full_history"):
            frame["args"] = {"limit": 100} | ({} if cursor is None else {"cursor": cursor})
        elif of == "leaderboard":
            frame["args"] = {"board": "distance", "limit": 10}
        self.send(frame)
        self.asked[query_id] = (of, self.wrote_at if began is None else began)

    def send(self, frame: Mapping[str, Any]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self.wrote_at = clock()
            self._transport.write(make_frame(msgpack.packb(frame)))

    # ── asyncio.Protocol ────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in everything but its base class
        crowd = self.crowd
        self._transport.write(
            f"GET /v1/play HTTP/1.1\r\nHost: {crowd.host}:{crowd.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: d2F5aG9sZC1iZW5jaC0wMA==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: wayhold.v1.msgpack\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        if not self._is_upgraded:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._tail = head
                return
            if b" 101 " not in head.split(b"\r\n", 1)[0]:
                self.crowd.note_error(head.split(b"\r\n", 1)[0].decode("latin-1"))
                self._abort()
                return
            self._is_upgraded = True
            self._say_hello()
        at = 0
        while at + 2 <= len(data):
            length, start = data[at + 1], at + 2
            if length > 125:
                width = 2 if length == 126 else 8
                length, start = int.from_bytes(data[start : start + width], "big"), start + width
            if start > len(data) or start + length > len(data):
                break
            self._receive(data[at] & 15, data[start : start + length])
            at = start + length
        self._tail = data[at:]

    def _say_hello(self) -> None:
        crowd = self.crowd
        hello = {
            "t": "hello",
            "token": make_token(crowd.secret, self.user_id, TOKEN_TTL_S),
            "experience": crowd.experience,
            "device": f"{crowd.device}-{self.number}",
            "at": int(time.time() * 1000),
            "made": self.made,
            "saved": self.saved,
        }
        self.send(hello)
        self.hello_at = self.wrote_at

    def _receive(self, opcode: int, payload: bytes) -> None:
        crowd = self.crowd
        if opcode == 8:
            self._abort()
            return
        if opcode != 2:
            return
        now = clock()
        frame = msgpack.unpackb(payload)
        match frame["t"]:
            case "ack":
                for seq in range(self.acked + 1, frame["seq"] + 1):
                    crowd.times.add("event", now - self.sent_at.pop(seq))
                crowd.updates_acked += max(0, frame["seq"] - self.acked)
                crowd.voids += len(frame.get("void", ()))
                self.acked = max(self.acked, frame["seq"])
                self._take_saved(frame["saved"], now)
            case "result":
                of, asked_at = self.asked.pop(frame["id"])
                if of == "full_history" and frame["data"]["cursor"] is not None:
                    self.send_query(of, cursor=frame["data"]["cursor"], began=asked_at)
                else:
                    crowd.times.add(of, now - asked_at)
            case "welcome":
                self.heartbeat_s = frame["heartbeat_s"]
                crowd.times.add("hello", now - self.hello_at)
                self.welcome.set()
            case "saved":
                self._take_saved(frame["seq"], now)
            case "pong":
                self._take_saved(frame.get("saved") or 0, now)
            case "error":
                of, _ = self.asked.pop(frame.get("id") or "", ("error", 0.0))
                crowd.note_error(f"{of}: {frame['code']} {frame.get('name', '')}".strip())
            case "bye" | "resync":
                crowd.note_error(f"{frame['t']} {frame.get('code', frame.get('reason', ''))}")

    def _take_saved(self, saved: int, now: float) -> None:
        for seq in range(self.saved + 1, saved + 1):
            sent_at = self.unsaved.pop(seq, None)
            if sent_at is not None:
                self.crowd.times.add("saved", now - sent_at)
        self.saved = max(self.saved, saved)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Load:
    """The orders."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.crowd = Crowd(plan)
        self.players = [Player(self.crowd, user_id, number) for number, user_id in enumerate(plan["user_ids"])]
        self._rng = random.Random(1)

    async def connect(self, timeout_s: float) -> dict[str, Any]:
        """Everybody comes in, at a bounded rate."""
        began = clock()
        async with asyncio.timeout(timeout_s):
            for number, player in enumerate(self.players):
                await asyncio.sleep(max(0.0, began + number / CONNECT_PER_S - clock()))
                await player.connect()
            while missing := [player for player in self.players if not player.welcome.is_set()]:
                for player in missing:
                    if player.gone.is_set():  # told to come back, as any client is now and then
                        await player.connect()
                await asyncio.sleep(0.2)
        return self._describe(clock() - began)

    async def play(
        self, seconds: float, updates_per_s: float, queries_per_s: float, queries: Mapping[str, float]
    ) -> dict[str, Any]:
        """Updates and queries at fixed rates, spread over everybody who is in."""
        players = [player for player in self.players if player.is_welcome]
        names, weights = list(queries), list(queries.values())
        self._rng.shuffle(players)
        self._forget()
        acked_before, late = self.crowd.updates_acked, []
        gc.collect()
        gc.freeze()
        began = clock()
        updates = Pace(began, updates_per_s, seconds)
        questions = Pace(began, queries_per_s, seconds)
        while not (updates.is_over and questions.is_over):
            for number, lateness in updates.due():
                players[number % len(players)].send_update()
                late.append(lateness)
            for _number, lateness in questions.due():
                self._rng.choice(players).send_query(self._rng.choices(names, weights)[0])
                late.append(lateness)
            await asyncio.sleep(TICK_S)
        took_s = clock() - began
        await self._wait(lambda: not any(player.asked or player.acked < player.made for player in players))
        return {
            **self._describe(took_s),
            "acked": self.crowd.updates_acked - acked_before,
            "unanswered": sum(len(player.asked) + player.made - player.acked for player in players),
            "sent_late": describe(late or [0.0]),
        }

    async def visit(self, seconds: float, updates_per_s: float, visit_s: float, at_once: int) -> dict[str, Any]:
        """
        `at_once` players are in at any time; each leaves after `visit_s` and the next one of the list comes in. Says
        on the way, as lines, who has come and who has gone.
        """
        self._forget()
        waiting = iter(self.players)
        inside: list[tuple[float, Player]] = []
        began = clock()
        updates = Pace(began, updates_per_s, seconds)
        while clock() - began < seconds:
            now = clock()
            while inside and inside[0][0] <= now:
                _, player = inside.pop(0)
                player.send({"t": "leave"})
                say({"gone": player.user_id, "at": time.time()})
            # They come one after the other over a whole visit, so that they leave so, too.
            while len(inside) < at_once and len(inside) < at_once * max(0.02, (now - began) / visit_s):
                coming = next(waiting, None)
                if coming is None:
                    break
                with contextlib.suppress(OSError, TimeoutError):
                    await coming.connect()
                    await asyncio.wait_for(coming.welcome.wait(), ANSWER_DEADLINE_S)
                    inside.append((clock() + visit_s, coming))
                    say({"came": coming.user_id})
            for number, _ in updates.due():
                if inside:
                    inside[number % len(inside)][1].send_update()
            await asyncio.sleep(TICK_S * 5)
        return self._describe(clock() - began)

    async def leave(self, timeout_s: float) -> dict[str, Any]:
        """Everybody ends the session; what they did is in Postgres when they are gone."""
        began = clock()
        inside = [player for player in self.players if player.is_welcome]
        for player in inside:
            player.send({"t": "leave"})
        await self._wait(lambda: all(player.gone.is_set() for player in inside), timeout_s)
        return self._describe(clock() - began)

    async def ping_for_ever(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            now = clock()
            for player in self.players:
                if player.is_welcome and now - player.wrote_at > player.heartbeat_s * HEARTBEAT_SHARE:
                    player.send({"t": "ping", "at": int(time.time() * 1000)})

    def _forget(self) -> None:
        self.crowd.times.clear()

    def _describe(self, seconds: float) -> dict[str, Any]:
        crowd = self.crowd
        return {
            "seconds": round(seconds, 2),
            "welcome": sum(player.is_welcome for player in self.players),
            "times": crowd.times.describe(),
            "errors": crowd.errors,
            "voids": crowd.voids,
        }

    async def _wait(self, is_done: Callable[[], bool], timeout_s: float = ANSWER_DEADLINE_S) -> None:
        give_up_at = clock() + timeout_s
        while not is_done() and clock() < give_up_at:  # noqa: ASYNC110 - an event would cost each answer something
            await asyncio.sleep(0.01)


class Pace:
    """What is due of so many per second."""

    def __init__(self, began: float, per_s: float, seconds: float) -> None:
        self._began, self._per_s = began, per_s
        self._todo = int(per_s * seconds)
        self._done = 0

    @property
    def is_over(self) -> bool:
        return self._done >= self._todo

    def due(self) -> list[tuple[int, float]]:
        """(number, seconds late) of everything that is due and was not told before."""
        now = clock()
        until = min(self._todo, int((now - self._began) * self._per_s) + 1) if self._per_s else 0
        found = [(number, now - self._began - number / self._per_s) for number in range(self._done, until)]
        self._done = until
        return found


async def serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    load = Load(json.loads(await reader.readline()))
    say({"ready": True})
    pings = asyncio.create_task(load.ping_for_ever())
    while line := await reader.readline():
        order = json.loads(line)
        do = order.pop("do")
        try:
            if do not in ORDERS:
                raise ValueError(f"no such order: {do}")
            say({"done": await getattr(load, do)(**order)})
        except Exception as error:
            say({"failed": f"{do}: {error!r}"})
    pings.cancel()


def say(facts: Mapping[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    raise_file_limit()
    gc.set_threshold(50_000, 50, 100)
    uvloop.run(serve())
