"""
Make a player's token and print it, and nothing else.

The key is that of the settings (WAYHOLD_JWT_SECRET_FILE, WAYHOLD_JWT_SECRET), else the dev secret of the data folder.
"""

from __future__ import annotations

import argparse
import time
import uuid
from pathlib import Path

from gateway.app.errors import ExitCode, SettingsError
from gateway.app.settings import Settings, read_jwt_secret
from gateway.app.settings_source import add_setting_flags, load_settings

SECRET_FILE = "jwt_secret"
TTL_S = 3600
TTL_S_MAX = 365 * 86400
EXPERIENCE_CHARS_MAX = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--player", required=True, metavar="UUID", help="whose token it is")
    parser.add_argument("--ttl-s", type=int, default=TTL_S, metavar="N", help=f"seconds it is valid (default {TTL_S})")
    parser.add_argument(
        "--experience",
        action="append",
        metavar="NAME",
        help="valid for this experience only; may be given several times",
    )
    parser.add_argument("--token-secret-file", type=Path, metavar="FILE", help="file with the key")
    add_setting_flags(parser, ["data_dir", "jwt_secret_file", "jwt_issuer", "jwt_audience"])


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    try:
        player = uuid.UUID(args.player)
    except ValueError:
        raise SettingsError(
            f"--player {args.player[:60]!r} is not a UUID", "make one: python3 -c 'import uuid; print(uuid.uuid4())'"
        ) from None
    if not 1 <= args.ttl_s <= TTL_S_MAX:
        raise SettingsError(f"--ttl-s is {args.ttl_s}", f"give 1 to {TTL_S_MAX} seconds")
    for experience in args.experience or []:
        if not 0 < len(experience) <= EXPERIENCE_CHARS_MAX:
            raise SettingsError(f"--experience has {len(experience)} characters", f"give 1 to {EXPERIENCE_CHARS_MAX}")
    print(make_token(settings, _find_key(settings, args.token_secret_file), player, args.ttl_s, args.experience))
    return ExitCode.OK


def make_token(
    settings: Settings, key: bytes, player: uuid.UUID, ttl_s: int, experiences: list[str] | None = None
) -> str:
    import jwt

    now_s = int(time.time())
    claims: dict[str, object] = {"sub": str(player), "iat": now_s, "exp": now_s + ttl_s}
    if experiences:
        claims["experiences"] = experiences
    if settings.jwt_issuer is not None:
        claims["iss"] = settings.jwt_issuer
    if settings.jwt_audience is not None:
        claims["aud"] = settings.jwt_audience
    return jwt.encode(claims, key, algorithm="HS256")


def _find_key(settings: Settings, secret_file: Path | None) -> bytes:
    if secret_file is not None:
        return read_jwt_secret(secret_file)
    if settings.jwt_secret is not None or settings.jwt_secret_file is not None:
        return settings.get_jwt_secret()
    dev_secret = settings.data_dir / SECRET_FILE
    if not dev_secret.exists():
        raise SettingsError(
            f"no key to sign with: {dev_secret} is not there",
            "start `wayhold dev` once, or give --token-secret-file FILE or WAYHOLD_JWT_SECRET_FILE",
        )
    return read_jwt_secret(dev_secret)
