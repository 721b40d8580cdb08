"""Signing in and out, the first operator, and the accounts of all."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from gateway.liveops.access import (
    address_of,
    check_origin,
    clear_cookie,
    csrf_of,
    require_role,
    set_cookie,
)
from gateway.liveops.errors import ApiError, invalid, not_found
from gateway.liveops.services import Services, get_services
from gateway.liveops.shapes import iso
from persistence.operators import TOKEN_PREFIX, Account, BadAccount, Operator, Role

router = APIRouter(prefix="/api/v1", tags=["accounts"])

Shared = Annotated[Services, Depends(get_services)]
Viewer = Annotated[Operator, Depends(require_role("viewer"))]
Admin = Annotated[Operator, Depends(require_role("admin"))]
RoleName = Annotated[str, Field(pattern="^(viewer|support|operator|admin)$")]


class Login(BaseModel):
    name: str = Field(max_length=64)
    password: str = Field(max_length=200)


class Setup(Login):
    key: str = Field(max_length=200)


class NewOperator(BaseModel):
    name: str = Field(max_length=64)
    role: RoleName
    password: str | None = Field(None, max_length=200)
    precise_location: bool = False


class OperatorChange(BaseModel):
    role: RoleName | None = None
    password: str | None = Field(None, max_length=200)
    precise_location: bool | None = None
    disabled: bool | None = None


class NewToken(BaseModel):
    label: str = Field("", max_length=100, pattern=r"^[^\x00]*$")
    days: int | None = Field(None, ge=1, le=3650)


@router.get("/me")
async def get_me(request: Request, services: Shared, operator: Viewer) -> dict[str, Any]:
    """Who asks, and what a page needs to know to show them what they may do."""
    return _me(services, operator, request.state.secret)


@router.post("/login")
async def login(request: Request, services: Shared, given: Login) -> Response:
    """Sign in with a name and a password; sets the cookie."""
    check_origin(request)
    address, name = address_of(request), given.name.strip().lower()
    _count_attempt(services, address, name)
    operator = await services.operators.check_password(name, given.password)
    secret = None if operator is None else await services.operators.open_session(name, address)
    if operator is None or secret is None:
        # Whatever was typed is noted; Postgres keeps no NUL.
        await services.operators.note(name.replace("\0", "?") or "?", "login_failed", address=address)
        raise ApiError(401, "WRONG_LOGIN", "the name or the password is wrong", "try again, or ask an admin")
    services.logins.forgive(address, name)
    await services.operators.note(name, "login", role=operator.role.label, address=address)
    return _signed_in(request, services, operator, secret)


@router.post("/setup")
async def setup(request: Request, services: Shared, given: Setup) -> Response:
    """Make the first operator, an admin, with the key of the link that the first start printed; signs them in."""
    check_origin(request)
    address, name = address_of(request), given.name.strip().lower()
    _count_attempt(services, address)
    if not services.setup_key.opens(given.key):
        raise ApiError(
            *(403, "WRONG_KEY", "that link is not (or no longer) valid: it works once, and within an hour of a start"),
            "sign in, start Wayhold again for another link, or: wayhold operators add NAME --role admin",
        )
    try:
        account = await services.operators.add_first(name, given.password)
    except BadAccount as bad:
        raise invalid(str(bad)) from None
    if account is None:
        services.setup_key.end()
        raise ApiError(409, "SET_UP_ALREADY", "there is an operator already", "sign in, or: wayhold operators add")
    services.setup_key.end()
    await services.operators.note(name, "setup", role="admin", address=address)
    secret = await services.operators.open_session(name, address)
    assert secret is not None
    return _signed_in(request, services, Operator(account.name, account.role, account.is_precise), secret)


@router.post("/logout")
async def logout(request: Request, services: Shared, operator: Viewer) -> Response:
    """End this browser's session."""
    secret = request.state.secret
    if not secret.startswith(TOKEN_PREFIX):
        await services.operators.end_session(secret)
    services.access.forget(secret)
    response = JSONResponse({})
    clear_cookie(response)
    return response


@router.get("/operators")
async def list_operators(services: Shared, operator: Admin) -> dict[str, Any]:
    return {"items": [_account(each) for each in await services.operators.list_all()], "next_cursor": None}


