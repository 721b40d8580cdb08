"""Timers, gates and health: pure rules on a clock that the tests turn."""

from __future__ import annotations

import asyncio

import pytest

from gateway.sessions.faults import Goodbye, close_of, error_of
from gateway.sessions.gate import Gate
from gateway.sessions.intake import when_it_happened
from gateway.sessions.rules import EVENT_AGE_MAX_MS, EVENT_AHEAD_MAX_MS
from gateway.sessions.timer_wheel import TICK_S, TimerWheel
from gateway.sessions.tokens import TokenRefused
from gateway.sessions.verdicts import VERDICTS
from gateway.telemetry.health import Health
from persistence.errors import PlayerErased, StoreFull, StoreUnavailable
from persistence.hot.shapes import Outcome
from protocol.closes import CloseAction, CloseCode, close_action
from protocol.errors import ErrorCode


class Timed:
    def __init__(self, again: float | None = None, fails: bool = False) -> None:
        self.looks: list[float] = []
        self.again = again
        self.fails = fails
        self.is_aborted = False

    def on_timer(self, now: float) -> float | None:
        self.looks.append(now)
        if self.fails:
            raise RuntimeError("fault")
        return None if self.again is None else now + self.again

    def abort(self) -> None:
        self.is_aborted = True


def turn_until(wheel: TimerWheel, start: float, end: float, step: float = 0.1) -> None:
    now = start
    while now <= end:
        wheel.turn(now)
        now += step


def test_a_deadline_is_noticed_late_by_a_tick_at_most_and_never_early() -> None:
    for due in (0.0, 0.1, 0.25, 0.26, 1.0, 3.99):
        wheel, timed = TimerWheel(0.0), Timed()
        wheel.schedule(timed, due)
        turn_until(wheel, 0.0, 6.0, 0.01)
        (look,) = timed.looks
        assert due <= look <= due + 2 * TICK_S


def test_whoever_names_another_instant_is_looked_at_again() -> None:
    wheel, timed = TimerWheel(100.0), Timed(again=1.0)
    wheel.schedule(timed, 101.0)
    turn_until(wheel, 100.0, 106.0)
    assert 4 <= len(timed.looks) <= 5


def test_a_deadline_in_the_past_comes_with_the_next_turn_and_a_stalled_loop_catches_up() -> None:
    wheel, late, soon = TimerWheel(50.0), Timed(), Timed()
    wheel.schedule(late, 1.0)
    wheel.schedule(soon, 51.0)
    wheel.turn(80.0)
    assert late.looks == [80.0] and soon.looks == [80.0]


def test_a_fault_in_one_timer_leaves_the_others_alone() -> None:
    wheel, broken, fine = TimerWheel(0.0), Timed(fails=True), Timed()
    wheel.schedule(broken, 1.0)
    wheel.schedule(fine, 1.0)
    turn_until(wheel, 0.0, 3.0)
    assert broken.is_aborted and fine.looks and len(broken.looks) == 1


async def test_a_gate_lets_live_players_in_before_new_ones() -> None:
    gate = Gate(1)
    order: list[str] = []

    async def enter(name: str, is_live: bool) -> None:
        async with gate.hold(is_live=is_live):
            order.append(name)
            await asyncio.sleep(0)

    async with gate.hold(is_live=False):
        waiting = [asyncio.create_task(enter(f"new{n}", False)) for n in range(2)]
        waiting += [asyncio.create_task(enter(f"live{n}", True)) for n in range(2)]
        await asyncio.sleep(0)
        assert gate.waiting == 4
    await asyncio.gather(*waiting)
    assert order == ["live0", "live1", "new0", "new1"]


async def test_a_cancelled_waiter_leaves_no_hole_in_a_gate() -> None:
    gate = Gate(2)

    async def enter() -> None:
        async with gate.hold(is_live=False):
            await asyncio.sleep(0)

    for _ in range(3):
        async with gate.hold(is_live=True), gate.hold(is_live=True):
            waiting = [asyncio.create_task(enter()) for _ in range(6)]
            await asyncio.sleep(0)
            for task in waiting[::2]:
                task.cancel()
        waiting[1].cancel()  # in the moment its turn has come
        await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(1):
        await asyncio.gather(*(enter() for _ in range(10)))
    assert gate.waiting == 0


