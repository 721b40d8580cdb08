"""
A gateway in a hundred lines, for tests of the client: one player, hot and cold copies in memory, no sockets, no time.

It does what the protocol says about numbers (accept, repeat, void, gap, resync, stream_reset, saved) and can be told to
forget, to refuse and to lose. What the client must bring about is in `log`: the steps in the order in which they took
effect, each exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Close:
    """The server closes the socket with this code, after the frames before it."""

    code: int


Reply = dict[str, Any] | Close


@dataclass
class Copy:
    """What the hot store holds: a name, and per device what is accepted and saved."""

    name: int
    accepted: dict[str, int] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)
    # (device, seq, body or None for a void, code)
    pending: list[tuple[str, int, Any]] = field(default_factory=list)
    voids: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)
    version: int = 0


class ModelServer:
    def __init__(self, *, heartbeat_s: float = 20, window: int = 256) -> None:
        self.heartbeat_s = heartbeat_s
        self.window = window
        self.copies = 0
        self.cold_seq: dict[str, int] = {}
        self.log: list[tuple[str, int, Any]] = []
        self.hot = self._hydrate()
        self.session: str | None = None
        self.sessions = 0
        self.refuse_updates = 0  # answer this many updates with 201
        self.retry_after_ms = 100
        self.unreadable: set[str] = set()  # an event type that this gateway cannot read (105)
        self.connection: ModelConnection | None = None
        self.hellos: list[dict[str, Any]] = []
        self.batches = 0

    def _hydrate(self) -> Copy:
        self.copies += 1
        return Copy(self.copies, dict(self.cold_seq), dict(self.cold_seq))

    # --- what tests do to it ------------------------------------------------------------------------------------------

    def connect(self) -> ModelConnection:
        self.connection = ModelConnection(self)
        return self.connection

    def flush(self) -> list[Reply]:
        """Write everything pending to the cold store; tell the connection, if there is one."""
        for device, seq, body in self.hot.pending:
            assert seq == self.cold_seq.get(device, 0) + 1, "the flusher never writes out of order"
            self.cold_seq[device] = seq
            if body is not None:
                self.log.append((device, seq, body))
        self.hot.pending = []
        self.hot.saved = dict(self.cold_seq)
        self.hot.voids = {}
        connection = self.connection
        if connection is None or connection.device is None:
            return []
        return [{"t": "saved", "seq": self.hot.saved.get(connection.device, 0)}]

    def lose_hot(self) -> None:
        self.hot = self._hydrate()

    def lose_session(self) -> None:
        self.session = None

    def lose_cold(self, device: str, keep: int) -> None:
        """The cold store was restored from an old backup, and nothing newer is in the hot one."""
        self.cold_seq[device] = min(keep, self.cold_seq.get(device, 0))
        self.log = [step for step in self.log if step[0] != device or step[1] <= keep]
        self.lose_hot()

    def list_effective(self) -> list[Any]:
        """What every accepted update did, saved or not, in order."""
        return [body for _, _, body in self.log] + [body for _, _, body in self.hot.pending if body is not None]


class ModelConnection:
    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.device: str | None = None
        self.copy = 0
        self.waits_for: int | None = None
        self.told = 0
        self.is_reset = False

    def receive(self, frame: dict[str, Any]) -> list[Reply]:
        match frame["t"]:
            case "hello":
                return self._hello(frame)
            case _ if self.device is None:
                return [_error(104, "NOT_IN_SESSION")]
            case "update":
                return self._updates([frame])
            case "batch":
                self.server.batches += 1
                assert 1 <= len(frame["updates"]) <= 200
                return self._updates(frame["updates"])
            case "ping":
                replies = self._check_copy()
                _, saved = self._marks()
                return [*replies, {"t": "pong", "at": frame["at"], "server_time": 1, "saved": saved}]
            case "query":
                return [{"t": "result", "id": frame["id"], "data": {"of": frame["of"]}}]
            case "suspend":
                return [{"t": "suspended", "expires_s": frame["expected_s"]}]
            case "refresh":
                return [{"t": "refreshed", "expires_s": 600}]
            case "leave":
                self.server.flush()
                self.server.session = None
                return [{"t": "left", "saved": True}, Close(1000)]
            case other:
                return [_error(101, "UNKNOWN_TYPE", message=str(other))]

    def _hello(self, frame: dict[str, Any]) -> list[Reply]:
        server, device = self.server, frame["device"]
        server.hellos.append(frame)
        assert self.device is None, "a second hello is only for a stream reset"
        accepted, saved = server.hot.accepted.get(device, 0), server.hot.saved.get(device, 0)
        if frame["saved"] > accepted:
            if server.cold_seq.get(device, 0) < frame["saved"]:
                return [{"t": "stream_reset", "accepted": accepted, "reason": "server_behind"}]
            server.lose_hot()
            accepted, saved = server.hot.accepted.get(device, 0), server.hot.saved.get(device, 0)
        if accepted > frame["made"]:
            return [{"t": "stream_reset", "accepted": accepted, "reason": "device_behind"}]
        resumed = "resume" in frame and frame["resume"]["session"] == server.session
        if not resumed:
            server.sessions += 1
            server.session = f"session-{server.sessions}"
        self.device, self.copy, self.told = device, server.hot.name, accepted
        welcome = {
            "t": "welcome",
            "session": {"id": server.session, "token": f"resume-{server.sessions}", "expires_s": 60},
            "resumed": resumed,
            "seq": {"accepted": accepted, "saved": saved},
            "state": {},
            "version": server.hot.version,
            "heartbeat_s": server.heartbeat_s,
            "window": server.window,
            "limits": {},
            "server_time": 1,
        }
        if not resumed:
            welcome["reason"] = "new"
        return [self._with_voids(welcome)]

    def _marks(self) -> tuple[int, int]:
        assert self.device is not None
        return self.server.hot.accepted.get(self.device, 0), self.server.hot.saved.get(self.device, 0)

    def _with_voids(self, frame: dict[str, Any]) -> dict[str, Any]:
        voids = [
            {"seq": seq, "code": code, "message": message}
            for (device, seq), (code, message) in self.server.hot.voids.items()
            if device == self.device
        ]
        if voids:
            frame["void"] = voids
        return frame

    def _check_copy(self) -> list[Reply]:
        accepted, saved = self._marks()
        if self.copy == self.server.hot.name and accepted >= self.told:
            return []
        self.copy, self.told, self.waits_for = self.server.hot.name, accepted, None
        return [
            self._with_voids(
                {
                    "t": "resync",
                    "reason": "redis_lost",
                    "seq": {"accepted": accepted, "saved": saved},
                    "state": {},
                    "version": self.server.hot.version,
                }
            )
        ]

    def _updates(self, updates: list[dict[str, Any]]) -> list[Reply]:
        server, device = self.server, self.device
        assert device is not None
        replies: list[Reply] = []
        if any((update.get("event") or {}).get("type") in server.unreadable for update in updates):
            one = updates[0]["seq"] if len(updates) == 1 else None
            return [_error(105, "TOO_LARGE", seq=one)]
        has_taken = False
        for update in updates:
            seq = update["seq"]
            if self._check_copy():
                return [*replies, *self._resync()]
            accepted, _ = self._marks()
            if self.waits_for is not None and seq > self.waits_for:
                continue
            if seq > accepted + 1:
                self.waits_for = accepted + 1
                replies.append(_error(103, "SEQUENCE_GAP", seq=seq, expected=accepted + 1))
                continue
            if seq == accepted + 1:
                if server.refuse_updates:
                    server.refuse_updates -= 1
                    self.waits_for = seq
                    replies.append(_error(201, "UNAVAILABLE", seq=seq, retry_after_ms=server.retry_after_ms))
                    continue
                self._take(device, seq, update)
            self.waits_for = None
            has_taken = True
        if has_taken:
            accepted, saved = self._marks()
            self.told = accepted
            ack = {"t": "ack", "seq": accepted, "version": server.hot.version, "saved": saved}
            replies.append(self._with_voids(ack))
        return replies

    def _resync(self) -> list[Reply]:
        self.copy = 0
        return self._check_copy()

    def _take(self, device: str, seq: int, update: dict[str, Any]) -> None:
        hot = self.server.hot
        body: Any = {key: update[key] for key in ("event", "effects") if key in update}
        if update.get("skip") or (update.get("event") or {}).get("type") == "bad":
            hot.voids[(device, seq)] = (102, "skipped" if update.get("skip") else "bad")
            body = None
        hot.accepted[device] = seq
        hot.version += 1
        hot.pending.append((device, seq, body))


def _error(code: int, name: str, **more: Any) -> dict[str, Any]:
    frame = {"t": "error", "code": code, "name": name, "message": name.lower(), **more}
    return {key: value for key, value in frame.items() if value is not None}
