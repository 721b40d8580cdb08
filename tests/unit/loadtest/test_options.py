"""Flags of the load test: what cannot work is refused before anything starts."""

from __future__ import annotations

import argparse
import uuid

import pytest

from loadtest.command import Options as LoadTestOptions
from loadtest.command import add_arguments, read_options, run
from loadtest.run_players import PlayersPlan
from loadtest.target import Target, TargetRefused


def options(*flags: str) -> LoadTestOptions:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_options(parser.parse_args(flags))


@pytest.mark.parametrize(
    "flags",
    [
        ("--players", "0"),
        ("--rate", "0"),
        ("--rate", "nan"),
        ("--seconds", "-1"),
        ("--drop-rate", "2"),
        ("--kill", "postmaster"),
        ("--kill-at", "3"),
        ("--kill", "gateway", "--kill-at", "soon"),
        ("--kill", "gateway", "--kill-at", "3,-1"),
        ("--token", "t", "--players", "2"),
        ("--no-return", "--freeze-postgres-s", "3"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags: tuple[str, ...]) -> None:
    with pytest.raises(TargetRefused, match="--"):
        options(*flags)


def test_kills_have_sensible_defaults() -> None:
    assert options("--kill", "gateway, flusher-1", "--seconds", "10").kill_at_s == [5.0]
    chosen = options("--no-return", "--seconds", "10")
    assert (chosen.kill, chosen.kill_at_s) == (["gateway", "flusher", "valkey"], [10.0])
    assert options("--kill", "valkey", "--kill-at", "1,2.5").kill_at_s == [1.0, 2.5]
    assert not options().kill and not options().needs_processes


def test_refusals_are_one_line_and_exit_codes_are_those_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args(["--players", "0"])) == 2
    assert run(parser.parse_args(["--data-dir", "/none/at/all"])) == 3
    token = Target("ws://x", None, secret=bytes(32)).make_token(str(uuid.uuid4()))
    assert run(parser.parse_args(["--url", "ws://x/v1/play", "--token", "t", "--players", "1"])) == 2
    assert run(parser.parse_args(["--url", "ws://x/v1/play", "--token", token, "--players", "1"])) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("wayhold loadtest: ") for line in lines)


def test_every_run_has_players_of_its_own_and_stories_that_repeat() -> None:
    facts = {
        "url": "ws://x",
        "secret_hex": "00",
        "experience": "e",
        "first": 0,
        "players": 2,
        "random_seed": 1,
        "history": "h",
        "is_crash_safe": False,
    }
    first = PlayersPlan(run_id="5a1a4dd1-5813-52be-8dcd-e0954b5a449f", **facts)
    other = PlayersPlan(run_id="6a1a4dd1-5813-52be-8dcd-e0954b5a449f", **facts)
    ids = {plan.make_user_id(index) for plan in (first, other) for index in range(2)}
    assert len(ids) == 4 and first.make_user_id(1) in ids
