"""Counters of processes that come and go, as rates and percentiles."""

from __future__ import annotations

from typing import Any

from gateway.liveops.limits import NAMES_MAX, Attempts
from gateway.liveops.live.figures import SAMPLE_S, SERIES_S, Figures, Sample, compare, percentile_ms
from gateway.telemetry.metrics import WAITS


def sample(at_s: float, **processes: dict[str, Any]) -> Sample:
    return Sample(at_s, {(name, 1): facts for name, facts in processes.items()})


def counts(**at: int) -> list[int]:
    found = [0] * (len(WAITS) + 1)
    for index, count in at.items():
        found[int(index[1:])] = count
    return found


def test_rates_are_of_all_processes_and_one_that_starts_again_makes_none_negative() -> None:
    older = Sample(100.0, {("gateway-1", 1): {"accepted": 1000, "sessions": 5}, ("gateway-2", 2): {"accepted": 50}})
    newer = Sample(110.0, {("gateway-1", 9): {"accepted": 30, "sessions": 4}, ("gateway-2", 2): {"accepted": 120}})
    found = compare(older, newer)
    assert found["updates_per_s"] == 10.0 and found["sessions"] == 4


def test_without_samples_nothing_is_known_and_nothing_is_claimed() -> None:
    assert Figures().read()["updates_per_s"] is None
    found = compare(sample(1.0, a={}), sample(1.0, a={}))
    assert found["updates_per_s"] is None and found["ack_p99_ms"] is None and found["flush_lag_s"] is None


def test_percentiles_lie_within_the_bucket_that_holds_them() -> None:
    assert percentile_ms(counts(), 0.5) is None
    only = counts(_4=100)
    assert WAITS[3] * 1000 < (percentile_ms(only, 0.5) or 0) <= WAITS[4] * 1000
    assert percentile_ms(only, 0.5) < percentile_ms(only, 0.99)  # type: ignore[operator]
    beyond = [0] * len(WAITS) + [3]
    assert percentile_ms(beyond, 0.5) == WAITS[-1] * 1000


def test_only_what_fell_between_two_looks_counts_for_a_percentile() -> None:
    older, newer = sample(0.0, a={"ack_waits": counts(_20=1000)}), sample(5.0, a={"ack_waits": counts(_20=1000, _2=10)})
    found = compare(older, newer)
    assert found["ack_p99_ms"] <= WAITS[2] * 1000


def test_the_series_keeps_the_last_quarter_of_an_hour_and_no_more() -> None:
    figures = Figures()
    for step in range(2 * int(SERIES_S)):
        figures.add(sample(float(step), a={"accepted": 10 * step}))
    series = figures.series()
    assert len(series["at"]) == SERIES_S / SAMPLE_S
    assert series["at"][-1] - series["at"][0] <= SERIES_S + SAMPLE_S
    assert set(series["updates_per_s"]) == {10.0}


def test_attempts_come_back_one_by_one_and_names_are_bounded() -> None:
    now = [0.0]
    attempts = Attempts(2, 10.0, lambda: now[0])
    assert [attempts.find_wait_s("ann") for _ in range(3)] == [0.0, 0.0, 10.0]
    now[0] = 10.0
    assert attempts.find_wait_s("ann") == 0.0 and attempts.find_wait_s("bob") == 0.0
    for number in range(NAMES_MAX + 5):
        attempts.find_wait_s(str(number))
    assert len(attempts._left) == NAMES_MAX
