"""When a dead child starts again, and when it is given up."""

from __future__ import annotations

from gateway.app.restart import DEATHS_MAX, RESTART_DELAY_MAX_S, RestartPolicy


def test_the_delay_doubles_and_the_fifth_death_in_a_minute_is_the_last() -> None:
    policy = RestartPolicy()
    assert [policy.died(at, lived_s=0.5) for at in (0.0, 1.0, 2.0, 3.0, 59.0)] == [0.2, 0.4, 0.8, 1.6, None]


def test_deaths_that_are_further_apart_are_never_given_up_but_wait_five_seconds_at_most() -> None:
    policy = RestartPolicy()
    delays = [policy.died(at * 20.0, lived_s=19.0) for at in range(200)]
    assert None not in delays
    assert delays[-1] == RESTART_DELAY_MAX_S


def test_a_child_that_lived_through_a_minute_starts_quickly_again() -> None:
    policy = RestartPolicy()
    for at in (0.0, 20.0, 40.0):
        policy.died(at, lived_s=15.0)
    assert policy.died(200.0, lived_s=150.0) == 0.2


def test_four_deaths_in_a_minute_are_survived_again_and_again() -> None:
    policy = RestartPolicy()
    for minute in range(10):
        for death in range(DEATHS_MAX - 1):
            assert policy.died(minute * 100.0 + death, lived_s=1.0) is not None
