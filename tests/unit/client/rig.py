"""A driver for the session machine without sockets or clocks: the test says what time it is and what was heard."""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

import msgpack

from protocol.client.journal import MemoryJournal
from protocol.client.machine import (
    Abort,
    Action,
    Connect,
    DropJournal,
    Forget,
    MachineState,
    ResetStream,
    Send,
    SessionMachine,
    SyncJournal,
)

A = TypeVar("A")


class SlowJournal(MemoryJournal):
    """A journal whose disk is synced when the test says so, and which forgets the rest in a power cut."""

    __slots__ = ("_at_rest", "is_slow", "moved")

    def __init__(self, device: str = "phone") -> None:
        super().__init__(device)
        self._at_rest = 0
        self.is_slow = False
        self.moved: int | None = None

    @property
    def synced(self) -> int:
        return self._at_rest if self.is_slow else self.made

    @property
    def moved_at(self) -> int | None:
        return self.moved

    @property
    def held(self) -> list[bytes]:
        """All that is held; unlike `list_after`, without counting as exposed."""
        return list(self.payloads.values())

    def sync_now(self) -> None:
        self._at_rest = self.made

    def reset(self, device: str, keep_after: int) -> dict[int, int]:
        self._at_rest = -1
        self.moved = None
        return super().reset(device, keep_after)

    def power_cut(self, lied: int = 0) -> list[bytes]:
        """Answers the updates that are gone, with so many of those that the disk had called synced."""
        kept = max(self._at_rest - lied, self.saved)
        gone = [payload for seq, payload in self.payloads.items() if seq > kept]
        self.drop_after(kept)
        self._at_rest = kept
        return gone

    def open_again(self) -> None:
        """What is there when a process starts may have been sent by the one before."""
        self.exposed = self.made if self.moved is None else self.moved


class Rig:
    def __init__(self, *, journal: SlowJournal | None = None, seed: int = 1, **more: Any) -> None:
        """`journal`: one that an earlier process has left."""
        self.journal = journal or SlowJournal()
        self.journal.open_again()
        self.random = Random(seed)
        self.machine = SessionMachine(self.journal, "wylding-woods", random=self.random, client="rig", **more)
        self.now_ms = 1_000_000
        self.actions: list[Action] = []
        self.sent: list[dict[str, Any]] = []
        self.resets = 0
        self.renumbered: list[dict[int, int]] = []
        self.handed_over: list[bytes] = []  # what a reset left to the server
        self.wants_sync = False

    # --- what happens to it -----------------------------------------------------------------------------------------

    def do(self, actions: list[Action]) -> list[Action]:
        """Carry out what touches the journal; remember the rest."""
        self.actions.extend(actions)
        for action in actions:
            match action:
                case Send(frame):
                    self.sent.append(frame)
                case Forget(seq):
                    self.journal.forget(seq)
                case ResetStream(keep_after, _):
                    self.resets += 1
                    before = self.journal.held
                    self.renumbered.append(self.journal.reset(f"phone-{self.resets}", keep_after))
                    self.handed_over += [payload for payload in before if payload not in self.journal.held]
                case DropJournal():
                    self.journal.reset("nobody", self.journal.made)
                case SyncJournal():
                    if self.journal.is_slow:
                        self.wants_sync = True
                    else:
                        self.sync()
        return actions

    def sync(self) -> list[Action]:
        self.wants_sync = False
        self.journal.sync_now()
        return self.do(self.machine.journal_synced(self.now_ms))

    def make(self, count: int = 1, **event: Any) -> None:
        for _ in range(count):
            self.append({"event": {"type": "step", "data": {"n": self.journal.made + 1}} | event})
        self.do(self.machine.journal_synced(self.now_ms))

    def append(self, body: dict[str, Any]) -> int:
        return self.journal.append(msgpack.packb(body))

    def connect(self, token: str = "token") -> dict[str, Any]:
        """A socket opens; answers the hello."""
        self.do(self.machine.connected(token, self.now_ms))
        return self.sent[-1]

    def hear(self, *frames: Any) -> list[Action]:
        done: list[Action] = []
        for frame in frames:
            done += self.do(self.machine.received(frame, self.now_ms))
        return done

    def play(self, *, made: int = 0, **welcome: Any) -> None:
        """Into a session, with so many updates made and sent."""
        self.connect()
        self.hear(make_welcome(**welcome))
        assert self.machine.state is MachineState.PLAYING
        self.make(made)

    def lose(self, code: int | None = None) -> Connect:
        """The socket is gone; answers when to come back."""
        [connect] = self.do(self.machine.disconnected(code, self.now_ms))
        assert isinstance(connect, Connect)
        return connect

    def wait(self, for_ms: int) -> list[Action]:
        """Let time pass, ticking whenever the machine asked for it."""
        done: list[Action] = []
        until_ms = self.now_ms + for_ms
        for _ in range(10_000):
            at_ms = self.machine.find_next_tick_ms()
            if at_ms is None or at_ms > until_ms:
                break
            self.now_ms = max(self.now_ms, at_ms)
            done += self.do(self.machine.tick(self.now_ms))
        else:
            raise AssertionError("the machine asks for the same tick again and again")
        self.now_ms = until_ms
        return done

    # --- what it did ------------------------------------------------------------------------------------------------

    def take_sent(self) -> list[dict[str, Any]]:
        sent, self.sent = self.sent, []
        return sent

    def take_seqs(self) -> list[int]:
        """The numbers of all updates sent since the last look, in order."""
        return [update["seq"] for update in list_updates(self.take_sent())]

    def took(self, kind: type[A]) -> list[A]:
        return [action for action in self.actions if isinstance(action, kind)]

    @property
    def aborted(self) -> bool:
        return bool(self.took(Abort))


def list_updates(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    updates = []
    for frame in frames:
        if frame["t"] == "update":
            updates.append(frame)
        elif frame["t"] == "batch":
            updates.extend(frame["updates"])
    return updates


def make_welcome(
    accepted: int = 0, saved: int = 0, *, session: str = "s-1", resumed: bool = False, **more: Any
) -> dict[str, Any]:
    return {
        "t": "welcome",
        "session": {"id": session, "token": "resume-token", "expires_s": 60},
        "resumed": resumed,
        "seq": {"accepted": accepted, "saved": saved},
        "state": {},
        "version": 0,
        "heartbeat_s": 20,
        "window": 256,
        "limits": {},
        "server_time": 1,
        **more,
    }


def make_ack(seq: int, saved: int = 0, **more: Any) -> dict[str, Any]:
    return {"t": "ack", "seq": seq, "version": seq, "saved": saved, **more}


def make_error(code: int, **more: Any) -> dict[str, Any]:
    return {"t": "error", "code": code, "name": "NAME", "message": "message", **more}
