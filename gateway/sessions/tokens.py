"""
Who somebody is: players' tokens (JWT, HS256) and the resume tokens that a welcome hands out.

Promise: the algorithm is fixed, so a token cannot choose how it is checked; comparison takes constant time; nothing of
a token is ever in an error or a log line. A resume token is signed with a key of its own, derived from the same secret,
so neither kind can pass for the other.

Not here: whether a session is still alive. A resume token only says which one its owner had.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import jwt

ALGORITHM = "HS256"
SECRET_BYTES_MIN = 32
LEEWAY_S = 10.0
"""Between the clock of whoever made a token and ours. Longer would keep expired tokens alive."""
EXPIRES_MAX = 253_402_300_799
"""The end of the year 9999. A token "for ever" by overflow is somebody's mistake."""

_RESUME_KEY_NAME = b"wayhold resume token 1"
_RESUME_PREFIX = "r1"
_MAC_BYTES = 16


class TokenRefused(Exception):
    """
    The peer's fault: a token that is missing, not ours, or over. `is_expired`: a fresh one of the same kind would do.
    """

    def __init__(self, reason: str, *, is_expired: bool = False) -> None:
        super().__init__(reason)
        self.is_expired = is_expired


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token allows. `experiences` None means every one; times are seconds since 1970, None: unknown."""

    user_id: str
    expires_at: float | None
    experiences: tuple[str, ...] | None
    issued_at: float | None = None

    def allows(self, experience: str) -> bool:
        return self.experiences is None or experience in self.experiences

    def to_json(self) -> str:
        """For the session in Redis, so that a resume needs no fresh token."""
        return json.dumps({"exp": self.expires_at, "experiences": self.experiences}, separators=(",", ":"))

    @classmethod
    def from_json(cls, user_id: str, text: str) -> Claims:
        """What a session remembers; a session without readable claims allows only itself to be resumed."""
        try:
            found = json.loads(text)
            experiences = found.get("experiences")
            return cls(user_id, None, None if experiences is None else tuple(map(str, experiences)))
        except (ValueError, AttributeError, TypeError):
            return cls(user_id, None, ())


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """Which session its owner had, and the number of the connection that was welcomed with it."""

    session_id: str
    user_id: str
    device: str
    connection: int


class Tokens:
    """Checks and makes tokens for one secret."""

    def __init__(self, secret: bytes, *, issuer: str | None = None, audience: str | None = None) -> None:
        if len(secret) < SECRET_BYTES_MIN:
            raise ValueError(f"the key of the tokens needs at least {SECRET_BYTES_MIN} bytes")
        self._secret = secret
        self._issuer = issuer
        self._audience = audience
        self._resume_key = hmac.digest(secret, _RESUME_KEY_NAME, "sha256")

    def check(self, token: str) -> Claims:
        """
        What `token` allows.

        Raises:
            TokenRefused: it does not count, whatever is wrong with it.
        """
        options: Any = {"require": ["sub", "iat", "exp"], "verify_aud": self._audience is not None}
        try:
            decoded = jwt.decode_complete(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                options=options,
                leeway=LEEWAY_S,
                issuer=self._issuer,
                audience=self._audience,
            )
        except jwt.ExpiredSignatureError:
            raise TokenRefused("expired", is_expired=True) from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            # The library's texts quote what was sent; ours say nothing.
            raise TokenRefused("not a valid token") from None
        payload, header = decoded["payload"], decoded["header"]
        if str(header.get("typ", "JWT")).upper() != "JWT":
            raise TokenRefused("another type of token")
        expires_at = payload["exp"]
        if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)) or not expires_at <= EXPIRES_MAX:
            raise TokenRefused("exp is no time")
        experiences = payload.get("experiences")
        if experiences is not None:
            if not isinstance(experiences, list) or not all(isinstance(name, str) for name in experiences):
                raise TokenRefused("experiences is no list of names")
            experiences = tuple(experiences)
        return Claims(_canonical_user_id(payload["sub"]), float(expires_at), experiences, float(payload["iat"]))

    def make_resume(self, resume: ResumeToken) -> str:
        body = (
            uuid.UUID(resume.session_id).bytes
            + uuid.UUID(resume.user_id).bytes
            + resume.connection.to_bytes(8, "big")
            + resume.device.encode()
        )
        mac = hmac.digest(self._resume_key, body, "sha256")[:_MAC_BYTES]
        return f"{_RESUME_PREFIX}.{base64.urlsafe_b64encode(mac + body).rstrip(b'=').decode()}"

    def find_resume(self, text: str) -> ResumeToken | None:
        """What was signed; None for anything that we did not make."""
        prefix, _, packed = text.partition(".")
        if prefix != _RESUME_PREFIX or not packed.isascii():
            return None
        try:
            raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        expected = hmac.digest(self._resume_key, body, "sha256")[:_MAC_BYTES]
        if not hmac.compare_digest(mac, expected) or len(body) < 40:
            return None
        return ResumeToken(
            session_id=str(uuid.UUID(bytes=body[:16])),
            user_id=str(uuid.UUID(bytes=body[16:32])),
            device=body[40:].decode(errors="replace"),
            connection=int.from_bytes(body[32:40], "big"),
        )


def make_token(secret: bytes, user_id: str, ttl_s: float, **claims: Any) -> str:
    """A player's token, for tools and tests; `claims` may set or replace any claim."""
    now = int(time.time())
    payload = {"sub": user_id, "iat": now, "exp": now + int(ttl_s)} | claims
    return jwt.encode(payload, secret, algorithm=ALGORITHM)


def fingerprint(token: str) -> str:
    """Tells tokens apart in a log line without showing any of it."""
    return hashlib.sha256(token.encode()).hexdigest()[:8]


def _canonical_user_id(subject: object) -> str:
    try:
        user_id = uuid.UUID(str(subject))
    except ValueError:
        raise TokenRefused("sub is no UUID") from None
    # Two spellings of one player would be two players.
    if str(subject).lower() != str(user_id):
        raise TokenRefused("sub is no UUID")
    return str(user_id)
