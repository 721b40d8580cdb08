"""
Connections to Postgres, and the one place that says what an error of it means.

A statement that takes too long is not waited for: its connection is thrown away, because after a client-side time-out
the server may still be busy with it and every later statement would wait as well.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from persistence.cold.grants import take_app_role

CONNECT_TIMEOUT_S = 3.0
COMMAND_TIMEOUT_S = 5.0

UNAVAILABLE_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What asyncpg says of a connection that died while it was between two states.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
"""What is raised when nobody answered. Six trees of exceptions, one meaning."""

POSTGRES_ERRORS: tuple[type[BaseException], ...] = (asyncpg.PostgresError, *UNAVAILABLE_ERRORS)
"""Everything that a call of Postgres may raise."""

# What asyncpg's own encoders raise; one of them is an InterfaceError, so this is asked before UNAVAILABLE_ERRORS.
_ENCODING_ERRORS: tuple[type[BaseException], ...] = (asyncpg.exceptions._base.DataError, OverflowError, UnicodeError)

# Data that Postgres will never take, however often it is asked. 22 data exception, 23 integrity, 54001 too deep.
_REFUSED_CLASSES = ("22", "23")
_REFUSED_STATES = ("54000", "54001", "54011")
# A fault of ours or of the operator: trying again changes nothing, and no row is to blame.
_BROKEN_CLASSES = ("42", "28", "3D", "3F", "0A")


def is_refused(error: BaseException) -> bool:
    """True when a row is to blame: it may be put aside. False for outages, conflicts and faults of ours."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state[:2] in _REFUSED_CLASSES or state in _REFUSED_STATES
    return isinstance(error, _ENCODING_ERRORS)


def is_broken(error: BaseException) -> bool:
    """True when the schema, a permission or a query of ours is wrong: alarm, and touch no data."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in _BROKEN_CLASSES


async def open_connection(database_url: str, *, application_name: str) -> Any:
    """One connection for one owner, as the role that may append only (grants.py)."""
    connection = await asyncpg.connect(
        database_url,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        server_settings={"application_name": application_name, "timezone": "UTC"},
    )
    try:
        await take_app_role(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def open_pool(database_url: str, *, size_max: int, application_name: str) -> asyncpg.Pool[Any]:
    """
    A pool that makes its connections when they are needed, so that a Postgres that is away does not stop a start; as
    the role that may append only.
    """
    return await asyncpg.create_pool(
        database_url,
        min_size=0,
        max_size=size_max,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        max_inactive_connection_lifetime=300.0,
        # Nothing of ours leaves anything behind on a connection, and a reset is a transaction of its own: one for each
        # hello, beside the one that does the work.
        reset=_leave_as_it_is,
        init=take_app_role,
        server_settings={"application_name": application_name, "timezone": "UTC"},
    )


async def _leave_as_it_is(connection: Any) -> None:
    pass
