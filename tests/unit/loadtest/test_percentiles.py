"""Percentiles: as exact as promised, the same whether counted at once or in parts, readable by HdrHistogram's tools."""

from __future__ import annotations

import math
import random

import pytest

from loadtest.percentiles import VALUE_US_MAX, Histogram, HistogramRefused, sum_histograms

VALUES_US = (0, 1, 5, 2047, 2048, 2049, 4096, 123_456, 123_456, 1_000_000, 9_000_000_000)
# What hdrhistogram 0.10.8 encodes of VALUES_US: HdrHistogram(1, 86_400_000_000, 3).
ENCODED = "HISTFAAAADZ4nJNpmSzMwMAgygABzFCaEYhFZK8nMNh/gAgwMbEyfZRnYvnLz9Tvx7LWgGn2JUYmANNsCVY="


def test_percentiles_are_never_below_the_true_ones_and_at_most_a_thousandth_above() -> None:
    rng = random.Random(1)
    values = sorted(int(rng.lognormvariate(8.5, 2)) for _ in range(5000))
    histogram = Histogram(values)
    for percent in (0.1, 1, 50, 90, 95, 99, 99.9, 100):
        true = values[math.ceil(round(percent * 10) * len(values) / 1000) - 1]
        assert true <= histogram.percentile_us(percent) <= true * 1.001 + 1, percent
    assert histogram.percentile_us(100) == values[-1] == histogram.max_us


def test_percentiles_are_answered_in_the_order_of_the_question() -> None:
    assert Histogram(range(1, 101)).percentiles_us((99, 50, 100, 50)) == [99, 50, 100, 50]
    assert Histogram().percentiles_us((50, 99)) == [0, 0]


def test_histograms_of_parts_add_up_to_that_of_the_whole() -> None:
    rng = random.Random(2)
    values = [rng.randrange(10_000_000) for _ in range(2000)]
    parts = [Histogram(values[start::3]) for start in range(3)]
    assert sum_histograms(parts) == sum_histograms(reversed(parts)) == Histogram(values)
    assert sum_histograms(parts).count == 2000


def test_text_is_that_of_hdrhistogram() -> None:
    assert Histogram(VALUES_US).encode() == ENCODED
    assert Histogram.decode(ENCODED) == Histogram(VALUES_US)


def test_what_is_encoded_is_decoded() -> None:
    rng = random.Random(3)
    for values in ([], [0], [VALUE_US_MAX * 3, -7], [int(rng.lognormvariate(9, 3)) for _ in range(3000)]):
        histogram = Histogram(values)
        again = Histogram.decode(histogram.encode())
        assert again == histogram and again.count == len(values)
    assert Histogram([0]).encode() != Histogram([1]).encode()


def test_buckets_hold_their_values() -> None:
    for value in (0, 1, 2047, 2048, 4095, 4096, 4097, 123_457, VALUE_US_MAX):
        ((low, high, count),) = Histogram([value]).buckets()
        assert low <= value <= high and count == 1


@pytest.mark.parametrize("text", ["", "no base64!", "AAAA", ENCODED[:30], "HISTFAAAAAR4nAM="])
def test_text_that_is_no_histogram_is_refused(text: str) -> None:
    with pytest.raises(HistogramRefused):
        Histogram.decode(text)
