"""
The least of PostgreSQL's wire protocol: log in without a password, run statements, see whether they worked.

It answers "is it ready" and makes databases from plain synchronous code, before there is an event loop. Anything
that reads rows uses asyncpg.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

PROTOCOL_3_0 = 196608
TIMEOUT_S = 30.0
MESSAGE_BYTES_MAX = 1024 * 1024
DATABASE_MISSING = "3D000"


class PostgresRefused(Exception):
    """The server answered with an error."""

    def __init__(self, sqlstate: str, message: str) -> None:
        self.sqlstate = sqlstate
        self.message = message
        super().__init__(sqlstate, message)

    def __str__(self) -> str:
        return f"{self.message} ({self.sqlstate})"


def run_sql(socket_path: Path, user: str, database: str, sql: str, *, timeout_s: float = TIMEOUT_S) -> None:
    """
    Connect, run `sql` (several statements are one transaction), disconnect.

    Raises:
        PostgresRefused: the server said no.
        OSError: it cannot be reached, or did not answer in time.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        client.connect(str(socket_path))
        hello = struct.pack("!i", PROTOCOL_3_0)
        for text in ("user", user, "database", database, ""):
            hello += text.encode() + b"\0"
        client.sendall(struct.pack("!i", len(hello) + 4) + hello)
        _read_until_ready(client)
        query = sql.encode() + b"\0"
        client.sendall(b"Q" + struct.pack("!i", len(query) + 4) + query)
        _read_until_ready(client)
        client.sendall(b"X" + struct.pack("!i", 4))


def _read_until_ready(client: socket.socket) -> None:
    refused: PostgresRefused | None = None
    while True:
        kind, length = struct.unpack("!ci", _read(client, 5))
        if not 4 <= length <= MESSAGE_BYTES_MAX:
            raise ConnectionError("not a PostgreSQL server")
        body = _read(client, length - 4)
        if kind == b"R" and body[:4] != b"\0\0\0\0":
            raise PostgresRefused("28000", "the server asks for a password")
        if kind == b"E":
            fields = {part[:1]: part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}
            refused = PostgresRefused(fields.get(b"C", ""), fields.get(b"M", ""))
            if fields.get(b"S") in ("FATAL", "PANIC"):
                raise refused
        if kind == b"Z":
            if refused is not None:
                raise refused
            return


def _read(client: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        part = client.recv(length - len(parts))
        if not part:
            raise ConnectionError("the server closed the connection")
        parts += part
    return parts
