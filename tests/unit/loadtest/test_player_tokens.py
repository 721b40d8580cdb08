"""Tokens that somebody else has made: who plays is what they say, and one that cannot be used is refused at once."""

from __future__ import annotations

import argparse
import re
import uuid
from pathlib import Path

import pytest

from loadtest.command import add_arguments, run
from loadtest.history import HistoryWriter, read_histories
from loadtest.player_tokens import read_player_tokens
from loadtest.run_players import PlayersPlan
from loadtest.target import Target, TargetRefused

PLAYERS = [str(uuid.UUID(int=number)) for number in (1, 2, 3)]
SIGNER = Target("ws://x", None, secret=bytes(32))


def test_players_are_those_of_the_tokens_in_the_order_of_the_file(tmp_path: Path) -> None:
    tokens = [SIGNER.make_token(player) for player in PLAYERS]
    (tmp_path / "tokens").write_text("\r\n".join(["", *tokens, "  "]))
    found = read_player_tokens(f"@{tmp_path / 'tokens'}")
    assert list(found) == PLAYERS and list(found.values()) == tokens
    assert read_player_tokens(tokens[1]) == {PLAYERS[1]: tokens[1]} and read_player_tokens(None) == {}
    target = Target("ws://x", None, tokens=found)
    assert [target.make_token(player) for player in PLAYERS] == tokens
    assert tokens[0] not in repr(target)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("nonsense", "line 1 of"),
        (SIGNER.make_token("ada"), "line 1 of .* whose `sub` is a UUID"),
        (f"{SIGNER.make_token(PLAYERS[0])}\n{SIGNER.make_token(PLAYERS[0])}", f"line 2 .* {PLAYERS[0]} already"),
        ("\n\n", "has no tokens"),
        ("\udcff", "not UTF-8"),
    ],
    ids=["nonsense", "no-uuid", "twice", "empty", "bytes"],
)
def test_a_file_that_cannot_be_used_is_refused_without_showing_a_token(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "tokens").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(TargetRefused, match=what) as refused:
        read_player_tokens(f"@{tmp_path / 'tokens'}")
    assert "eyJ" not in str(refused.value)
    with pytest.raises(TargetRefused, match="cannot read"):
        read_player_tokens(f"@{tmp_path / 'nothing here'}")


def test_more_players_than_tokens_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tokens").write_text("\n".join(map(SIGNER.make_token, PLAYERS)))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert (
        run(parser.parse_args(["--url", "ws://x/v1/play", "--token", f"@{tmp_path / 'tokens'}", "--players", "4"])) == 2
    )
    assert "--players 4, and 3 tokens" in capsys.readouterr().err


def test_tokens_that_end_before_the_play_are_refused_by_whose_they_are_and_others_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their players were sent away in the middle of the run, again and again."""
    lives_s = (10_000, 1_000, -5)
    tokens = [SIGNER.make_token(player, ttl_s=ttl_s) for player, ttl_s in zip(PLAYERS, lives_s, strict=True)]
    (tmp_path / "tokens").write_text("\n".join(tokens))
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    def refusal(*flags: str) -> str:
        given = ["--url", "ws://x/v1/play", "--token", f"@{tmp_path / 'tokens'}", *flags]
        # One who may play is refused for what comes next: there is nothing to ask for what is stored.
        assert run(parser.parse_args([*given, "--no-return"])) in (2, 3)
        return capsys.readouterr().err

    assert f"{PLAYERS[2]} is over, and the play in" in refusal("--players", "3", "--seconds", "5")
    said = refusal("--players", "2", "--seconds", "2000")
    assert re.search(rf"{PLAYERS[1]} ends in \d{{3,4}} s, and the play in 200\d: .* not renewed", said), said
    for flags in (["--players", "2", "--seconds", "900"], ["--players", "3", "--shard", "1/3", "--minutes", "160"]):
        assert "token" not in refusal(*flags)


def test_a_process_plays_the_players_of_its_tokens_and_claims_nothing_of_their_past(tmp_path: Path) -> None:
    pairs = [(player, SIGNER.make_token(player)) for player in PLAYERS[1:]]
    plan = PlayersPlan(
        url="ws://x",
        secret_hex=None,
        experience="e",
        run_id=str(uuid.uuid4()),
        first=1,
        players=2,
        random_seed=1,
        history="h",
        is_crash_safe=False,
        tokens=pairs,
    )
    assert [plan.make_user_id(index) for index in (1, 2)] == PLAYERS[1:]
    writer = HistoryWriter(tmp_path / "history", is_crash_safe=False)
    writer.add_player(1, PLAYERS[1], "e", is_whole=False)
    writer.close()
    (history,) = read_histories([tmp_path / "history"])
    assert (history.user_id, history.is_whole) == (PLAYERS[1], False)