def test_when_an_event_happened_is_bounded_both_ways() -> None:
    now = 1_795_000_000_000
    assert when_it_happened(now - 5_000, 0, now) == now - 5_000
    assert when_it_happened(now - 5_000, 3_000, now) == now - 2_000
    assert when_it_happened(0, 0, now) == now - EVENT_AGE_MAX_MS
    assert when_it_happened(now * 2, 0, now) == now + EVENT_AHEAD_MAX_MS
    assert when_it_happened(-(2**53), 2**53, now) == now - EVENT_AGE_MAX_MS


def test_every_fault_has_a_close_and_those_of_ours_let_the_client_resume() -> None:
    assert close_of(Goodbye(CloseCode.REPLACED)).code == CloseCode.REPLACED
    assert close_of(TokenRefused("x", is_expired=True)).code == CloseCode.TOKEN_EXPIRED
    assert close_of(TokenRefused("x")).code == CloseCode.UNAUTHENTICATED
    assert close_of(PlayerErased()).code == CloseCode.PLAYER_DELETED
    assert close_of(StoreFull("x")).code == CloseCode.OVERLOADED
    for error in (StoreUnavailable("redis", "x", "y"), TimeoutError(), ValueError("secret"), ZeroDivisionError()):
        close = close_of(error)
        assert close_action(close.code) is CloseAction.RESUME and close.retry_after_ms is not None
        assert close.is_expected is isinstance(error, (StoreUnavailable, TimeoutError))


def test_answers_to_faults_hold_nothing_of_the_exception() -> None:
    for error in (StoreUnavailable("postgres", "x", "password"), ValueError("secret /etc/passwd"), TokenRefused("eyJ")):
        fault = error_of(error)
        assert "secret" not in fault.message and "password" not in fault.message and "eyJ" not in fault.message
    assert error_of(StoreFull("x")).code == ErrorCode.OVERLOADED
    assert error_of(TokenRefused("x")).code == ErrorCode.UNAUTHENTICATED


def test_every_outcome_of_an_update_has_its_rule() -> None:
    assert set(VERDICTS) | {Outcome.CHANGED, Outcome.ACTIVE, Outcome.ERASED, Outcome.BANNED} == set(Outcome)


def test_a_node_is_ready_when_nothing_speaks_against_it() -> None:
    now = 100.0
    health = Health(lambda: now)
    assert health.judge().reasons == ["starting"]
    health.is_started = True
    assert health.judge() == health.judge().__class__(True, [])
    health.note_postgres("away")
    judged = health.judge()
    assert judged.is_ready and judged.reasons == ["degraded: postgres: away"]
    health.note_redis("away", asked_at=99.0)
    assert health.judge().is_ready, "a hiccup of Redis is no reason to drop every player"
    now = 101.5
    assert not health.judge().is_ready
    health.note_redis(None)
    assert health.judge().is_ready
    health.note_lag(0.4)
    judged = health.judge()
    assert not judged.is_ready and "400 ms" in judged.reasons[0]
    health.note_lag(0.0)
    assert not health.judge().is_ready, "one quiet tick proves nothing"
    now = 110.0
    health.note_lag(0.001)
    assert health.judge().is_ready
    for name in ("is_draining", "is_full", "is_broken"):
        setattr(health, name, True)
        assert not health.judge().is_ready
        setattr(health, name, False)
    health.warnings.append("appendonly is off")
    assert health.judge().is_ready and health.judge().reasons[-1] == "warning: appendonly is off"


@pytest.mark.parametrize("lag", [0.0, 0.2])
def test_a_little_lag_is_normal(lag: float) -> None:
    health = Health(lambda: 1.0)
    health.is_started = True
    health.note_lag(lag)
    assert health.judge().is_ready


def test_a_redis_past_its_high_water_mark_is_no_place_for_new_sessions() -> None:
    health = Health(lambda: 0.0, redis_high_water_share=0.8)
    health.is_started = True
    health.redis_share = 0.79
    assert health.judge().is_ready and not health.is_redis_high
    health.redis_share = 0.81
    assert health.judge().reasons == ["redis is 81% full"] and health.is_redis_high
