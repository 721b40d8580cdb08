"""Which walk a `wayhold walk` walks: a new one, or the one that was not finished."""

from __future__ import annotations

import argparse
import uuid
from pathlib import Path

import jwt
import pytest

from loadtest.target import Target, TargetRefused
from loadtest.walk import WalkChoice, add_arguments, choose_walk
from loadtest.walk_note import find_note, find_note_file, remove_walk
from protocol.client.journal import JournalBusy

FAR = Target("ws://far/v1/play", None, secret=b"s" * 32)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


async def choose(data_dir: Path, *flags: str, target: Target = FAR) -> WalkChoice:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return await choose_walk(parser.parse_args(["--data-dir", str(data_dir), *flags]), target)


async def walk_some(choice: WalkChoice, steps: int) -> None:
    """Make steps as a walk does, and die."""
    for _ in range(steps):
        choice.journal.append(b"an update")
    await choice.journal.sync()
    await choice.journal.close()


async def test_a_new_walk_has_a_new_player_and_its_own_journal(data_dir: Path) -> None:
    choice = await choose(data_dir)
    assert choice.is_new and choice.steps_made == 0 and choice.note.first_seq == 1
    assert choice.journal_file == data_dir / "walk" / f"{choice.note.player}.journal"
    assert find_note(choice.journal_file) == choice.note
    await choice.journal.close()


async def test_a_killed_walk_goes_on_where_it_was(data_dir: Path) -> None:
    first = await choose(data_dir, "--random-seed", "5")
    await walk_some(first, 7)
    second = await choose(data_dir)
    assert not second.is_new and second.steps_made == 7
    assert (second.note, second.plan) == (first.note, first.plan)
    await second.journal.close()


async def test_a_finished_walk_is_forgotten(data_dir: Path) -> None:
    first = await choose(data_dir)
    await walk_some(first, 1)
    remove_walk(first.journal_file)
    assert list((data_dir / "walk").iterdir()) == []


async def test_two_walks_at_once_have_two_players(data_dir: Path) -> None:
    first = await choose(data_dir)
    second = await choose(data_dir)
    assert second.is_new and second.note.player != first.note.player
    await first.journal.close()
    await second.journal.close()


async def test_another_track_gateway_or_experience_is_another_walk(data_dir: Path, tmp_path: Path) -> None:
    first = await choose(data_dir)
    await walk_some(first, 3)
    (tmp_path / "t.gpx").write_text('<gpx><wpt lat="1" lon="1"><name>a</name></wpt></gpx>')
    near = Target("ws://near/v1/play", None, secret=b"s" * 32)
    for flags, target in (((str(tmp_path / "t.gpx"),), FAR), (("--experience", "other"), FAR), ((), near)):
        other = await choose(data_dir, *flags, target=target)
        assert other.is_new, flags
        await other.journal.close()
        remove_walk(other.journal_file)


async def test_a_journal_of_ones_own_is_kept_and_walked_with_again(data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "phone"
    first = await choose(data_dir, "--journal", str(file))
    assert first.is_kept
    with pytest.raises(JournalBusy):
        await choose(data_dir, "--journal", str(file))
    for _ in range(first.note.steps):
        first.journal.append(b"an update")
    await first.journal.sync()
    first.note.is_done = True
    first.note.write(file)
    await first.journal.close()
    again = await choose(data_dir, "--journal", str(file))
    assert again.is_new and again.note.player == first.note.player and again.note.device == first.note.device
    assert (again.note.first_seq, again.steps_made) == (first.note.steps + 1, 0)
    await again.journal.close()


async def test_a_damaged_note_is_a_new_walk(data_dir: Path) -> None:
    first = await choose(data_dir)
    await walk_some(first, 3)
    for damage in ("", "{", "[]", '{"format": 9}', "null"):
        find_note_file(first.journal_file).write_text(damage)
        choice = await choose(data_dir)
        assert choice.is_new
        await choice.journal.close()
        remove_walk(choice.journal_file)


async def test_a_given_player_or_token_says_who_walks(data_dir: Path) -> None:
    player = str(uuid.uuid4())
    choice = await choose(data_dir, "--player", player.upper(), "--device", "my-phone")
    assert (choice.note.player, choice.note.device) == (player, "my-phone")
    await choice.journal.close()
    token = jwt.encode({"sub": player}, "k" * 32, algorithm="HS256")
    named = Target("ws://far/v1/play", None, token=token)
    choice = await choose(data_dir, "--token", token, target=named)
    assert choice.note.player == player
    await choice.journal.close()
    with pytest.raises(TargetRefused, match="is of the player"):
        await choose(data_dir, "--token", token, "--player", str(uuid.uuid4()), target=named)
    with pytest.raises(TargetRefused, match="not a player's token"):
        await choose(data_dir, target=Target("ws://far/v1/play", None, token="nonsense"))
    with pytest.raises(TargetRefused, match="UUID"):
        await choose(data_dir, "--player", "me")


async def test_a_far_walk_makes_no_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    choice = await choose(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert choice.journal_file.is_relative_to(tmp_path / "tmp")
    await choice.journal.close()
    remove_walk(choice.journal_file)
    assert not list((tmp_path / "tmp").iterdir())
