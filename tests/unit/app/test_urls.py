"""Server addresses: as people write them in, as libraries take them out, and never with a password on a screen."""

from __future__ import annotations

import pytest

from gateway.app.urls import mask_text, mask_url, normalise_database_url, normalise_redis_url


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("redis://h", "redis://h"),
        ("valkey://h:1/2", "redis://h:1/2"),
        ("valkeys://u:p@h/0?x=1", "rediss://u:p@h/0?x=1"),
        ("unix:///run/v.sock?db=0", "unix:///run/v.sock?db=0"),
        ("redis+unix:///run/v.sock", "unix:///run/v.sock"),
        (" redis://[::1]:6379/0 ", "redis://[::1]:6379/0"),
    ],
)
def test_redis_urls(given: str, taken: str) -> None:
    assert normalise_redis_url(given) == taken


@pytest.mark.parametrize(
    "given", ["", "h:6379", "http://h", "redis://", "unix://run", "redis://h:port", "redis://h:0", "redis://h:70000"]
)
def test_what_is_no_redis_url(given: str) -> None:
    with pytest.raises(ValueError):
        normalise_redis_url(given)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("postgres://u:p@h/d", "postgresql://u:p@h/d"),
        ("postgresql+asyncpg://h/d", "postgresql://h/d"),
        ("postgresql+psycopg2://h/d?sslmode=require", "postgresql://h/d?sslmode=require"),
        (
            "postgresql://h/d?sslmode=require&channel_binding=require&connect_timeout=3",
            "postgresql://h/d?sslmode=require",
        ),
        ("postgresql://w@/w?host=%2Frun%2Fpg&port=5432", "postgresql://w@/w?host=%2Frun%2Fpg&port=5432"),
        ("postgresql://u:p@h1:1,h2:2/d", "postgresql://u:p@h1:1,h2:2/d"),
        ("postgresql://u:p%40%2F@h/d?application_name=a%20b", "postgresql://u:p%40%2F@h/d?application_name=a%20b"),
    ],
)
def test_database_urls(given: str, taken: str) -> None:
    assert normalise_database_url(given) == taken


@pytest.mark.parametrize("given", ["", "mysql://h/d", "postgresql:///d", "postgresql://h/d?sslmode=on", "h/d"])
def test_what_is_no_database_url(given: str) -> None:
    with pytest.raises(ValueError):
        normalise_database_url(given)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://:pw@h/0", "redis://:***@h/0"),
        ("redis://h/0", "redis://h/0"),
        ("postgresql://u:pw@h/d?sslmode=require", "postgresql://u:***@h/d?sslmode=require"),
        ("postgresql://h/d?password=pw&user=u", "postgresql://h/d?password=***&user=u"),
        ("unix:///run/v.sock?db=0", "unix:///run/v.sock?db=0"),
        ("postgresql://u:p@x:pw@h/d", "postgresql://u:***@h/d"),
        ("redis://u:pw@[broken", "redis://***@[broken"),
    ],
)
def test_masked_urls_hold_no_password(url: str, masked: str) -> None:
    assert mask_url(url) == masked
    assert "pw" not in mask_url(url)


def test_library_errors_lose_the_password_too() -> None:
    url = "postgresql://u:pa%24%24word@h/d"
    for text in (f"cannot parse {url}", "auth failed for pa%24%24word", "auth failed for pa$$word"):
        masked = mask_text(text, url)
        assert "word" not in masked.replace("cannot parse", "")
