"""Where settings come from: precedence, sources, unknown names, what children are given."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from gateway.app.errors import SettingsError
from gateway.app.settings import get_setting, list_settings
from gateway.app.settings_source import (
    INTERNAL_NAMES,
    add_setting_flags,
    environment_of,
    load_settings,
    shown_value,
)
from gateway.app.suggest import suggest
from gateway.cli import COMMANDS


def parse(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_setting_flags(parser)
    return parser.parse_args(flags)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path / "wayhold.toml", "play_port = 1\nops_port = 2\nwindow = 3\n")
    loaded = load_settings(
        parse("--config", file, "--play-port", "10"), {"WAYHOLD_PLAY_PORT": "20", "WAYHOLD_OPS_PORT": "30"}
    )
    assert loaded.settings.play_port == 10
    assert loaded.settings.ops_port == 30
    assert loaded.settings.window == 3
    assert loaded.settings.workers == 1
    assert loaded.sources["play_port"] == "flag --play-port"
    assert loaded.sources["ops_port"] == "environment WAYHOLD_OPS_PORT"
    assert loaded.sources["window"] == f"file {file}"
    assert loaded.sources["workers"] == "default"
    assert loaded.is_given("window") and not loaded.is_given("workers")


def test_dev_has_defaults_of_its_own_that_anything_beats() -> None:
    assert load_settings(None, {}, for_dev=True).settings.flush_interval_s == 1.0
    assert load_settings(None, {}, for_dev=True).sources["flush_interval_s"] == "default (dev)"
    assert load_settings(None, {"WAYHOLD_FLUSH_INTERVAL_S": "5"}, for_dev=True).settings.flush_interval_s == 5.0


@pytest.mark.parametrize("text", ["", "play_port = 5\n", "[wayhold]\nplay_port = 5\n"])
def test_a_file_may_be_empty_flat_or_one_table(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "w.toml", text)
    assert load_settings(parse("--config", file), {}).settings.play_port == (5 if text else 7400)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("play_prt = 5\n", "did you mean play_port?"),
        ("play_port = \n", "no TOML"),
        ('play_port = "7400"\n', "play_port is '7400', not a whole number"),
        ("play_port = true\n", "play_port"),
        ("play_port = 99999\n", "outside 0"),
        ("flush_interval_s = nan\n", "flush_interval_s"),
        ("[wayhold]\n[other]\n", "'other' beside"),
        ("[play]\nport = 1\n", "'play', which is no setting"),
    ],
)
def test_a_file_that_is_wrong_stops_the_start(tmp_path: Path, text: str, expected: str) -> None:
    file = write(tmp_path / "w.toml", text)
    with pytest.raises(SettingsError) as caught:
        load_settings(parse("--config", file), {})
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(parse("--config", str(tmp_path / "none.toml")), {})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("WAYHOLD_PLAYPORT", "WAYHOLD_PLAY_PORT"),
        ("WAYHOLD_FLUSH_INTERVAL", "WAYHOLD_FLUSH_INTERVAL_S"),
        ("WAYHOLD_HEARTBEATS", "WAYHOLD_HEARTBEAT_S"),
        ("WAYHOLD_JWT_SECRET_FILES", "WAYHOLD_JWT_SECRET_FILE"),
    ],
)
def test_an_unknown_variable_stops_the_start_and_the_nearest_is_named(name: str, nearest: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {name: "1"})
    assert name in str(caught.value)
    assert f"did you mean {nearest}?" in str(caught.value)


def test_value_out_of_bounds_names_the_place_where_it_was_given(tmp_path: Path) -> None:
    file = write(tmp_path / "wayhold.toml", "play_port = 99999\n")
    for flags, environ, where in (
        (["--play-port", "99999"], {"WAYHOLD_PLAY_PORT": "7400"}, "--play-port"),
        ([], {"WAYHOLD_PLAY_PORT": "99999"}, "WAYHOLD_PLAY_PORT"),
        (["--config", file], {}, f"play_port in {file}"),
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(parse(*flags), environ)
        assert caught.value.next_step == f"change {where}"


@pytest.mark.parametrize(
    ("typed", "meant"), [("wlak", "walk"), ("laodtest", "loadtest"), ("setting", "settings"), ("statsu", "status")]
)
def test_near_name_is_suggested(typed: str, meant: str) -> None:
    assert suggest(typed, COMMANDS) == f" (did you mean {meant}?)"


@pytest.mark.parametrize("typed", ["nonsense", "halt", "x", "help-me-please"])
def test_far_name_is_not_suggested(typed: str) -> None:
    """`wayhold nonsense` asked whether `settings` was meant."""
    assert suggest(typed, COMMANDS) == ""


def test_a_variable_near_to_nothing_gets_no_suggestion() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"WAYHOLD_XQZJ": "1"})
    assert "did you mean" not in str(caught.value)


def test_what_is_ours_but_no_setting_is_let_through() -> None:
    environ = dict.fromkeys(INTERNAL_NAMES, "3") | {"WAYHOLD_TEST_REQUIRE": "node", "WAYHOLDER": "x"}
    load_settings(None, environ)


def test_an_empty_variable_is_not_set() -> None:
    loaded = load_settings(None, {"REDIS_URL": "", "WAYHOLD_PLAY_PORT": " "})
    assert loaded.settings.redis_url is None
    assert loaded.settings.play_port == 7400


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("YES", True), ("off", False), ("0", False)])
def test_truth_is_written_in_several_ways(text: str, value: bool) -> None:
    assert load_settings(None, {"WAYHOLD_ALLOW_VOLATILE_REDIS": text}).settings.allow_volatile_redis is value


@pytest.mark.parametrize(
    ("name", "text"),
    [("WAYHOLD_PLAY_PORT", "x"), ("WAYHOLD_HEARTBEAT_S", "20s"), ("WAYHOLD_ALLOW_VOLATILE_REDIS", "maybe")],
)
def test_a_variable_that_cannot_be_read_is_named(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {name: text})
    assert name in str(caught.value) and text in str(caught.value)


def test_children_load_exactly_the_settings_they_are_given(tmp_path: Path) -> None:
    parent = load_settings(
        parse("--play-port", "0", "--data-dir", str(tmp_path), "--allow-volatile-redis"),
        {
            "REDIS_URL": "valkey://:pw@localhost:1/0",
            "DATABASE_URL": "postgresql+asyncpg://u:p%40@localhost/d?sslmode=disable",
            "WAYHOLD_JWT_SECRET": "k" * 32,
        },
        for_dev=True,
    ).settings
    assert load_settings(None, environment_of(parent)).settings == parent


def test_secrets_are_masked_and_urls_keep_what_is_no_secret() -> None:
    assert shown_value(get_setting("jwt_secret"), "k" * 40) == "***"
    assert shown_value(get_setting("redis_url"), "redis://me:pw@host:1/0") == "redis://me:***@host:1/0"
    assert shown_value(get_setting("jwt_secret"), None) == "-"


def test_an_error_about_a_secret_does_not_show_it() -> None:
    for name, text in (
        ("REDIS_URL", "http://:hunter2@h"),
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("WAYHOLD_JWT_SECRET", "hunter2"),
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(None, {name: text})
        assert "hunter2" not in str(caught.value)


def test_with_values_keeps_the_other_sources() -> None:
    loaded = load_settings(None, {"WAYHOLD_WINDOW": "7"}).with_values("found", play_port=1)
    assert loaded.settings.play_port == 1 and loaded.settings.window == 7
    assert loaded.sources["play_port"] == "found"
    assert loaded.sources["window"] == "environment WAYHOLD_WINDOW"


def test_flags_are_the_names_with_dashes() -> None:
    for setting in list_settings():
        assert setting.flag in ("", "--" + setting.name.replace("_", "-"))
