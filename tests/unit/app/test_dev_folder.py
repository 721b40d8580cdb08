"""What `dev` may use and empty: its own folder, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app.dev_folder import check_is_ours, empty_folder, make_secret
from gateway.app.errors import UnusableFolder
from persistence.embedded.data_folder import DataFolder


def test_absent_empty_and_ours_are_fine(tmp_path: Path) -> None:
    check_is_ours(tmp_path / "none")
    check_is_ours(tmp_path)
    (tmp_path / ".gitkeep").touch()
    (tmp_path / "jwt_secret").touch()
    check_is_ours(tmp_path)


def test_a_folder_with_other_peoples_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UnusableFolder, match=r"thesis\.tex"):
        check_is_ours(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(UnusableFolder, match="not a folder"):
        check_is_ours(tmp_path / "f")


def test_fresh_removes_what_we_made(tmp_path: Path) -> None:
    with DataFolder(tmp_path) as folder:
        for name in ("valkey", "postgres", "logs", "run", "postgres.incomplete-1"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "x").touch()
        (tmp_path / "jwt_secret").touch()
        (tmp_path / ".gitkeep").touch()
        empty_folder(folder)
        assert {entry.name for entry in tmp_path.iterdir()} == {"lock", ".gitkeep"}


def test_fresh_touches_nothing_when_something_is_not_ours(tmp_path: Path) -> None:
    with DataFolder(tmp_path) as folder:
        (tmp_path / "valkey").mkdir()
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(UnusableFolder, match="removed nothing"):
            empty_folder(folder)
        assert (tmp_path / "valkey").exists()


def test_fresh_does_not_follow_links_out_of_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").touch()
    with DataFolder(tmp_path / "data") as folder:
        (folder.path / "logs").symlink_to(outside)
        empty_folder(folder)
    assert (outside / "keep").exists()


def test_the_dev_secret_is_private_and_stays(tmp_path: Path) -> None:
    path = make_secret(tmp_path)
    first = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(first.strip()) >= 32
    assert make_secret(tmp_path).read_bytes() == first
