"""Where definitions come from, and that a broken one stops everything rather than itself alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from gateway.app import experiences
from gateway.app.doctor import State, examine_experiences
from gateway.app.errors import ExitCode, SettingsError
from gateway.app.experience_files import hold_experiences, load_experiences
from gateway.app.settings import Settings
from gateway.cli import main

GOOD = 'format = 1\nid = "{name}"\nname = "Town"\n'


def write(folder: Path, name: str, text: str = GOOD) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text.format(name=name))
    return path


def test_without_a_folder_the_shipped_ones_are_used() -> None:
    assert list(load_experiences(Settings())) == ["wylding-woods"]


def test_a_folder_replaces_the_shipped_ones(tmp_path: Path) -> None:
    write(tmp_path, "town")
    write(tmp_path, "city")
    (tmp_path / "notes.txt").write_text("no definition")
    found = load_experiences(Settings(experiences_dir=tmp_path))
    assert list(found) == ["city", "town"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'format = 1\nid = "town"\nnaem = "x"', r"town\.toml: naem: there is no such key; did you mean 'name'\?"),
        (b'format = 1\nid = "city"', "but the file is named after 'town'"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"#" * ((4 << 20) + 1), "larger than 4 MiB"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "town.toml").write_bytes(text)
    with pytest.raises(SettingsError, match=said):
        load_experiences(Settings(experiences_dir=tmp_path))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere.*WAYHOLD_EXPERIENCES_DIR"):
        load_experiences(Settings(experiences_dir=tmp_path / "nowhere"))


def test_what_is_held_stays_when_the_folder_is_edited(tmp_path: Path) -> None:
    source, held = tmp_path / "source", tmp_path / "run" / "experiences"
    source.mkdir()
    write(source, "town")
    settings = Settings(experiences_dir=source)
    hold_experiences(settings, held)
    write(source, "town", "broken")
    write(source, "city")
    assert list(load_experiences(Settings(experiences_dir=held))) == ["town"]
    with pytest.raises(SettingsError):
        hold_experiences(settings, held)
    assert list(load_experiences(Settings(experiences_dir=held))) == ["town"]
    (source / "town.toml").unlink()
    hold_experiences(settings, held)
    assert list(load_experiences(Settings(experiences_dir=held))) == ["city"]


def test_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    (good,) = examine_experiences(Settings())
    assert (good.state, good.says) == (State.OK, "wylding-woods")
    write(tmp_path, "town", "broken")
    (bad,) = examine_experiences(Settings(experiences_dir=tmp_path))
    assert bad.state is State.FAIL and "town.toml" in bad.says and bad.next_step


def test_list_show_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "town", GOOD + '[[waypoints]]\nid = "a"\nlat = 1\nlng = 2\n')
    folder = ["--experiences-dir", str(tmp_path)]
    assert main(["experiences", "list", *folder]) == ExitCode.OK
    assert capsys.readouterr().out == "town  Town: 1 waypoints, 0 quests, 0 items, 0 achievements\n"
    assert main(["experiences", "show", "town", "--json", *folder]) == ExitCode.OK
    shown = json.loads(capsys.readouterr().out)
    assert shown["id"] == "town" and shown["waypoints"][0]["lat"] == 1.0 and shown["completion"] is None
    assert main(["experiences", "show", "twon", *folder]) == ExitCode.USAGE
    assert "did you mean town?" in capsys.readouterr().err
    assert main(["experiences", "check", str(path)]) == ExitCode.OK
    assert main(["experiences", "check", *folder]) == ExitCode.OK
    write(tmp_path, "town", "format = 3")
    assert main(["experiences", "check", str(path)]) == ExitCode.USAGE
    assert "format: a format this release does not know" in capsys.readouterr().err


def test_a_shipped_experience_is_shown_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    experiences.add_arguments(parser)
    assert experiences.run(parser.parse_args(["show", "wylding-woods"])) == ExitCode.OK
    shown = capsys.readouterr().out
    assert "8_inter_gravity_car" in shown and "completion: 43 things" in shown and "kept to 6 decimals" in shown
