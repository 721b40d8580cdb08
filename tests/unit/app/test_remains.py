"""Logs forget an erased player in place, while somebody appends to them."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.app.remains import CHUNK_BYTES, remove_walks, scrub_logs

PLAYER = "123e4567-e89b-12d3-a456-426614174000"
OTHER = "550e8400-e29b-41d4-a716-446655440000"


def test_the_id_goes_in_both_spellings_and_nothing_moves(tmp_path: Path) -> None:
    log = tmp_path / "flusher-1.log"
    text = f"a progress={PLAYER}:woods b\nkey={PLAYER.replace('-', '')} {OTHER}\n{PLAYER}"
    log.write_text(text)
    (tmp_path / "flusher-1.log.1").write_text(PLAYER)
    (tmp_path / "other.log").write_text(OTHER)
    assert scrub_logs(tmp_path, PLAYER) == 4
    left = log.read_text()
    assert PLAYER not in left and PLAYER.replace("-", "") not in left
    assert len(left) == len(text) and left.startswith("a progress=(erased)---") and OTHER in left
    assert (tmp_path / "other.log").read_text() == OTHER
    assert scrub_logs(tmp_path, PLAYER) == 0


def test_an_id_across_the_border_of_two_reads_is_found(tmp_path: Path) -> None:
    log = tmp_path / "big.log"
    for split in (1, 17, len(PLAYER) - 1):
        log.write_bytes(b"x" * (CHUNK_BYTES - split) + PLAYER.encode() + b"y" * 100)
        assert scrub_logs(tmp_path, PLAYER) == 1
        assert PLAYER.encode() not in log.read_bytes() and log.stat().st_size == CHUNK_BYTES - split + 136


def test_whoever_appends_goes_on_at_the_end(tmp_path: Path) -> None:
    log = tmp_path / "gateway-1.log"
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, f"{PLAYER}\n".encode())
        assert scrub_logs(tmp_path, PLAYER) == 1
        os.write(fd, b"next\n")
    finally:
        os.close(fd)
    assert log.read_text().splitlines()[1] == "next"


def test_walks_of_the_player_go_and_links_are_not_followed(tmp_path: Path) -> None:
    walk, elsewhere = tmp_path / "walk", tmp_path / "elsewhere"
    walk.mkdir()
    elsewhere.write_text(PLAYER)
    for name in (f"{PLAYER}.journal", f"{PLAYER}.journal.lock", f"{OTHER}.journal"):
        (walk / name).write_text("x")
    (walk / f"{PLAYER}.link").symlink_to(elsewhere)
    assert remove_walks(walk, PLAYER) == 2
    assert {entry.name for entry in walk.iterdir()} == {f"{OTHER}.journal", f"{PLAYER}.link"}
    assert scrub_logs(walk, PLAYER) == 0 and elsewhere.read_text() == PLAYER


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert scrub_logs(tmp_path / "none", PLAYER) == remove_walks(tmp_path / "none", PLAYER) == 0
