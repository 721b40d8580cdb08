"""
The audit without access to the database: every player asks the gateway for its own history, page by page, and what it
is shown is held against what it did.

Owns asking: bounded in players at once and in pages, with a deadline for each player, tokens as the players had them.
What a gateway does not show is not judged: `completed_at`, the totals of the profile, stream numbers beyond what was
answered, dead letters. Everything else is compared as if it had been read from Postgres.

A gateway that lies in its answers as it lied in its acks would pass: where the database can be reached, look there.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from loadtest.audit import audit_progress
from loadtest.findings import ACCEPTED_MIN, AuditReport
from loadtest.history import PlayerHistory
from loadtest.stored import StoredProgress, StoredRow
from loadtest.target import Target, TargetMissing
from protocol.client.player_client import ClientStopped, PlayerClient, QueryRefused

PLAYERS_AT_ONCE_MAX = 50
PAGE_EVENTS = 100  # as many as a gateway gives at once
PAGES_MAX = 10_000
CONNECT_WAIT_S = 30.0
QUERY_WAIT_S = 30.0
TRIES_MAX = 3
_NO_ID = uuid.UUID(int=0)


async def audit_by_queries(
    histories: Sequence[PlayerHistory],
    target: Target,
    *,
    accepted_min: float = ACCEPTED_MIN,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> AuditReport:
    """
    `on_progress(done, of)` is called as players are done.

    Raises:
        TargetMissing: a player could not be asked; there is no verdict then.
    """
    report = AuditReport(accepted_min=accepted_min)
    gate = asyncio.Semaphore(PLAYERS_AT_ONCE_MAX)
    done = 0

    async def ask(history: PlayerHistory) -> StoredProgress:
        nonlocal done
        async with gate:
            stored = await _ask(history, target)
        done += 1
        on_progress(done, len(histories))
        return stored

    tasks = [asyncio.create_task(ask(history)) for history in histories]
    try:
        for history, task in zip(histories, tasks, strict=True):
            audit_progress(report, history, await task)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return report


async def _ask(history: PlayerHistory, target: Target) -> StoredProgress:
    """What the gateway shows this player, from one connection; begun again when that does not work."""
    for tries_left in reversed(range(TRIES_MAX)):
        # A device of its own: the phones of the run stay as they are.
        client = PlayerClient(
            target.url,
            lambda: target.make_token(history.user_id),
            history.experience,
            device=f"audit-{uuid.uuid4()}",
            client="wayhold-audit",
        )
        try:
            await client.start()
            await client.wait_connected(CONNECT_WAIT_S)
            return await _read(client, history)
        except (TimeoutError, ClientStopped, QueryRefused, OSError) as fault:
            if not tries_left:
                raise TargetMissing(
                    f"player {history.user_id} cannot be asked for its history: {fault or type(fault).__name__}"
                ) from fault
        finally:
            await client.stop()
    raise AssertionError("unreachable")


async def _read(client: PlayerClient, history: PlayerHistory) -> StoredProgress:
    rows: list[StoredRow] = []
    cursor: str | None = None
    for _ in range(PAGES_MAX):
        args: dict[str, Any] = {"limit": PAGE_EVENTS} | ({"cursor": cursor} if cursor is not None else {})
        page = await client.query("history", args, QUERY_WAIT_S)
        rows += [_read_row(event) for event in page["events"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    else:
        raise TargetMissing(f"the history of player {history.user_id} does not end after {PAGES_MAX} pages")
    found = await client.query("state", None, QUERY_WAIT_S)
    profile = await client.query("profile", None, QUERY_WAIT_S)
    rows.sort(key=lambda row: (row.version, row.device, row.seq))
    location = found["state"].get("current_location")
    return StoredProgress(
        user_id=history.user_id,
        progress_id=_NO_ID,
        profile_id=_NO_ID,
        version=found["version"],
        state=found["state"],
        current_location=location if isinstance(location, str) else None,
        completed_at=None,
        completion_percentage=0.0,
        achievements=list((profile.get("stats") or {}).get("achievements") or []),
        total_distance_meters=0.0,
        distance_of_all_experiences=0.0,
        rows=rows,
        # Stream numbers are not shown. A stream of which nothing was answered and nothing stored has none.
        streams={
            device: stream.accepted
            for device, stream in history.streams.items()
            if stream.accepted or any(row.device == device for row in rows)
        },
        is_partly_seen=True,
    )


def _read_row(event: dict[str, Any]) -> StoredRow:
    return StoredRow(
        event["event_type"],
        event["content_id"],
        event["data"],
        event["location_lat"],
        event["location_lng"],
        datetime.fromtimestamp(event["timestamp"] / 1000, UTC),
        event["device_id"],
        event["seq"],
        event["version"],
    )
