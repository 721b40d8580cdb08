"""
Who went to the background while an update was unanswered stayed in the foreground: `suspended` came before the `ack`,
and at the next heartbeat the client pinged, which told the gateway that the player is back.
"""

from __future__ import annotations

from protocol.client.machine import MachineState, Suspended
from tests.unit.client.rig import Rig, make_ack

SUSPENDED = {"t": "suspended", "expires_s": 500}


def make_suspending() -> Rig:
    rig = Rig()
    rig.play()
    rig.make()
    rig.take_sent()
    rig.do(rig.machine.suspend(600, rig.now_ms))
    return rig


def test_the_ack_after_suspended_ends_the_heartbeats() -> None:
    rig = make_suspending()
    rig.hear(SUSPENDED)
    assert rig.took(Suspended) == [Suspended(500)]
    rig.hear(make_ack(1))
    assert rig.machine.state is MachineState.SUSPENDED
    rig.now_ms += 300_000
    assert [frame["t"] for frame in rig.take_sent()] == ["suspend"]
    assert rig.machine.find_next_tick_ms() is None


def test_what_is_said_before_the_ack_brings_it_back_and_it_is_suspended_again_after() -> None:
    rig = make_suspending()
    rig.hear(SUSPENDED)
    rig.do(rig.machine.ask("q", "state", None, rig.now_ms))
    rig.hear(make_ack(1))
    assert rig.machine.state is MachineState.PLAYING
    rig.hear({"t": "result", "id": "q", "data": {}})
    assert [frame["t"] for frame in rig.take_sent()] == ["suspend", "query", "suspend"]
    rig.hear(SUSPENDED)
    assert rig.machine.find_next_tick_ms() is None


def test_an_update_made_meanwhile_means_that_the_player_plays_on() -> None:
    rig = make_suspending()
    rig.make()
    rig.hear(SUSPENDED)
    rig.hear(make_ack(2))
    rig.wait(10_001)
    assert rig.machine.state is MachineState.PLAYING
    assert [frame["t"] for frame in rig.take_sent()].count("suspend") == 1


def test_who_wakes_before_suspended_has_come_goes_on_with_heartbeats() -> None:
    rig = Rig()
    rig.play()
    rig.do(rig.machine.suspend(600, rig.now_ms))
    rig.do(rig.machine.wake(rig.now_ms))
    rig.hear(SUSPENDED)
    assert rig.machine.state is MachineState.PLAYING
    assert rig.machine.find_next_tick_ms() is not None
