"""
Where to play: the gateway's address, a token for each player, the database to look into, the processes to hurt.

Owns how `walk` and `loadtest` find these: from their flags, else from the running `wayhold dev` of the data folder,
which says everything in `<data-dir>/ready.json` and keeps its token secret in `<data-dir>/jwt_secret`.

Promise: what is missing is one clear line with what to type (`TargetMissing`), never a traceback. Secrets never appear
in a text.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt

EXIT_OK, EXIT_BAD, EXIT_USAGE, EXIT_DEPENDENCY, EXIT_INTERRUPTED = 0, 1, 2, 3, 130

READY_FILE = "ready.json"
READY_FORMAT = 1
SECRET_FILE = "jwt_secret"
OPS_TOKEN_FILE = "ops_token"
SECRET_BYTES_MAX = 4096
TOKEN_TTL_S = 3600


class TargetMissing(Exception):
    """Nothing to play on; the text says what to type. Exit code 3."""


class TargetRefused(Exception):
    """Flags that contradict each other or name what is not there. Exit code 2."""


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway that can be played on."""

    url: str
    database_url: str | None
    token: str | None = field(default=None, repr=False)
    secret: bytes | None = field(default=None, repr=False)
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)  # of players whom somebody else has made
    ready_file: Path | None = None
    ops_url: str | None = None
    ops_token: str | None = field(default=None, repr=False)

    def make_token(self, user_id: str, *, ttl_s: int = TOKEN_TTL_S) -> str:
        """A fresh token for this player, or the one that was given."""
        if self.tokens:
            return self.tokens[user_id]
        if self.token is not None:
            return self.token
        assert self.secret is not None
        now_s = int(time.time())
        return jwt.encode({"sub": user_id, "iat": now_s, "exp": now_s + ttl_s}, self.secret, algorithm="HS256")

    def list_processes(self, *, are_ready: bool = False) -> dict[str, int]:
        """
        The processes of the running `dev`, by name, as they are now: they change with each restart. `are_ready`: only
        those that do their work.

        Raises:
            TargetMissing: no `dev` is running.
        """
        if self.ready_file is None:
            raise TargetMissing("this needs a running `wayhold dev` on this machine: there is no ready.json to read")
        ready = _read_ready(self.ready_file)
        if ready is None:
            raise TargetMissing(f"no `wayhold dev` is running: {self.ready_file} is gone")
        left_out = ready.get("starting", ()) if are_ready else ()
        return {str(name): int(pid) for name, pid in ready.get("processes", {}).items() if name not in left_out}


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `walk` and `loadtest` share."""
    parser.add_argument(
        "--url", metavar="URL", help="play URL, ws(s)://HOST:PORT/v1/play (default: that of the running `wayhold dev`)"
    )
    tokens = parser.add_mutually_exclusive_group()
    tokens.add_argument("--token", metavar="JWT", help="the player's token; for many: @FILE, one in a line")
    tokens.add_argument("--token-secret-file", type=Path, metavar="FILE", help="file with the HS256 secret for tokens")
    parser.add_argument(
        "--database-url", metavar="URL", help="Postgres to look into afterwards (default: that of the running `dev`)"
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="data folder of the running `wayhold dev` (default: .data)"
    )


def check_output_file(flag: str, file: Path | None) -> None:
    """A report that cannot be written is refused before the work, not after it. Raises TargetRefused."""
    if file is not None and (file.is_dir() or not os.access(file.parent, os.W_OK)):
        raise TargetRefused(f"{flag} cannot be written: {file}")


def check_json_file(file: Path | None) -> None:
    check_output_file("--json", file)


def find_data_dir(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Path:
    given: Path | None = args.data_dir
    return given if given is not None else Path(environment.get("WAYHOLD_DATA_DIR") or ".data")


def find_target(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Target:
    """
    Where to play, from flags, environment and the running `dev`, in this order.

    Raises:
        TargetMissing: no URL was given and no `dev` is running, or nothing gives a token.
        TargetRefused: a flag cannot be used.
    """
    data_dir = find_data_dir(args, environment)
    ready_file = data_dir / READY_FILE
    ready = _read_ready(ready_file)
    url: str | None = args.url
    is_dev = url is None or (ready is not None and url == ready.get("play_url"))
    if url is None:
        if ready is None:
            raise TargetMissing(
                f"no `wayhold dev` is running on {data_dir}: start one with `make run` (or `wayhold dev --data-dir "
                f"{data_dir}`) in another terminal, or say --url and --token-secret-file"
            )
        url = str(ready["play_url"])
    _check_url(url)
    secret = None if args.token is not None else _find_secret(args, environment, data_dir)
    if args.token is None and secret is None:
        raise TargetMissing(
            f"nothing to make tokens with: {data_dir / SECRET_FILE} is not there; say --token or --token-secret-file"
        )
    database_url = args.database_url
    if database_url is None and is_dev and ready is not None:
        database_url = ready.get("database_url")
    if database_url is None:
        database_url = environment.get("DATABASE_URL")
    return Target(
        url=url,
        database_url=database_url,
        token=args.token,
        secret=secret,
        ready_file=ready_file if ready is not None and is_dev else None,
        ops_url=ready.get("ops_url") if is_dev and ready is not None else environment.get("WAYHOLD_OPS_URL"),
        ops_token=environment.get("WAYHOLD_OPS_TOKEN") or (_find_ops_token(data_dir) if is_dev else None),
    )


def _find_secret(args: argparse.Namespace, environment: Mapping[str, str], data_dir: Path) -> bytes | None:
    if args.token_secret_file is not None:
        return _read_secret(args.token_secret_file)
    if environment.get("WAYHOLD_JWT_SECRET_FILE"):
        return _read_secret(Path(environment["WAYHOLD_JWT_SECRET_FILE"]))
    if environment.get("WAYHOLD_JWT_SECRET"):
        return environment["WAYHOLD_JWT_SECRET"].encode()
    file = data_dir / SECRET_FILE
    return _read_secret(file) if file.exists() else None


def _read_secret(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            secret = opened.read(SECRET_BYTES_MAX).strip()
    except OSError as fault:
        raise TargetRefused(f"cannot read the token secret {file}: {fault.strerror or fault}") from fault
    if not secret:
        raise TargetRefused(f"the token secret {file} is empty")
    return secret


def _find_ops_token(data_dir: Path) -> str | None:
    """What the ops process of `dev` leaves there for its owner."""
    try:
        return (data_dir / OPS_TOKEN_FILE).read_text().strip() or None
    except (OSError, ValueError):
        return None


def _read_ready(file: Path) -> dict[str, Any] | None:
    """What the running `dev` says about itself; None when there is none, or its supervisor is dead."""
    try:
        ready = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(ready, dict) or ready.get("format") != READY_FORMAT or "play_url" not in ready:
        return None
    supervisor = ready.get("processes", {}).get("supervisor")
    return ready if isinstance(supervisor, int) and is_alive(supervisor) else None


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_answers(target: Target, timeout_s: float = 5.0) -> None:
    """Raises TargetMissing when nothing listens at the gateway's address."""
    parts = urlsplit(target.url)
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout_s).close()
    except OSError as fault:
        raise TargetMissing(f"nothing answers at {target.url}: {fault.strerror or fault}") from fault


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise TargetRefused(f"--url must look like ws://HOST:PORT/v1/play, not {url!r}")
