"""
Who asks, and whether they may: the cookie of a browser that signed in, or the token of a program.

    @router.post("/api/v1/…")
    async def act(operator: Annotated[Operator, Depends(require_role("support"))]) -> …

Promise: without a valid secret 401, with too low a role 403, before anything is done. A request that changes something
and comes with a cookie also needs the header `X-Wayhold-Csrf`, which no other origin can know. A revoked secret opens
nothing `FRESH_S` later at the latest, as long as Postgres can be asked; while it cannot, whoever was in stays in for a
while, because then people need to see what is going on.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import Request

from gateway.liveops.errors import ApiError, forbidden, unauthenticated
from persistence.errors import StoreUnavailable
from persistence.operators import SESSION_S, TOKEN_PREFIX, Operator, Operators, Role

if TYPE_CHECKING:
    from starlette.responses import Response

    from gateway.liveops.services import Services

COOKIE = "wayhold_ops"
CSRF_HEADER = "X-Wayhold-Csrf"
FRESH_S = 5.0
OUTAGE_S = 900.0
"""How long somebody who was in stays in while Postgres is away."""
REMEMBERED_MAX = 2_000
SECRET_CHARS_MAX = 200
LOCAL = Operator("local", Role.ADMIN, is_precise=True)
"""Whoever can read the data folder of `dev`."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Access:
    """Remembers who was let in, so that a page of ten requests is one look into Postgres."""

    def __init__(self, operators: Operators, clock: Callable[[], float], local_token: str = "") -> None:
        """`local_token`: that of the machine's owner (gateway.app.ops_token); empty: there is none."""
        self._operators = operators
        self._local_token = local_token
        self._clock = clock
        self._known: OrderedDict[str, tuple[Operator, float]] = OrderedDict()

    async def find(self, secret: str) -> Operator | None:
        """Raises StoreUnavailable when Postgres is away and the secret is not known."""
        if not secret or len(secret) > SECRET_CHARS_MAX:
            return None
        if self._local_token and secrets.compare_digest(secret.encode(), self._local_token.encode()):
            return LOCAL
        now = self._clock()
        known = self._known.get(secret)
        if known is not None and now - known[1] < FRESH_S:
            return known[0]
        try:
            if secret.startswith(TOKEN_PREFIX):
                found = await self._operators.find_by_token(secret)
            else:
                found = await self._operators.find_by_session(secret)
        except StoreUnavailable:
            if known is not None and now - known[1] < OUTAGE_S:
                return known[0]
            raise
        if found is None:
            self._known.pop(secret, None)
            return None
        self._known[secret] = (found, now)
        self._known.move_to_end(secret)
        while len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        return found

    def forget(self, secret: str) -> None:
        self._known.pop(secret, None)

    def forget_operator(self, name: str) -> None:
        """An account has changed: the next request looks again."""
        for secret in [secret for secret, (operator, _) in self._known.items() if operator.name == name]:
            del self._known[secret]


def require_role(role: str) -> Callable[[Request], Awaitable[Operator]]:
    """A FastAPI dependency: the operator who asks, with at least this role; 401 or 403 otherwise."""
    wanted = Role.of(role)

    async def find_operator(request: Request) -> Operator:
        operator = await authenticate(request)
        if operator.role < wanted:
            raise forbidden(f"this takes the role {wanted.label}, and {operator.name} is {operator.role.label}")
        return operator

    return find_operator


async def authenticate(request: Request) -> Operator:
    services: Services = request.app.state.services
    header = request.headers.get("authorization", "")
    if header:
        kind, _, secret = header.partition(" ")
        secret = secret.strip()
        if kind.lower() != "bearer" or not secret.startswith(TOKEN_PREFIX):
            raise unauthenticated("the Authorization header holds no token of an operator")
        operator = await services.access.find(secret)
    else:
        secret = request.cookies.get(COOKIE, "")
        if secret.startswith(TOKEN_PREFIX):
            secret = ""  # a token is no cookie: it would go round the CSRF rule
        operator = await services.access.find(secret)
        if operator is not None and request.method not in SAFE_METHODS:
            check_origin(request)
            given = request.headers.get(CSRF_HEADER, "")
            if not secrets.compare_digest(given.encode(), csrf_of(secret).encode()):
                raise ApiError(
                    403,
                    "CSRF",
                    f"the header {CSRF_HEADER} is missing or wrong",
                    "reload the page: GET /api/v1/me has it",
                )
    if operator is None:
        raise unauthenticated("the session or token is not valid (any more)" if secret else "not signed in")
    request.state.secret = secret
    return operator


def check_origin(request: Request) -> None:
    """A page of somebody else must not speak for an operator. Programs send no Origin."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host", ""):
        raise forbidden("this request comes from another origin", "use the console of this server")


def csrf_of(secret: str) -> str:
    """Follows from the cookie, which scripts cannot read and other origins cannot send."""
    return hashlib.sha256(b"csrf:" + secret.encode()).hexdigest()[:40]


def set_cookie(response: Response, request: Request, secret: str) -> None:
    response.set_cookie(
        *(COOKIE, secret),
        max_age=int(SESSION_S),
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def clear_cookie(response: Response) -> None:
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


def address_of(request: Request) -> str:
    return request.client.host if request.client is not None else ""