@router.post("/operators", status_code=201)
async def add_operator(request: Request, services: Shared, operator: Admin, given: NewOperator) -> dict[str, Any]:
    try:
        account = await services.operators.add(
            given.name,
            Role.of(given.role),
            password=given.password,
            is_precise=given.precise_location,
            by=operator.name,
        )
    except BadAccount as bad:
        raise invalid(str(bad)) from None
    if account is None:
        raise ApiError(409, "NAME_TAKEN", f"there is an operator {given.name}", "choose another name")
    await _note_account(services, request, operator, "operator_added", given.name, {"role": given.role})
    return _account(account)


@router.patch("/operators/{name}")
async def change_operator(
    request: Request, services: Shared, operator: Admin, name: str, given: OperatorChange
) -> dict[str, Any]:
    if name == operator.name and (given.disabled or (given.role and given.role != "admin")):
        raise ApiError(409, "OWN_ACCOUNT", "you would lock yourself out", "let another admin do it")
    try:
        account = await services.operators.change(
            name,
            role=None if given.role is None else Role.of(given.role),
            is_precise=given.precise_location,
            password=given.password,
            is_disabled=given.disabled,
        )
    except BadAccount as bad:
        raise invalid(str(bad)) from None
    if account is None:
        raise not_found(f"there is no operator {name[:64]}")
    services.access.forget_operator(name)
    changed = {key: value for key, value in given.model_dump(exclude_none=True).items() if key != "password"}
    changed |= {"password": "changed"} if given.password else {}
    await _note_account(services, request, operator, "operator_changed", name, changed)
    return _account(account)


@router.get("/operators/{name}/tokens")
async def list_tokens(services: Shared, operator: Admin, name: str) -> dict[str, Any]:
    tokens = await services.operators.list_tokens(name)
    return {
        "items": [
            {
                "id": token.id,
                "label": token.label,
                "created_at": iso(token.created_at),
                "expires_at": iso(token.expires_at),
                "revoked_at": iso(token.revoked_at),
            }
            for token in tokens
        ],
        "next_cursor": None,
    }


@router.post("/operators/{name}/tokens", status_code=201)
async def add_token(request: Request, services: Shared, operator: Admin, name: str, given: NewToken) -> dict[str, Any]:
    """The token is in this answer and nowhere else."""
    expires_at = None if given.days is None else datetime.now(UTC) + timedelta(days=given.days)
    added = await services.operators.add_token(name, given.label, expires_at)
    if added is None:
        raise not_found(f"there is no operator {name[:64]} who could use it")
    await _note_account(services, request, operator, "token_added", name, {"token": added[0], "label": given.label})
    return {"id": added[0], "token": added[1], "expires_at": iso(expires_at)}


@router.delete("/operators/{name}/tokens/{token_id}")
async def revoke_token(
    request: Request, services: Shared, operator: Admin, name: str, token_id: uuid.UUID
) -> dict[str, Any]:
    if not await services.operators.revoke_token(str(token_id)):
        raise not_found("there is no such token, or it was revoked")
    services.access.forget_operator(name)
    await _note_account(services, request, operator, "token_revoked", name, {"token": str(token_id)})
    return {}


def _count_attempt(services: Services, address: str, name: str = "") -> None:
    if wait_s := services.logins.find_wait_s(address, name):
        seconds = str(max(1, round(wait_s)))
        raise ApiError(
            *(429, "TOO_MANY_ATTEMPTS", "too many attempts to sign in", f"wait {seconds} s and try again"),
            {"Retry-After": seconds},
        )


def _signed_in(request: Request, services: Services, operator: Operator, secret: str) -> Response:
    response = JSONResponse(_me(services, operator, secret))
    set_cookie(response, request, secret)
    return response


def _me(services: Services, operator: Operator, secret: str) -> dict[str, Any]:
    return {
        "operator": operator.name,
        "role": operator.role.label,
        "csrf": csrf_of(secret),
        "is_production": services.is_production,
        "version": services.version,
        "precise_location": operator.is_precise,
    }


def _account(account: Account) -> dict[str, Any]:
    return {
        "name": account.name,
        "role": account.role.label,
        "precise_location": account.is_precise,
        "has_password": account.has_password,
        "tokens": account.tokens,
        "created_at": iso(account.created_at),
        "created_by": account.created_by,
        "disabled_at": iso(account.disabled_at),
    }


async def _note_account(
    services: Services, request: Request, operator: Operator, what: str, name: str, details: dict[str, Any]
) -> None:
    await services.operators.note(
        operator.name,
        what,
        role=operator.role.label,
        address=address_of(request),
        details={"operator": name, **details},
    )
