"""
The table of settings: one field of `Settings` is one setting, with its unit in its name, its default, its bounds and
what gets worse when it is raised or lowered. Flags, environment names, `wayhold settings` and the docs come from it.

Promise: a `Settings` object is valid, whoever built it: bounds, choices and the relations between settings are checked
when it is made, and the error names the setting (both settings of a relation) and what to write instead.

Not here: where values come from (`settings_source.py`) and the file format (`settings_file.py`).
"""

# ruff: noqa: RUF009 - `_setting` only builds a dataclasses.field, once for each row.

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gateway.app.errors import SettingsError
from gateway.app.urls import normalise_database_url, normalise_redis_url

JWT_SECRET_BYTES_MIN = 32
KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Setting:
    """One row of the table, as the flags, the environment, the docs and the checks read it."""

    name: str
    kind: type
    default: Any
    dev_default: Any  # what `wayhold dev` starts from, where that differs
    about: str
    raised: str
    lowered: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    is_secret: bool
    is_optional: bool
    env: str
    flag: str  # empty for what must not stand in a process list

    @property
    def bounds(self) -> str:
        if self.choices:
            return " | ".join(self.choices)
        if self.low is None and self.high is None:
            return ""
        if self.high is None:
            return f"≥ {self.low:,}"
        if self.low is None:
            return f"≤ {self.high:,}"
        return f"{self.low:,g} … {self.high:,g}"


_MISSING: Any = object()


