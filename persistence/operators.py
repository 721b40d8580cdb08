"""
Operators: who may watch and help players, their passwords and tokens, and the log of what they did that is no action.

Promise: a secret is never kept, only its hash: argon2id for passwords (slow on purpose, in a thread, two at a time),
SHA-256 for tokens and cookies, which are 256 random bits. A name that does not exist takes as long to refuse as a wrong
password. A disabled operator, a revoked token and an ended session open nothing from the next look on.

Not here: cookies, limits on how often, and who may do what (gateway.liveops).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from persistence.cold.queries import queries
from persistence.cold.store import ColdStore

RESERVED_NAMES = frozenset({"local"})
"""What the audit log calls whoever owns the machine: an account of that name could not be told from it."""
NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
PASSWORD_CHARS_MIN, PASSWORD_CHARS_MAX = 10, 200
TOKEN_PREFIX = "wh_ops_"
SESSION_S = 12 * 3600.0
"""A working day: then sign in again."""

# OWASP's second choice: 19 MiB and two passes, some 30 ms. More memory would let a few guesses fill a small machine.
_ARGON2: dict[str, Any] = {"time_cost": 2, "memory_cost": 19_456, "parallelism": 1}
HASHING_WIDTH = 2


class Role(IntEnum):
    """What an operator may do; each may all that those below it may."""

    VIEWER = 1
    SUPPORT = 2
    OPERATOR = 3
    ADMIN = 4

    @property
    def label(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, label: str) -> Role:
        """Raises KeyError for a name that is none."""
        return cls[label.upper()]


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who has shown who they are."""

    name: str
    role: Role
    is_precise: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """A row of `operators`, without its secret."""

    name: str
    role: Role
    is_precise: bool
    has_password: bool
    created_at: datetime
    created_by: str
    disabled_at: datetime | None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenFacts:
    id: str
    label: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class BadAccount(ValueError):
    """A name or a password that cannot be one; the text says why."""


