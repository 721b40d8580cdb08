"""`wayhold analytics` as a designer runs it, on a real database."""

from __future__ import annotations

import asyncio
import csv
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from gateway.app.analytics import QUESTIONS
from gateway.cli import main
from tests.stores.test_analytics import CAR, GATE, WOODS, add_event, add_player


@pytest.fixture
def yesterday() -> datetime:
    """Its noon. Found by each test for itself: a run may go on over midnight."""
    return datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)


@pytest.fixture
def played_url(database_url: str, yesterday: datetime, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two players at the gate, one of whom went on; the database is the one of the environment."""

    async def play() -> None:
        postgres: Any = await asyncpg.connect(database_url)
        one, other = [
            await add_player(postgres, started_at=yesterday, last_played_at=yesterday, current_location=GATE)
            for _ in range(2)
        ]
        await add_event(postgres, one, yesterday, GATE, data='{"time_spent": 90}', playtime_ms=60_000)
        await add_event(postgres, other, yesterday, GATE)
        await add_event(postgres, one, yesterday + timedelta(hours=1), "a:b", "quest_completed")
        await postgres.execute("SELECT rebuild_rollups()")
        await postgres.close()

    asyncio.run(play())
    monkeypatch.setenv("DATABASE_URL", database_url)
    return database_url


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["analytics", *words]) == 0
    return capsys.readouterr().out


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """One line that says what is wrong, and exit code 2."""
    try:
        code = main(["analytics", *words])
    except SystemExit as exited:
        assert isinstance(exited.code, int)
        code = exited.code
    said = capsys.readouterr().err
    assert code == 2 and len(said.splitlines()) == 1, said
    return said


def test_every_question_answers_as_table_json_and_csv(played_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"engagement": [GATE], "funnel": [GATE, "quest_completed:a:b"], "dropoff": ["--idle-days", "0"]}
    for name, question in QUESTIONS.items():
        asked = [name, *words.get(name, [])]
        assert f" in {WOODS}" in ask(capsys, *asked).splitlines()[0]
        as_json = json.loads(ask(capsys, *asked, "--json"))
        assert (as_json["question"], as_json["experience"]) == (name, WOODS)
        lines = list(csv.reader(ask(capsys, *asked, "--csv").splitlines()))
        assert as_json["rows"] and len(lines) == len(as_json["rows"]) + 1, name
        assert lines[0] == list(as_json["rows"][0])
        with pytest.raises(SystemExit) as shown:
            main(["analytics", name, "--help"])
        assert shown.value.code == 0 and f"wayhold analytics {question.example}" in capsys.readouterr().out


def test_answers_are_those_of_the_database(
    played_url: str, yesterday: datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    (met,) = json.loads(ask(capsys, "engagement", GATE, "--from", "7d", "--json"))["rows"]
    assert met == {"total_visits": 2, "unique_players": 2, "average_time_spent_s": 90.0}
    assert "1m 30s" in ask(capsys, "engagement", GATE)
    day = str(yesterday.date())
    steps = json.loads(ask(capsys, "funnel", GATE, "quest_completed:a:b", "--from", day, "--to", day, "--json"))
    assert [(step["players"], step["share_of_first"]) for step in steps["rows"]] == [(2, 1.0), (1, 0.5)]
    assert steps["since"] == f"{day}T00:00:00+00:00"
    before = json.loads(ask(capsys, "engagement", GATE, "--to", f"{day}T12:00", "--json"))
    assert before["rows"][0]["total_visits"] == 0
    retained = json.loads(ask(capsys, "retention", "--json"))
    assert retained["totals"]["day_1"] == {"new_players": 0, "retained": 0, "share": None}
    assert retained["rows"][0]["new_players"] == 2
    (lasted, *_) = json.loads(ask(capsys, "playtime", "--bounds", "0,60", "--json"))["rows"]
    assert (lasted["from_s"], lasted["to_s"], lasted["players"]) == (0, 60, 1)
    stopped = ask(capsys, "dropoff", "--idle-days", "0")
    assert GATE in stopped and "0 days" in stopped
    # The definition knows the gravity car, and nobody has been there: that is an answer and no mistake.
    assert json.loads(ask(capsys, "engagement", CAR, "--json"))["rows"][0]["total_visits"] == 0


def test_what_is_misspelled_is_said_with_the_nearest_name(played_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"did you mean {WOODS}?" in refuse(capsys, "active", "--experience", "wilding-woods")
    assert f"did you mean {GATE}?" in refuse(capsys, "engagement", "1_inter_wonder_storefront")
    assert "did you mean quest_completed?" in refuse(capsys, "engagement", "quest_complete:bells")
    assert "is no time" in refuse(capsys, "ranking", "--from", "yesterday")
    assert "whole days" in refuse(capsys, "active", "--from", "12h")
    assert "whole number from 1 to 1,000" in refuse(capsys, "ranking", "--top", "0")
    assert "begin with 0" in refuse(capsys, "sessions", "--bounds", "5,10")
    assert "not allowed with" in refuse(capsys, "active", "--json", "--csv")
    assert "invalid choice" in refuse(capsys, "engagements", GATE)


def test_without_players_or_a_database_it_says_what_to_do(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nobody has played anything yet; walk a little" in refuse(capsys, "active", "--database-url", database_url)
    assert "wayhold dev" in refuse(capsys, "active", "--data-dir", "/nonexistent/wayhold")


def test_with_several_experiences_one_must_be_chosen(played_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def play_another() -> None:
        postgres: Any = await asyncpg.connect(played_url)
        await add_player(postgres, "west-of-house")
        await postgres.close()

    asyncio.run(play_another())
    assert f"which experience?; give --experience; there are west-of-house, {WOODS}" in refuse(capsys, "contents")
    assert "nothing" in ask(capsys, "active", "--experience", "west-of-house")