def _setting(
    default: Any,
    about: str,
    *,
    raised: str = "",
    lowered: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
    dev: Any = _MISSING,
    env: str = "",
    has_flag: bool = True,
) -> Any:
    metadata = {
        "about": about,
        "raised": raised,
        "lowered": lowered,
        "low": low,
        "high": high,
        "choices": choices,
        "is_secret": secret,
        "dev_default": default if dev is _MISSING else dev,
        "env": env,
        "has_flag": has_flag,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    # ── where things are ──────────────────────────────────────────────────────────────────────────────────────────
    data_dir: Path = _setting(
        Path(".data"), "Folder of `dev`: the embedded servers' data, the dev secret, logs, ready.json."
    )
    redis_url: str | None = _setting(
        None, "Redis ≥ 7.0 or Valkey ≥ 8; without it `dev` starts its own.", secret=True, env="REDIS_URL"
    )
    database_url: str | None = _setting(
        None, "Postgres ≥ 15; without it `dev` starts its own.", secret=True, env="DATABASE_URL"
    )
    play_host: str = _setting("127.0.0.1", "Address the player sockets listen on; 0.0.0.0 for every interface.")
    play_port: int = _setting(7400, "Port of the player sockets; 0 takes any free one.", low=0, high=65535)
    ops_host: str = _setting(
        "127.0.0.1",
        "Address of health and metrics; it has no login, so anything but loopback shows them to that network.",
    )
    ops_hosts: str = _setting(
        "",
        "Names, besides loopback's and addresses, that the ops port may be asked under (a proxy's public name), "
        "comma-separated; empty: on loopback none, elsewhere any.",
    )
    ops_trusted_proxies: str = _setting(
        "",
        "Addresses or networks of proxies before the ops port whose X-Forwarded-For and -Proto are believed, "
        "comma-separated; empty for none.",
    )
    ops_port: int = _setting(7401, "Port of health and metrics; 0 takes any free one.", low=0, high=65535)

    experiences_dir: Path | None = _setting(
        None, "Folder with the definitions of experiences, one <id>.toml each; unset uses those that are shipped."
    )

    # ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────
    workers: int = _setting(
        1,
        "Gateway processes, each on its own core.",
        raised="more than cores: they take CPU from each other and from the servers, every answer gets slower",
        lowered="one core carries all sockets",
        low=1,
        high=64,
    )
    flushers: int = _setting(
        1,
        "Flusher processes (Redis to Postgres).",
        raised="more Postgres connections, more commits for the same updates",
        lowered="a long backlog drains more slowly",
        low=1,
        high=16,
    )
    drain_s: float = _setting(
        10.0,
        "How long a stopping gateway gives its players to move to another node.",
        raised="a deployment takes longer",
        lowered="all players reconnect at the same moment",
        low=0,
        high=600,
        dev=2.0,
    )
    final_flush_s: float = _setting(
        10.0,
        "How long a stopping flusher goes on writing what is pending.",
        raised="a stop takes longer while Postgres is slow",
        lowered="more waits in Redis until the next start; nothing is lost",
        low=0,
        high=600,
        dev=3.0,
    )

    # ── tokens ────────────────────────────────────────────────────────────────────────────────────────────────────
    jwt_secret: str | None = _setting(
        None,
        f"HS256 key of the players' tokens, at least {JWT_SECRET_BYTES_MIN} bytes. No flag: process lists are public.",
        secret=True,
        has_flag=False,
    )
    jwt_secret_file: Path | None = _setting(
        None, "File with the key of the players' tokens; `dev` makes <data-dir>/jwt_secret. Prefer it to the variable."
    )
    jwt_issuer: str | None = _setting(None, "Tokens must carry this `iss`; unset accepts any.")
    jwt_audience: str | None = _setting(None, "Tokens must carry this `aud`; unset accepts any.")

    # ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────────
    session_expiry_s: float = _setting(
        3600.0,
        "A session ends this long after its last frame.",
        raised="abandoned sessions stay in Redis longer",
        lowered="a player in a tunnel comes back to a new session, and a suspended app has less time",
        low=1,
        high=7 * 86400,
    )
    heartbeat_s: float = _setting(
        20.0,
        "A client that sent nothing for this long sends a ping; two of them missed close the socket.",
        raised="dead sockets and a forgetful Redis are noticed later",
        lowered="more traffic, and phones' radios stay awake",
        low=0.1,
        high=300,
    )
    hello_timeout_s: float = _setting(
        10.0,
        "A socket that has not said hello by then is closed.",
        raised="idle strangers hold sockets longer",
        lowered="players on slow networks cannot enter",
        low=0.1,
        high=60,
    )
    gather_s: float = _setting(
        0.0,
        "How long a gateway lets updates gather before it hands them to Redis.",
        raised="every ack comes that much later; fewer calls, so less CPU in both where updates come one by one",
        lowered="0 sends at once whatever has come while the last call was under way",
        low=0,
        high=0.02,
    )
    window: int = _setting(
        256,
        "Updates a client may send before the first is answered.",
        raised="more memory per connection, longer queues before Redis",
        lowered="a long journal is uploaded more slowly",
        low=1,
        high=4096,
    )

    # ── protection ────────────────────────────────────────────────────────────────────────────────────────────────
    connections_max: int = _setting(
        20_000,
        "Sockets of one gateway process; further ones are told to come back (4004).",
        raised="more memory; past the file limit every new socket fails",
        lowered="players are turned away earlier",
        low=1,
        high=1_000_000,
    )
    connections_per_address_max: int = _setting(
        1000,
        "Sockets of one gateway process from one address (a /64 for IPv6).",
        raised="one machine can take more of the gateway",
        lowered="players behind one carrier's address translation are refused",
        low=1,
        high=1_000_000,
    )
    redis_high_water_share: float = _setting(
        0.8,
        "Part of Redis' maxmemory in use past which new sessions are told to come back (4004); resumes go on.",
        raised="less room is left for the players that are in",
        lowered="players are turned away earlier",
        low=0.05,
        high=0.99,
    )
    handshakes_per_s: float = _setting(
        300.0,
        "New sockets a gateway process accepts per second; the rest are refused (HTTP 503) and come back.",
        raised="a reconnect storm slows down the players that are in",
        lowered="after a restart players wait longer to come back",
        low=1,
        high=100_000,
    )
    updates_per_s: float = _setting(
        100.0,
        "Updates per second one connection may send in the long run; above it 200 with retry_after_ms.",
        raised="one client can take more of the gateway",
        lowered="a long journal is uploaded more slowly",
        low=0.1,
        high=100_000,
    )
    updates_burst: int = _setting(
        2_000,
        "Updates one connection may send at once before updates_per_s holds.",
        raised="one client can take more of the gateway for a moment",
        lowered="a journal after an offline walk is uploaded more slowly",
        low=1,
        high=100_000,
    )
    out_queue_bytes_max: int = _setting(
        1 * MIB,
        "Bytes waiting for one slow client before its socket is closed (4002, it resumes).",
        raised="more memory per stalled reader",
        lowered="clients on poor networks are cut off more often",
        low=64 * KIB,
        high=64 * MIB,
    )
    origins: str = _setting(
        "",
        "Browser origins that may connect, comma-separated; * for any; empty for those of the gateway's own host.",
    )

    # ── hot store ─────────────────────────────────────────────────────────────────────────────────────────────────
    redis_partitions: int = _setting(
        64,
        "Partitions of the hot keys. Change it only with nothing pending: other processes look elsewhere.",
        raised="more small calls per flush and sweep",
        lowered="a Redis Cluster has fewer slots to spread over",
        low=1,
        high=16384,
    )
    progress_idle_s: float = _setting(
        3600.0,
        "A saved progress without a session leaves Redis this long after its last use.",
        raised="more of Redis is used by players who are not there",
        lowered="returning players are read from Postgres more often",
        low=1,
        high=7 * 86400,
    )
    pending_updates_max: int = _setting(
        5000,
        "Entries of one progress that may wait for Postgres; past it 202, the rest waits in the client's journal.",
        raised="one player can fill more of Redis while Postgres is down",
        lowered="players are held up earlier while Postgres is down",
        low=10,
        high=1_000_000,
    )
    pending_bytes_max: int = _setting(
        2 * MIB,
        "Bytes of one progress that may wait for Postgres.",
        raised="one player can fill more of Redis while Postgres is down",
        lowered="players are held up earlier while Postgres is down",
        low=64 * KIB,
        high=256 * MIB,
    )
    allow_volatile_redis: bool = _setting(
        False,
        "Start on a Redis that may evict or that does not persist. /readyz says so; clients re-send what it loses.",
    )

    # ── flush and cold store ──────────────────────────────────────────────────────────────────────────────────────
    flush_interval_s: float = _setting(
        5.0,
        "How long an accepted update waits at most before it is written to Postgres.",
        raised="`saved` comes later and more is lost if Redis' data and the device are lost together",
        lowered="more commits for the same updates",
        low=0.05,
        high=300,
        dev=1.0,
    )
    flush_batch_progress_max: int = _setting(
        200,
        "Progress written in one transaction.",
        raised="longer transactions, more work repeated after a crash",
        lowered="more commits for the same updates",
        low=1,
        high=5000,
    )
    flush_batch_bytes_max: int = _setting(
        8 * MIB,
        "Bytes of pending entries written in one transaction.",
        raised="longer transactions and more memory in the flusher",
        lowered="more commits for the same updates",
        low=64 * KIB,
        high=256 * MIB,
    )
    flush_batch_updates_max: int = _setting(
        5000,
        "Pending entries written in one transaction.",
        raised="longer transactions, more work repeated after a crash",
        lowered="more commits for the same updates",
        low=1,
        high=100_000,
    )
    flush_lanes_max: int = _setting(
        2,
        "Transactions that one flusher works on at once when there is much to save, each over a connection of its own.",
        raised="more connections, and more memory in the flusher",
        lowered="Postgres waits while the flusher reads and parses",
        low=1,
        high=16,
    )
    claim_lease_s: float = _setting(
        15.0,
        "How long a flusher owns the progress it claimed; a dead flusher's work comes back after it.",
        raised="a dead flusher's players wait longer for `saved`",
        lowered="a slow transaction is done twice (harmless, but wasted)",
        low=13,  # a flush may take 12 s, and a claim outlives any flush
        high=600,
    )
    level_points_per_hour: int = _setting(
        100,
        "Points towards the account level for an hour played.",
        raised="playing on counts more than getting somewhere",
        lowered="playing on counts less than getting somewhere",
        low=0,
        high=10_000,
    )
    level_points_per_km: int = _setting(
        50,
        "Points towards the account level for a kilometre, over all experiences.",
        raised="walking counts more, and so does whoever invents distances",
        lowered="walking counts less",
        low=0,
        high=10_000,
    )
    level_points_per_achievement: int = _setting(
        100,
        "Points towards the account level for an achievement.",
        raised="achievements count more",
        lowered="achievements count less",
        low=0,
        high=10_000,
    )
    level_step_points: int = _setting(
        80,
        "Points that level 2 takes; every further level takes this many more than the one before it took.",
        raised="levels are further apart",
        lowered="levels are closer together",
        low=1,
        high=1_000_000,
    )
    level_max: int = _setting(
        100,
        "The highest account level.",
        raised="players with very much play go on rising",
        lowered="they stop earlier",
        low=1,
        high=1_000_000,
    )
    database_connections_max: int = _setting(
        8,
        "Connections to Postgres of one process.",
        raised="more of the server's limit is used",
        lowered="hellos of players that are not hot wait for each other",
        low=1,
        high=200,
        dev=5,
    )
    disk_free_min_bytes: int = _setting(
        256 * MIB,
        "`dev` refuses to start with less free space than this under the data folder.",
        raised="a small disk cannot be used",
        lowered="the servers may run into a full disk, which is worse than not starting",
        low=0,
    )

    # ── logs ──────────────────────────────────────────────────────────────────────────────────────────────────────
    log_level: str = _setting(
        "info",
        "Lowest level that is logged.",
        raised="less is seen",
        lowered="debug logs every frame's outcome and slows the gateway",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: str = _setting(
        "json", "One line per event, for machines or for people.", choices=("json", "text"), dev="text"
    )

    def __post_init__(self) -> None:
        for setting in list_settings():
            object.__setattr__(self, setting.name, check_value(setting, getattr(self, setting.name)))
        for relation in RELATIONS:
            relation.check(self)

    @classmethod
    def for_dev(cls, **values: Any) -> Settings:
        """What `wayhold dev` starts from: quicker to flush, to drain and to read."""
        return cls(**{setting.name: setting.dev_default for setting in list_settings()} | values)

    def get_jwt_secret(self) -> bytes:
        """
        The key of the players' tokens, from `jwt_secret` or the file.

        Raises:
            SettingsError: neither is set, the file cannot be read, or the key is too short to be safe.
        """
        if self.jwt_secret is not None:
            return self.jwt_secret.encode()
        if self.jwt_secret_file is None:
            raise SettingsError(
                "no key for the players' tokens",
                "write 32 or more random bytes into a file and set WAYHOLD_JWT_SECRET_FILE to it "
                "(head -c 32 /dev/urandom | base64 > jwt_secret)",
            )
        return read_jwt_secret(self.jwt_secret_file)


def read_jwt_secret(path: Path) -> bytes:
    """The key in a file, without surrounding white space. Raises SettingsError when it cannot be used."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(
            f"jwt_secret_file {path} cannot be read ({error.strerror})", "check the path and its owner"
        ) from error
    if len(secret) < JWT_SECRET_BYTES_MIN:
        raise SettingsError(
            f"the key in {path} has {len(secret)} bytes, HS256 needs at least {JWT_SECRET_BYTES_MIN}",
            f"write a longer one (head -c 32 /dev/urandom | base64 > {path})",
        )
    return secret


@dataclass(frozen=True)
class Relation:
    """What must hold between two settings, and why."""

    left: str
    right: str
    reads: str
    holds: Callable[[Settings], bool]
    why: str

    def check(self, settings: Settings) -> None:
        if not self.holds(settings):
            left, right = get_setting(self.left), get_setting(self.right)
            pair = " and ".join(f"{row.name}={_shown(row, getattr(settings, row.name))}" for row in (left, right))
            raise SettingsError(f"{self.reads} must hold, but {pair}: {self.why}", f"change {left.env} or {right.env}")


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "session_expiry_s",
        "heartbeat_s",
        "session_expiry_s > 2 × heartbeat_s",
        lambda s: s.session_expiry_s > 2 * s.heartbeat_s,
        "a session must not expire under a live connection",
    ),
    Relation(
        "pending_updates_max",
        "window",
        "pending_updates_max ≥ window",
        lambda s: s.pending_updates_max >= s.window,
        "a client may fill its window before anything is flushed",
    ),
    Relation(
        "play_port",
        "ops_port",
        "play_port ≠ ops_port",
        lambda s: s.play_port != s.ops_port or s.play_port == 0 or s.play_host != s.ops_host,
        "two servers cannot listen on one port",
    ),
    Relation(
        "jwt_secret",
        "jwt_secret_file",
        "only one of jwt_secret and jwt_secret_file",
        lambda s: s.jwt_secret is None or s.jwt_secret_file is None,
        "it is not clear which one is meant",
    ),
)


@cache
def list_settings() -> tuple[Setting, ...]:
    """The table, in the order it is written."""
    hints = typing.get_type_hints(Settings)
    rows = []
    for field in dataclasses.fields(Settings):
        kinds = [kind for kind in typing.get_args(hints[field.name]) if kind is not type(None)]
        metadata = dict(field.metadata)
        env = metadata.pop("env") or f"WAYHOLD_{field.name.upper()}"
        flag = "--" + field.name.replace("_", "-") if metadata.pop("has_flag") else ""
        rows.append(
            Setting(
                name=field.name,
                kind=kinds[0] if kinds else hints[field.name],
                default=field.default,
                is_optional=bool(kinds),
                env=env,
                flag=flag,
                **metadata,
            )
        )
    return tuple(rows)


@cache
def _settings_by_name() -> dict[str, Setting]:
    return {setting.name: setting for setting in list_settings()}


def get_setting(name: str) -> Setting:
    return _settings_by_name()[name]


def parse_value(setting: Setting, text: str, where: str) -> Any:
    """
    The value that a flag or an environment variable holds as text. `where` names it in the error.

    Raises:
        SettingsError: the text is not of the setting's kind.
    """
    text = text.strip()
    if setting.is_optional and text == "":
        return None
    if setting.kind is bool:
        word = text.lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off"):
            return False
        raise SettingsError(f"{where} is {_shown(setting, text)}, not true or false", f"write {where}=true or =false")
    try:
        if setting.kind is int:
            return int(text)
        if setting.kind is float:
            return float(text)
    except ValueError:
        kind = "a whole number" if setting.kind is int else "a number"
        raise SettingsError(
            f"{where} is {_shown(setting, text)}, not {kind}", f"{setting.about} Default {setting.default}"
        ) from None
    if setting.kind is Path:
        return Path(text).expanduser()
    return text


def check_value(setting: Setting, value: Any, where: str | None = None) -> Any:
    """
    The value in its kind and within its bounds. `where` is the place that was typed or written into, by default the
    environment variable.

    Raises SettingsError naming the setting, and where to change it.
    """
    if value is None:
        if setting.is_optional:
            return None
        raise SettingsError(f"{setting.name} is missing", f"set {setting.env}")
    if setting.kind is float and type(value) is int:
        value = float(value)
    if setting.kind is Path and isinstance(value, str):
        value = Path(value).expanduser()
    if not isinstance(value, setting.kind) or (setting.kind is int and isinstance(value, bool)):
        raise SettingsError(
            f"{setting.name} is {_shown(setting, value)}, not {_KIND_WORDS[setting.kind]}", setting.about
        )
    if setting.choices and value not in setting.choices:
        raise SettingsError(f"{setting.name} is {value!r}", f"choose one of {', '.join(setting.choices)}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # The comparison is written so that NaN fails it.
        is_in = (setting.low is None or value >= setting.low) and (setting.high is None or value <= setting.high)
        if not is_in or value in (float("inf"), float("-inf")) or value != value:
            raise SettingsError(
                f"{setting.name} is {value}, outside {setting.bounds}", f"change {where or setting.env}"
            )
    return _CONVERT.get(setting.name, _same)(value)


def _redis_url(value: str) -> str:
    try:
        return normalise_redis_url(value)
    except ValueError as error:
        raise SettingsError(f"REDIS_URL cannot be used: {error}", "example: redis://localhost:6379/0") from None


def _database_url(value: str) -> str:
    try:
        return normalise_database_url(value)
    except ValueError as error:
        raise SettingsError(
            f"DATABASE_URL cannot be used: {error}", "example: postgresql://wayhold:PASSWORD@localhost:5432/wayhold"
        ) from None


def _jwt_secret(value: str) -> str:
    if len(value.encode()) < JWT_SECRET_BYTES_MIN:
        raise SettingsError(
            f"jwt_secret has {len(value.encode())} bytes, HS256 needs at least {JWT_SECRET_BYTES_MIN}",
            "make one: head -c 32 /dev/urandom | base64",
        )
    return value


def _same(value: Any) -> Any:
    return value


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "redis_url": _redis_url,
    "database_url": _database_url,
    "jwt_secret": _jwt_secret,
}
_KIND_WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
}


def _shown(setting: Setting, value: object) -> str:
    return "***" if setting.is_secret else repr(str(value) if isinstance(value, Path) else value)[:80]
