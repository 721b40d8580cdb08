"""The table of settings: every row is complete, every value is checked, every relation names both settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.app.errors import ExitCode, SettingsError
from gateway.app.settings import RELATIONS, Settings, get_setting, list_settings

ROOT = Path(__file__).parents[3]


def test_every_number_has_bounds_and_says_what_gets_worse() -> None:
    for setting in list_settings():
        assert setting.about.endswith("."), setting.name
        if setting.kind not in (int, float):
            continue
        assert setting.bounds, setting.name
        if not setting.name.endswith(("_port", "disk_free_min_bytes")):
            assert setting.raised and setting.lowered, setting.name


def test_every_number_that_measures_something_carries_its_unit() -> None:
    units = ("_s", "_port", "_bytes", "_max", "_bytes_max", "_per_s", "_share", "_points")
    units += ("_per_hour", "_per_km", "_per_achievement")
    counts = {"workers", "flushers", "window", "updates_burst", "redis_partitions"}
    for setting in list_settings():
        if setting.kind in (int, float) and setting.name not in counts:
            assert setting.name.endswith(units), setting.name


def test_the_names_that_others_rely_on_are_there() -> None:
    promised = {
        "REDIS_URL",
        "DATABASE_URL",
        "WAYHOLD_DATA_DIR",
        "WAYHOLD_PLAY_HOST",
        "WAYHOLD_PLAY_PORT",
        "WAYHOLD_OPS_HOST",
        "WAYHOLD_OPS_PORT",
        "WAYHOLD_JWT_SECRET",
        "WAYHOLD_JWT_SECRET_FILE",
        "WAYHOLD_FLUSH_INTERVAL_S",
        "WAYHOLD_SESSION_EXPIRY_S",
        "WAYHOLD_HEARTBEAT_S",
        "WAYHOLD_WINDOW",
        "WAYHOLD_LOG_LEVEL",
        "WAYHOLD_LOG_FORMAT",
        "WAYHOLD_CONNECTIONS_PER_ADDRESS_MAX",
        "WAYHOLD_HANDSHAKES_PER_S",
    }
    assert promised <= {setting.env for setting in list_settings()}
    assert get_setting("flush_interval_s").default == 5
    assert get_setting("flush_interval_s").dev_default == 1
    assert get_setting("session_expiry_s").default == 3600
    assert get_setting("heartbeat_s").default == 20
    assert get_setting("window").default == 256
    assert get_setting("play_port").default == 7400
    assert get_setting("ops_port").default == 7401


def test_no_secret_has_a_flag_that_is_only_a_secret() -> None:
    assert get_setting("jwt_secret").flag == ""


def test_every_setting_is_read_by_something() -> None:
    """A setting that nothing reads promises an effect that it does not have."""
    if not (ROOT / "gateway" / "app" / "run_gateway.py").exists():
        pytest.skip("the gateway's composition root is not here yet")
    code = "\n".join(
        path.read_text()
        for path in (ROOT / "gateway").rglob("*.py")
        if path.name not in ("settings.py", "settings_source.py")
    )
    unread = [setting.name for setting in list_settings() if f"settings.{setting.name}" not in code]
    assert not unread


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("play_port", -1),
        ("play_port", 65536),
        ("play_port", "7400"),
        ("play_port", True),
        ("play_port", 1.5),
        ("workers", 0),
        ("flush_interval_s", 0),
        ("flush_interval_s", float("nan")),
        ("flush_interval_s", float("inf")),
        ("heartbeat_s", -1.0),
        ("log_level", "loud"),
        ("log_format", None),
        ("redis_url", "http://example.org"),
        ("redis_url", "redis://"),
        ("database_url", "mysql://h/d"),
        ("jwt_secret", "short"),
        ("allow_volatile_redis", "yes"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**{name: value})
    assert caught.value.exit_code == ExitCode.USAGE
    assert name.upper() in str(caught.value).upper()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"session_expiry_s": 40.0, "heartbeat_s": 20.0}, ("session_expiry_s=40.0", "heartbeat_s=20.0")),
        ({"pending_updates_max": 100, "window": 256}, ("pending_updates_max=100", "window=256")),
        ({"play_port": 7000, "ops_port": 7000}, ("play_port=7000", "ops_port=7000")),
    ],
)
def test_a_broken_relation_names_both_settings(values: dict[str, Any], names: tuple[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**values)
    for name in names:
        assert name in str(caught.value)


def test_a_broken_relation_between_secrets_shows_no_secret() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(jwt_secret="s" * 40, jwt_secret_file=Path("/x"))
    assert "sss" not in str(caught.value)


def test_relations_are_between_settings_that_exist() -> None:
    for relation in RELATIONS:
        assert get_setting(relation.left) and get_setting(relation.right)
        relation.check(Settings())
        relation.check(Settings.for_dev())


def test_whole_numbers_are_taken_for_seconds() -> None:
    assert Settings(flush_interval_s=3).flush_interval_s == 3.0  # a settings file says 3


def test_a_key_in_a_file_is_read_without_its_newline(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"k" * 40 + b"\n")
    assert Settings(jwt_secret_file=file).get_jwt_secret() == b"k" * 40


@pytest.mark.parametrize("content", [None, b"", b"short\n"])
def test_an_unusable_key_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match="key"):
        Settings(jwt_secret_file=file).get_jwt_secret()


def test_no_key_at_all_says_how_to_make_one() -> None:
    with pytest.raises(SettingsError, match="WAYHOLD_JWT_SECRET_FILE"):
        Settings().get_jwt_secret()
