"""
Many commands in one write and their replies in order, past the client library's pipeline: a flush asks thousands of
times at once, and the library's work for each command is several times that of Redis.

The library still makes the connection (address, password, TLS, timeouts) and lends it: nothing else may use it
meanwhile, and one that is left in the middle of an answer is thrown away.

Not here: what is asked (flush_side.py), what a failure means and how long an answer may take (client.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

READ_BYTES = 1 << 18

Command = tuple[Any, ...]


async def send_commands(pool: Any, commands: Sequence[Command]) -> list[Any]:
    """
    The reply to each command, in order; an error among them stands for itself, see `raise_first_error`. `pool` is a
    connection pool of the client library.

    Raises:
        RedisError, OSError: there was no answer, or not to all of them.
    """
    connection: Any = await pool.get_connection()
    is_clean = False
    try:
        reader = hiredis.Reader(notEnoughData=Ellipsis)
        await connection.send_packed_command(b"".join([hiredis.pack_command(command) for command in commands]))
        stream = connection._reader
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = reader.gets()
            if reply is Ellipsis:
                chunk = await stream.read(READ_BYTES)
                if not chunk:
                    raise RedisConnectionError("the connection was closed while Redis answered")
                reader.feed(chunk)
            else:
                replies.append(reply)
        is_clean = True
        return replies
    except (hiredis.ProtocolError, AttributeError) as error:
        raise RedisConnectionError(f"an answer that is none: {error!r}") from error
    finally:
        if not is_clean:
            await connection.disconnect(nowait=True)
        await pool.release(connection)


def raise_first_error(replies: Sequence[Any]) -> None:
    """Raises ResponseError for the first reply that is an error; what the others asked for was done."""
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise ResponseError(str(reply))


def is_script_missing(reply: Any) -> bool:
    """Redis was started again and has forgotten its scripts."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")
