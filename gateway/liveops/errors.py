"""
What goes wrong, as answers: `{"error": {"code", "message", "next"}}` with a status. One place for all of it.

Promise: every refusal says what to do next; nothing that is our fault is told to anybody but the log.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from gateway.telemetry.logs import get_logger
from persistence.errors import ActionsWaiting, PersistenceError, ProgressMissing, StoreFull, StoreUnavailable

log = get_logger("liveops")


class ApiError(Exception):
    """Raise it anywhere in a request."""

    def __init__(
        self, status: int, code: str, message: str, next: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.next = next
        self.headers = headers


def unauthenticated(message: str = "not signed in") -> ApiError:
    return ApiError(401, "UNAUTHENTICATED", message, "sign in at /console/, or send Authorization: Bearer TOKEN")


def forbidden(message: str, next: str = "ask somebody with the role that it takes") -> ApiError:
    return ApiError(403, "FORBIDDEN", message, next)


def not_found(message: str, next: str = "look at the spelling; what was erased is gone") -> ApiError:
    return ApiError(404, "NOT_FOUND", message, next)


def invalid(message: str, next: str = "correct it and ask again") -> ApiError:
    return ApiError(422, "INVALID", message, next)


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(PersistenceError, _persistence_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _our_fault)


def answer_error(
    status: int, code: str, message: str, next: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message, "next": next}}, status, headers)


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return answer_error(error.status, error.code, error.message, error.next, error.headers)


async def _persistence_error(request: Request, error: Exception) -> JSONResponse:
    match error:
        case StoreUnavailable():
            log.warning("store_away", path=request.url.path, error=str(error))
            name = "Postgres" if error.store == "postgres" else "Redis"
            return answer_error(
                *(503, "STORE_UNAVAILABLE", f"{name} does not answer"),
                f"players play on as far as they can; look at /readyz and at {name}'s own log, then ask again",
                {"Retry-After": "2"},
            )
        case StoreFull():
            return answer_error(
                503,
                "STORE_FULL",
                "Redis is full",
                "let flushers catch up, or raise its maxmemory",
                {"Retry-After": "5"},
            )
        case ProgressMissing():
            return answer_error(404, "NOT_FOUND", str(error), "look at the spelling of the experience")
        case ActionsWaiting():
            return answer_error(409, "TOO_MANY_WAITING", str(error), "wait until the flushers have saved them")
        case _:
            return answer_error(409, "REFUSED", str(error), "read what it says, and ask again")


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    said = [_describe(one) for one in error.errors()[:5]]
    return answer_error(422, "INVALID", "; ".join(said), "correct it and ask again; /api/v1/openapi.json has all names")


def _describe(one: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in one.get("loc", ()) if part not in ("body", "query", "path"))
    return f"{where or 'the request'}: {one.get('msg', 'is wrong')}"


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}
    return answer_error(
        error.status_code,
        codes.get(error.status_code, "REFUSED"),
        str(error.detail),
        "see /api/v1/openapi.json for what there is",
        dict(error.headers or {}),
    )


async def _our_fault(request: Request, error: Exception) -> JSONResponse:
    log.error("request_failed", path=request.url.path, exc_info=error)
    return answer_error(500, "FAULT", "something of ours went wrong", "look at the log of ops-1, and report it")
