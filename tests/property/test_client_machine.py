"""
The session machine against a model gateway over a network that loses, repeats and cuts, on both sides of a crash.

Whatever the schedule: what has effect does so once and in order, the journal forgets nothing that is not in the cold
store, and nothing is sent before it is synced. Once the faults end, everything that was made is saved, exactly once.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.client.machine import Abort, Connect, Hangup, MachineState, ResetStream, Send, Stopped, Welcomed
from tests.unit.client.model_server import Close, ModelConnection, ModelServer
from tests.unit.client.rig import Rig, SlowJournal, list_updates

# A failing schedule is shrunk by running it thousands of times.
pytestmark = pytest.mark.timeout(300)

GARBAGE: list[Any] = [
    None,
    [],
    {"t": "ack"},
    {"t": "ack", "seq": 10**6, "version": 1, "saved": 0},
    {"t": "ack", "seq": 0, "version": 0, "saved": 10**6},
    {"t": "saved", "seq": 10**6},
    {"t": "saved", "seq": -1},
    {"t": "resync", "reason": "x", "seq": {"accepted": 10**6, "saved": 10**6}, "state": {}, "version": 1},
    {"t": "welcome", "seq": {"accepted": 10**6, "saved": 0}},
    {"t": "stream_reset", "accepted": "all"},
    {"t": "error", "code": 103, "name": "", "message": "", "expected": 10**6},
    {"t": "error", "code": 201, "name": "", "message": "", "retry_after_ms": -5},
    {"t": "error", "code": 100, "name": "", "message": ""},
    {"t": "push", "n": 7, "kind": "message", "data": {}},
    {"t": "pong"},
    {"t": "new in version 2"},
]


class Journey(RuleBasedStateMachine):
    @initialize(window=st.sampled_from([1, 2, 7, 256]), is_slow=st.booleans())
    def begin(self, window: int, is_slow: bool) -> None:
        self.server = ModelServer(window=window)
        self.journal = SlowJournal()
        self.journal.is_slow = is_slow
        self.rig = Rig(journal=self.journal)
        self.connection: ModelConnection | None = None
        self.to_server: list[dict[str, Any]] = []
        self.to_client: list[Any] = []
        self.taken = 0  # of rig.actions
        self.steps = 0
        self.excused: set[int] = set()
        self.voided: set[int] = set()
        self.since_lie: set[int] | None = None  # made since a disk lied, until the server was asked
        self.taken_over_at_hello: set[int] = set()  # what was accepted when the server answered

    # --- the player ---------------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 12), kind=st.sampled_from(["step", "step", "step", "bad", "unreadable"]))
    def make(self, count: int, kind: str) -> None:
        for _ in range(count):
            self.steps += 1
            if self.since_lie is not None:
                self.since_lie.add(self.steps)
            if kind != "step":
                self.voided.add(self.steps)
            self.rig.append({"event": {"type": kind, "n": self.steps}})
        self.rig.do(self.rig.machine.journal_synced(self.rig.now_ms))
        self._carry_out()

    @rule()
    def sync(self) -> None:
        self.rig.sync()
        self._carry_out()

    @rule(lied=st.sampled_from([0, 0, 0, 1, 3]))
    def power_cut(self, lied: int) -> None:
        """
        The app dies; a new one finds what was synced, without the last of it when the disk lied. A reset that was not
        synced would leave the old file; that is for the tests of the journal.
        """
        if self.journal.synced < 0:
            return
        # Dying once more before the server was asked: now nobody knows which of two updates a number was given to.
        self.excused |= self.since_lie or set()
        if self.journal.is_slow:
            if lied:
                self.since_lie = set()
            self.excused |= {msgpack.unpackb(payload)["event"]["n"] for payload in self.journal.power_cut(lied)}
        self._cut(None)
        self._restart()

    @precondition(lambda self: self.journal.is_slow)
    @rule(lied=st.integers(1, 3), count=st.integers(0, 5))
    def disk_lies(self, lied: int, count: int) -> None:
        """What was accepted and not saved is gone after a power cut, and what is made next takes its numbers."""
        self.sync()
        self.all_is_well_for_a_while(10)
        self.power_cut(lied)
        if count:
            self.make(count, "step")
            self.sync()

    def _restart(self) -> None:
        now_ms = self.rig.now_ms
        self.rig, resets = Rig(journal=self.journal), self.rig.resets
        self.rig.now_ms, self.rig.resets = now_ms, resets
        self.taken = 0

    # --- the network --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.connection is None)
    @rule()
    def connect(self) -> None:
        self.connection = self.server.connect()
        self.rig.do(self.rig.machine.connected("token", self.rig.now_ms))
        self._carry_out()

    @precondition(lambda self: self.to_server)
    @rule(fate=st.sampled_from(["arrives", "arrives", "arrives", "is lost", "is repeated"]))
    def deliver_to_server(self, fate: str) -> None:
        frame = self.to_server.pop(0)
        if fate == "is lost" or self.connection is None:
            return
        for _ in range(2 if fate == "is repeated" and frame["t"] != "hello" else 1):
            replies = self.connection.receive(frame)
            if frame["t"] == "hello":
                self.taken_over_at_hello = self._list_taken_over()
            for reply in replies:
                if isinstance(reply, Close):
                    self._cut(reply.code)
                    return
                self.to_client.append(reply)

    @precondition(lambda self: self.to_client)
    @rule(fate=st.sampled_from(["arrives", "arrives", "arrives", "is lost", "is repeated"]))
    def deliver_to_client(self, fate: str) -> None:
        frame = self.to_client.pop(0)
        if fate == "is lost":
            return
        for _ in range(2 if fate == "is repeated" else 1):
            self.rig.hear(frame)
            self._carry_out()

    @rule(turns=st.integers(1, 30))
    def all_is_well_for_a_while(self, turns: int) -> None:
        if self.connection is None:
            self.connect()
        for _ in range(turns):
            if self.journal.is_slow and self.rig.wants_sync:
                self.sync()
            if self.to_server:
                self.deliver_to_server("arrives")
            if self.to_client:
                self.deliver_to_client("arrives")

    @precondition(lambda self: self.connection is not None)
    @rule(code=st.sampled_from([None, 1006, 4001, 4003, 4007, 4102]))
    def cut(self, code: int | None) -> None:
        self._cut(code)

    @precondition(lambda self: self.connection is not None)
    @rule(frame=st.sampled_from(GARBAGE))
    def garbage_arrives(self, frame: Any) -> None:
        self.rig.hear(frame)
        # A server that says it cannot read the one update under way is believed: its number is used up without effect.
        for seq in self.rig.machine._outbox._skips or ():
            payload = self.journal.payloads.get(seq)
            if payload is not None:
                self.voided.add(msgpack.unpackb(payload)["event"]["n"])
        self._carry_out()

    @rule(for_ms=st.sampled_from([10, 500, 5_000, 25_000, 90_000]))
    def time_passes(self, for_ms: int) -> None:
        self.rig.wait(for_ms)
        self._carry_out()

    # --- the server ---------------------------------------------------------------------------------------------------

    @rule()
    def flush(self) -> None:
        self.to_client.extend(self.server.flush())
        if self.connection is None:
            self.to_client.clear()

    @rule()
    def lose_hot(self) -> None:
        self.server.lose_hot()

    @rule()
    def lose_session(self) -> None:
        self.server.lose_session()

    @rule(keep=st.integers(0, 3))
    def lose_cold(self, keep: int) -> None:
        """Postgres is restored from a backup. Only for the stream of now: the others have nobody who would notice."""
        before = self._list_logged()
        self.server.lose_cold(self.journal.device, keep)
        self.excused |= set(before) - set(self._list_logged())

    @rule(count=st.integers(1, 3))
    def refuse(self, count: int) -> None:
        self.server.refuse_updates = count

    @rule(drain=st.booleans())
    def restart_politely(self, drain: bool) -> None:
        if self.connection is not None:
            if drain:
                self.to_client.append({"t": "drain", "within_ms": 3_000})
            else:
                self.to_client.append({"t": "bye", "code": 4001, "name": "DRAINING"})

    @rule(is_unreadable=st.booleans())
    def change_what_is_readable(self, is_unreadable: bool) -> None:
        self.server.unreadable = {"unreadable"} if is_unreadable else set()

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_counted_twice_or_out_of_order(self) -> None:
        effective = [body["event"]["n"] for body in self.server.list_effective()]
        assert effective == sorted(set(effective)), effective

    @invariant()
    def the_journal_forgets_only_what_is_in_the_cold_store(self) -> None:
        held = {msgpack.unpackb(payload)["event"]["n"] for payload in self.journal.held}
        missing = set(range(1, self.steps + 1)) - held - set(self._list_logged()) - self.excused - self.voided
        # What a stream reset handed over is accepted, and not in the journal any more.
        assert missing <= self._list_taken_over(), missing

    def _list_taken_over(self) -> set[int]:
        return {body["event"]["n"] for body in self.server.list_effective()}

    def _list_logged(self) -> list[int]:
        return [body["event"]["n"] for _, _, body in self.server.log]

    # --- carrying out -------------------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        """Take what the machine did since the last look to the network."""
        while self.taken < len(self.rig.actions):
            action = self.rig.actions[self.taken]
            self.taken += 1
            match action:
                case Send(frame):
                    if self.connection is not None:
                        for update in list_updates([frame]):
                            assert update["seq"] <= self.journal.synced, "sent before it was synced"
                            assert update["seq"] <= self.rig.machine.accepted + self.server.window
                        self.to_server.append(frame)
                case Welcomed():
                    self.since_lie = None
                case ResetStream():
                    self.since_lie = None
                    # They were accepted when the server answered, and nobody but Redis has them until they are saved:
                    # for a device that forgot, that is all there is. Redis may be lost before the answer is heard.
                    handed_over = {msgpack.unpackb(payload)["event"]["n"] for payload in self.rig.handed_over}
                    self.excused |= handed_over & self.taken_over_at_hello
                case Abort():
                    self._cut(None)
                case Hangup(code):
                    self._cut(code)
                case Connect() | Stopped():
                    pass

    def _cut(self, code: int | None) -> None:
        if self.connection is None:
            return
        self.connection = self.server.connection = None
        self.to_server.clear()
        self.to_client.clear()
        self.rig.do(self.rig.machine.disconnected(code, self.rig.now_ms))
        self._carry_out()

    def teardown(self) -> None:
        """No more faults: everything comes to rest."""
        if not hasattr(self, "server"):
            return
        self.server.refuse_updates = 0
        for _ in range(60 + 8 * self.steps):
            if self.journal.is_slow:
                self.sync()
            self.all_is_well_for_a_while(20)
            self.nothing_is_counted_twice_or_out_of_order()
            self.flush()
            self.time_passes(3_000)
            if self.journal.saved == self.journal.made and self.rig.machine.state is MachineState.PLAYING:
                break
        else:
            raise AssertionError("never at rest")
        missing = set(range(1, self.steps + 1)) - set(self._list_logged()) - self.excused - self.voided
        assert not missing, f"lost: {missing}"


TestJourney = Journey.TestCase
TestJourney.settings = settings(
    max_examples=250, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
