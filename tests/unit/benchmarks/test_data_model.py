"""The benchmark of the data model without a server: when things are due, who is of which kind, what it prints."""

from __future__ import annotations

import argparse
import random
import time
import tomllib
from typing import Any

import pytest

from benchmarks.data_model import write_docs
from benchmarks.data_model.__main__ import PARTS, WORKLOAD, parse, scale
from benchmarks.data_model.cache import Whereabouts
from benchmarks.data_model.players import Pace, describe
from benchmarks.data_model.report import ITS_QUERY, show_report


def test_what_is_due_comes_once_and_in_order() -> None:
    pace = Pace(time.monotonic() - 1.0, 100.0, 2.0)
    first = pace.due()
    assert [number for number, _ in first] == list(range(len(first)))
    assert 100 <= len(first) <= 110
    assert all(late >= 0 for _, late in first)
    again = pace.due()
    assert not again or again[0][0] == len(first)
    assert not pace.is_over
    assert len(Pace(time.monotonic() - 60.0, 100.0, 2.0).due()) == 200
    assert Pace(time.monotonic() - 60.0, 0.0, 2.0).is_over


def test_quantiles_are_in_milliseconds() -> None:
    found = describe([number / 1000 for number in range(1, 101)])
    assert found == {"count": 100, "p50": 51.0, "p90": 91.0, "p99": 100.0, "p999": 100.0, "max": 100.0}


def test_a_player_is_of_one_kind_at_a_time() -> None:
    rng = random.Random(1)
    people = Whereabouts(["stranger"], hour_s=60.0)
    people.note({"came": "ada"})
    assert people.choose("active", rng) == "ada"
    assert people.choose("recently active", rng) is None
    people.note({"gone": "ada", "at": time.time() - 5})
    assert people.choose("active", rng) is None
    assert people.choose("recently active", rng) == "ada"
    people.left["ada"] = time.time() - 70
    assert people.choose("recently active", rng) is None
    assert people.choose("inactive", rng) == "stranger"
    assert people.choose("inactive", rng) is None


@pytest.mark.parametrize("minutes", ["0.5", "1", "10", "60"])
@pytest.mark.parametrize("players", [None, "4", "1000"])
def test_a_smaller_run_is_whole(minutes: str, players: str | None) -> None:
    args = parse(["--minutes", minutes, *(["--players", players] if players else [])])
    workload = scale(tomllib.loads(WORKLOAD.read_text()), args)
    stored, cache = workload["stored"], workload["cache"]
    assert 1 <= workload["active"]["players"] <= stored["players"]
    assert stored["events"] == 50 * stored["players"]
    assert cache["minutes"] * 60 >= 3 * cache["visit_s"] > 0
    assert args.parts == list(PARTS)


def test_the_report_shows_every_target_of_the_data_model() -> None:
    times = {"count": 10, "p50": 1.0, "p90": 1.5, "p99": 2.0, "p999": 2.5, "max": 3.0}
    part: dict[str, Any] = {"errors": {}, "voids": 0, "unanswered": 0, "welcome": 5, "sent_late": times}
    named = ("state", "event", "inventory", "visited", "full_history")
    kinds = ("active", "recently active", "inactive", "inactive, again")
    sizes = {"rows": 10.0, "indexes": 5.0}
    workload = tomllib.loads(WORKLOAD.read_text())
    result = {
        "workload": workload,
        "others_cores": 0.1,
        "operations": {
            "stored_events": 100,
            "stored_players": 2,
            "came": part | {"times": {"hello": times}},
            "socket": part | {"times": dict.fromkeys(named, times)},
            "api": part | {"times": dict.fromkeys((f"{name} active" for name in named), times)},
            "analytics": part | {"times": {ITS_QUERY: times, "b": times | {"p99": 50.0}}},
        },
        "cache": {
            "seconds": 60,
            "hour_s": 20,
            "kinds": {kind: {"reads": 4, "hits": 3} for kind in kinds},
            "hellos": {"hits": 1.0, "lookups": 2.0},
            "metric": 0.5,
        },
        "storage": {
            "players": 10,
            "events_per_player": 50.0,
            "state_bytes": 1000,
            "data_bytes": 40,
            "ours": {"profile": sizes, "progress": sizes, "events": sizes, "rollups": sizes},
            "sketch": {"profile": sizes, "progress": sizes, "events": sizes},
            "planned": {"profile": 1000, "progress": 5000, "events": 5000},
            "redis": {
                "active": 5,
                "empty": {"used": 0, "bytes": {}},
                "settled": {"used": 5000, "bytes": {"session": 400}},
            },
        },
    }
    shown = show_report(result)
    for wanted in ("< 10 ms", "< 50 ms", "< 20 ms", "< 15 ms", "< 500 ms", "< 1000 ms", "95-99 %", "80-90 %"):
        assert wanted in shown
    assert "1.00 / 2.00 ms" in shown and "5×" in shown
    assert "75.0%" in shown
    (its_own,) = [line for line in shown.splitlines() if line.startswith("Analytics query (the data model's)")]
    (slowest,) = [line for line in shown.splitlines() if line.startswith("Analytics query (slowest of ours)")]
    assert its_own.endswith("250×") and slowest.endswith("10×")
    assert "10,000,000" in shown and "session 400 B" in shown


def test_the_page_is_of_its_result() -> None:
    """docs/benchmarks-data-model.md shows docs/benchmarks-data-model.json."""
    assert write_docs.main(["--check"]) == 0, "run: python -m benchmarks.data_model.write_docs"
    page = write_docs.PAGE.read_text()
    assert page.count(write_docs.START) == page.count(write_docs.END) == 1


def test_a_part_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(["sorage"])
    assert refused.value.code == 2 and "no such part" in capsys.readouterr().err
    assert isinstance(parse([]), argparse.Namespace)
