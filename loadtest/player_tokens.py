"""
Players' tokens that somebody else has made: one, or a file with one for each player.

Owns reading them (`--token JWT`, `--token @FILE`). Who plays is what a token's `sub` says; signatures are the gateway's
business. Nobody renews them, so they must last for the whole run. Promise: a token never appears in a text. Not here:
tokens that are made here, from a secret (target.py), and again whenever a client wants another.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import jwt

from loadtest.target import TargetRefused

FILE_BYTES_MAX = 256 * 1024 * 1024


def read_player_tokens(given: str | None) -> dict[str, str]:
    """
    User id → token, in their order; none when nothing is given.

    Raises:
        TargetRefused: the file cannot be read or is too large, a line is no token of a player, two are of the same one.
    """
    if given is None:
        return {}
    if not given.startswith("@"):
        return {_find_player(given, "--token"): given}
    file = Path(given[1:])
    try:
        with file.open("rb") as opened:
            text = opened.read(FILE_BYTES_MAX + 1)
        lines = text.decode().splitlines()
    except OSError as fault:
        raise TargetRefused(f"cannot read the tokens of {file}: {fault.strerror or fault}") from fault
    except UnicodeDecodeError:
        raise TargetRefused(f"{file} is no file of tokens: not UTF-8") from None
    if len(text) > FILE_BYTES_MAX:
        raise TargetRefused(f"{file} is larger than {FILE_BYTES_MAX} bytes")
    tokens: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        token = line.strip()
        if not token:
            continue
        player = _find_player(token, f"line {number} of {file}")
        if player in tokens:
            raise TargetRefused(f"line {number} of {file}: there is a token of the player {player} already")
        tokens[player] = token
    if not tokens:
        raise TargetRefused(f"{file} has no tokens")
    return tokens


def check_lifetimes(tokens: Mapping[str, str], until_s: float) -> None:
    """`until_s`: when the play is over, in seconds since 1970. Raises TargetRefused for a token that ends earlier."""
    ends_s, player = min(((_find_end_s(token), player) for player, token in tokens.items()), default=(math.inf, ""))
    if ends_s < until_s:
        now_s = time.time()
        raise TargetRefused(
            f"the token of the player {player} "
            + (f"ends in {ends_s - now_s:.0f} s" if ends_s > now_s else "is over")
            + f", and the play in {until_s - now_s:.0f}: these tokens are not renewed"
        )


def _find_end_s(token: str) -> float:
    """Infinity for one that does not say: the gateway will."""
    end_s = jwt.decode(token, options={"verify_signature": False}).get("exp")
    return float(end_s) if isinstance(end_s, int | float) else math.inf


def _find_player(token: str, where: str) -> str:
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        return str(uuid.UUID(str(claims.get("sub"))))
    except (jwt.InvalidTokenError, ValueError):
        raise TargetRefused(f"{where} is not a player's token: a JWT whose `sub` is a UUID") from None
