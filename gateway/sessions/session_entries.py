"""
Starts and ends of sessions as entries of their progress. Each carries the whole session, so that Postgres may hear of
them in any order, and of either one alone.
"""

from __future__ import annotations

from typing import Literal

from persistence.hot.shapes import HotSession, SessionEntry
from persistence.progress_key import ProgressKey
from protocol.entry import EntryIds, SessionBody, encode_session_body

EndReason = Literal["left", "expired", "switched", "replaced", "kicked", "banned", "erased", "lost"]


def start_entry(ids: EntryIds, session_id: str, key: ProgressKey, device: str, started_ms: int) -> SessionEntry:
    return SessionEntry(
        ids.next(),
        encode_session_body(SessionBody(session_id, key.user_id, key.experience, device, started_ms, 0, "")),
    )


def end_entry(ids: EntryIds, session: HotSession, ended_ms: int, reason: EndReason) -> SessionEntry:
    """`ended_ms` is never before the start: the two come from clocks that may differ."""
    return SessionEntry(
        ids.next(),
        encode_session_body(
            SessionBody(
                session.id,
                session.user_id,
                session.experience,
                session.device,
                session.started_ms,
                max(ended_ms, session.started_ms),
                reason,
            )
        ),
    )