class Operators:
    """Reads and writes through the connections of a cold store. Every method raises StoreUnavailable."""

    def __init__(self, cold: ColdStore) -> None:
        self._cold = cold
        self._sql = queries("operators")
        self._hashing = asyncio.Semaphore(HASHING_WIDTH)
        self._decoy = ""

    # ── accounts ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def count(self) -> int:
        """Operators who can sign in with a password."""
        return int(await self._ask("count_operators", "fetchval"))

    async def add_first(self, name: str, password: str) -> Account | None:
        """An admin, if nobody can sign in yet; None when somebody can, or the name is taken. Raises BadAccount."""
        check_name(name)
        hashed = await self._hash(check_password(password, name))

        async def insert(connection: Any) -> Any:
            async with connection.transaction():
                await connection.execute(self._sql["lock_first_operator"])
                return await connection.fetchrow(self._sql["insert_first_operator"], name, hashed)

        row = await self._cold.call("insert_first_operator", insert)
        return None if row is None else _account(row)

    async def add(
        self, name: str, role: Role, *, password: str | None = None, is_precise: bool = False, by: str = ""
    ) -> Account | None:
        """None when the name is taken. Without a password it has tokens only. Raises BadAccount."""
        check_name(name)
        hashed = None if password is None else await self._hash(check_password(password, name))
        row = await self._ask("insert_operator", "fetchrow", name, role.label, hashed, is_precise, by)
        return None if row is None else _account(row)

    async def list_all(self) -> list[Account]:
        return [_account(row) for row in await self._ask("list_operators", "fetch")]

    async def change(
        self,
        name: str,
        *,
        role: Role | None = None,
        is_precise: bool | None = None,
        password: str | None = None,
        is_disabled: bool | None = None,
    ) -> Account | None:
        """Change what is given; signs its browsers out. None when there is no such operator. Raises BadAccount."""
        hashed = None if password is None else await self._hash(check_password(password, name))
        label = None if role is None else role.label
        row = await self._ask("change_operator", "fetchrow", name, label, is_precise, hashed, is_disabled)
        return None if row is None else _account(row)

    # ── who is it? ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def check_password(self, name: str, password: str) -> Operator | None:
        """Takes equally long for a name that does not exist, has no password, or is disabled."""
        row = None
        if NAME.fullmatch(name):
            row = await self._ask("find_operator", "fetchrow", name)
        hashed = row["password_hash"] if row is not None else None
        if not self._decoy:
            self._decoy = await self._hash(secrets.token_urlsafe())
        is_right = await self._verify(hashed or self._decoy, password[:PASSWORD_CHARS_MAX])
        if not is_right or hashed is None or row is None or row["disabled_at"] is not None:
            return None
        return _operator(row)

    async def find_by_token(self, secret: str) -> Operator | None:
        row = await self._ask("find_by_token", "fetchrow", hash_secret(secret))
        return None if row is None else _operator(row)

    async def find_by_session(self, secret: str) -> Operator | None:
        row = await self._ask("find_by_session", "fetchrow", hash_secret(secret))
        return None if row is None else _operator(row)

    # ── tokens and sessions ─────────────────────────────────────────────────────────────────────────────────────────

    async def add_token(self, name: str, label: str = "", expires_at: datetime | None = None) -> tuple[str, str] | None:
        """(id, the secret, shown this once); None when there is no such operator."""
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        found = await self._ask("insert_token", "fetchval", name, hash_secret(secret), label[:100], expires_at)
        return None if found is None else (str(found), secret)

    async def list_tokens(self, name: str) -> list[TokenFacts]:
        return [
            TokenFacts(str(row["id"]), row["label"], row["created_at"], row["expires_at"], row["revoked_at"])
            for row in await self._ask("list_tokens", "fetch", name)
        ]

    async def revoke_token(self, token_id: str) -> bool:
        return await self._ask("revoke_token", "fetchval", token_id) is not None

    async def open_session(self, name: str, address: str) -> str | None:
        """The value of a new cookie; None when the operator was disabled meanwhile."""
        await self._ask("delete_expired_sessions", "execute")
        secret = secrets.token_urlsafe(32)
        row = await self._ask("insert_session", "fetchrow", name, hash_secret(secret), SESSION_S, address[:64])
        return None if row is None else secret

    async def end_session(self, secret: str) -> None:
        await self._ask("delete_session", "execute", hash_secret(secret))

    # ── the log ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def note(
        self,
        operator: str,
        what: str,
        *,
        role: str = "",
        user_id: str | None = None,
        address: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """One line of the audit log."""
        text = json.dumps(details or {})
        await self._ask("insert_log", "execute", operator[:64], role, what, user_id, address[:64], text)

    async def _ask(self, name: str, how: str, *args: Any) -> Any:
        return await self._cold.call(name, lambda c: getattr(c, how)(self._sql[name], *args))

    async def _hash(self, password: str) -> str:
        async with self._hashing:
            return await asyncio.to_thread(hash_password, password)

    async def _verify(self, hashed: str, password: str) -> bool:
        async with self._hashing:
            return await asyncio.to_thread(_verify_password, hashed, password)


def check_name(name: str) -> None:
    """Raises BadAccount."""
    if not NAME.fullmatch(name):
        raise BadAccount("a name is 1 to 64 of a-z 0-9 . _ @ - and begins with a letter or a digit")
    if name in RESERVED_NAMES:
        raise BadAccount(f"{name} is what the audit log calls whoever owns the machine: choose another name")


def check_password(password: str, name: str = "") -> str:
    """Returns it. Raises BadAccount."""
    if not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_CHARS_MAX:
        raise BadAccount(f"a password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters")
    if len(set(password)) < 4 or (name and name in password.lower() and len(password) < 2 * len(name)):
        raise BadAccount("that password is too easy to guess: four words nobody says together are a good one")
    return password


def hash_secret(secret: str) -> bytes:
    """Of a token or a cookie: 256 random bits need no salt and no delay."""
    return hashlib.sha256(secret.encode()).digest()


def hash_password(password: str) -> str:
    # Imported here: only the ops process and one command need it.
    from argon2 import PasswordHasher

    return PasswordHasher(**_ARGON2).hash(password)


def _verify_password(hashed: str, password: str) -> bool:
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        return PasswordHasher(**_ARGON2).verify(hashed, password)
    except (Argon2Error, InvalidHashError):
        return False


def _operator(row: Any) -> Operator:
    return Operator(row["name"], Role.of(row["role"]), row["is_precise"])


def _account(row: Any) -> Account:
    return Account(
        name=row["name"],
        role=Role.of(row["role"]),
        is_precise=row["is_precise"],
        has_password=row["password_hash"] is not None,
        created_at=row["created_at"],
        created_by=row["created_by"],
        disabled_at=row["disabled_at"],
        tokens=dict(row).get("tokens", 0),
    )
