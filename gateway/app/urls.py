"""
Server addresses as people write them, made into the one form that the client libraries take; and masked for print.

Promise: `mask_url` shows no password, wherever in the URL it stands, even in a URL that cannot be parsed.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

REDIS_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+unix": "unix",
    "redis+unix": "unix",
    "redis+socket": "unix",
}

# libpq knows these, asyncpg does not: it would send them to the server, which refuses an unknown parameter.
LIBPQ_ONLY = frozenset(
    {
        "channel_binding",
        "connect_timeout",
        "fallback_application_name",
        "gssencmode",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "pgbouncer",
        "replication",
        "requiressl",
        "require_auth",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
    }
)

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SECRET_PARAMETERS = frozenset({"password", "sslpassword", "auth"})
MASK = "***"


def normalise_redis_url(url: str) -> str:
    """
    The URL as redis-py takes it.

    Raises:
        ValueError: it is no Redis URL; the text says why, without the URL (it may hold a password).
    """
    parts = urlsplit(url.strip())
    scheme = REDIS_SCHEMES.get(parts.scheme.lower())
    if scheme is None:
        raise ValueError(
            f"its scheme is {parts.scheme or 'missing'!r}, not one of redis:// rediss:// valkey:// unix://"
        )
    if scheme == "unix":
        if not parts.path.startswith("/") or parts.path == "/":
            raise ValueError("a unix:// address needs an absolute path: unix:///run/valkey.sock?db=0")
    elif not parts.hostname:
        raise ValueError("it names no host: redis://HOST:6379/0")
    else:
        _check_port(parts.netloc)
    return _join(scheme, parts.netloc, parts.path, parts.query)


def normalise_database_url(url: str) -> str:
    """
    The URL as asyncpg takes it: driver suffix gone, parameters that only libpq knows gone, `sslmode` checked.

    Raises:
        ValueError: it is no Postgres URL; the text says why, without the URL (it may hold a password).
    """
    parts = urlsplit(url.strip())
    base, _, _driver = parts.scheme.lower().partition("+")
    if base not in ("postgres", "postgresql"):
        raise ValueError(f"its scheme is {parts.scheme or 'missing'!r}, not postgresql://")
    query = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if key not in LIBPQ_ONLY]
    asked = dict(query)
    if not parts.hostname and "host" not in asked:
        raise ValueError("it names no host: postgresql://USER:PASSWORD@HOST:5432/DATABASE")
    if asked.get("sslmode", "prefer") not in SSL_MODES:
        raise ValueError(f"its sslmode is none of {' '.join(SSL_MODES)}")
    _check_port(parts.netloc)
    # quote, not quote_plus: asyncpg unquotes '%20' but leaves '+' alone.
    return _join("postgresql", parts.netloc, parts.path, urlencode(query, quote_via=quote, safe=""))


def mask_url(url: str) -> str:
    """The URL for print: passwords replaced by ***."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return re.sub(r"//[^@]*@", f"//{MASK}@", url)
    netloc = parts.netloc
    user, at, host = netloc.rpartition("@")
    if at:
        name, colon, _password = user.partition(":")
        netloc = f"{name}{colon}{MASK if colon else ''}@{host}"
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = "&".join(
        f"{quote(key)}={MASK if key.lower() in SECRET_PARAMETERS else quote(value, safe='/')}" for key, value in pairs
    )
    return _join(parts.scheme, netloc, parts.path, query)


def mask_text(text: str, *urls: str) -> str:
    """A library's error text without the passwords of the given URLs."""
    for url in urls:
        try:
            password = urlsplit(url).password
        except ValueError:
            continue
        for form in {password or "", unquote(password or "")}:
            if len(form) >= 3:
                text = text.replace(form, MASK)
        text = text.replace(url, mask_url(url))
    return text


def _join(scheme: str, netloc: str, path: str, query: str) -> str:
    # urlunsplit would write `unix:/path` for an empty netloc.
    return f"{scheme}://{netloc}{path}{'?' + query if query else ''}"


def _check_port(netloc: str) -> None:
    _user, _at, hosts = netloc.rpartition("@")
    for host in hosts.split(","):
        tail = host.rpartition("]")[2] if "]" in host else host
        _name, colon, port = tail.rpartition(":")
        if colon and port and not (port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"its port {port[:20]!r} is not a number from 1 to 65535")
