"""Bounds for CI: breached ones are told, misspelt ones are refused before the run, unmeasured ones never pass."""

from __future__ import annotations

import argparse

import pytest

from loadtest.command import add_arguments, run
from loadtest.target import TargetRefused
from loadtest.thresholds import list_breaches, parse_threshold


@pytest.mark.parametrize(
    ("text", "is_breached"),
    [
        ("ack_p99_ms > 20", True),
        ("ack_p99_ms>25.5", False),
        ("ack_p99_ms >= 25.5", True),
        ("accepted_per_s < 100", False),
        ("lost != 0", False),
        ("late_acks == 0", False),
        ("errors <= 1e3", True),
    ],
)
def test_a_threshold_is_breached_when_what_it_says_is_so(text: str, is_breached: bool) -> None:
    figures = {"ack_p99_ms": 25.5, "accepted_per_s": 200.0, "lost": 0, "late_acks": 3, "errors": 7}
    breaches = list_breaches([parse_threshold(text)], figures)
    assert bool(breaches) is is_breached
    assert all("it is" in str(breach) for breach in breaches)


def test_a_figure_that_was_not_measured_is_a_breach() -> None:
    (breach,) = list_breaches([parse_threshold("saved_p99_ms > 9e9")], {"saved_p99_ms": None})
    assert str(breach) == "saved_p99_ms > 9e+09: the run did not measure it"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ack_p99 > 20", "did you mean ack_p99_ms?"),
        ("ack_99_ms > 20", "did you mean ack_p99_ms?"),
        ("losst > 0", "did you mean lost?"),
        ("zzz > 0", "there are: players"),
        ("ack_p99_ms", "a figure, a sign and a number"),
        ("ack_p99_ms => 3", "a figure, a sign and a number"),
        ("ack_p99_ms > 2.3.4", "no number"),
        ("ack_p99_ms > 20 ms", "a figure, a sign and a number"),
        ("ack_p99_ms > 1e999", "no bound"),
        ("", "a figure, a sign and a number"),
    ],
)
def test_a_threshold_that_means_nothing_is_refused_with_what_was_meant(text: str, said: str) -> None:
    with pytest.raises(TargetRefused) as refused:
        parse_threshold(text)
    assert said in str(refused.value)


def test_a_misspelt_figure_is_refused_before_anybody_plays(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    # Nothing runs in that folder: a flag that is looked at too late would say so, with exit code 3.
    assert run(parser.parse_args(["--data-dir", "/none/at/all", "--fail-if", "ack_p99 > 20"])) == 2
    assert capsys.readouterr().err == "wayhold loadtest: --fail-if does not know ack_p99; did you mean ack_p99_ms?\n"
