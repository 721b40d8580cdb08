"""
When Redis forgot: a live connection whose hot copy is gone, is another one, or fell behind what the client was told.

Promise: the client is told to go back only after a copy is there that the next update can be compared with. A session
that Redis forgot is re-created with the number its connection had, and only if Postgres, read after the loss was
noticed, does not say that it has ended. Meanwhile updates stay in the client's journal and pings are answered.

Not here: whether a copy may be replaced; the install script decides that by proof.
"""

from __future__ import annotations

import asyncio
import random

from gateway.sessions import pushes
from gateway.sessions.connection import Connection, Phase
from gateway.sessions.farewell import banned
from gateway.sessions.faults import Goodbye
from gateway.sessions.rules import OPEN_ATTEMPTS_MAX, RECOVER_DEADLINE_S
from gateway.sessions.session_entries import start_entry
from gateway.telemetry.logs import get_logger
from persistence.errors import StoreUnavailable
from persistence.hot.shapes import HotProgress, OpenSession, Outcome
from protocol import frames
from protocol.closes import CloseCode
from protocol.frames import ResyncReason
from protocol.state import document

_BACKOFF_S = (0.1, 2.0)

log = get_logger("sessions")


async def recover(connection: Connection, reason: ResyncReason) -> None:
    """
    From a verdict that named a loss to a `resync`.

    Raises:
        Goodbye: the session is over or somebody else's.
        TimeoutError: the stores did not come back in time.
    """
    backoff_s, backoff_max_s = _BACKOFF_S
    async with asyncio.timeout(RECOVER_DEADLINE_S):
        while True:
            try:
                progress = await find_or_rebuild(connection, reason)
                counted = await pushes.reset(connection)
                break
            except StoreUnavailable as error:
                log.info("recovery_waits", progress=connection.key.member, error=str(error))
                await asyncio.sleep(random.uniform(backoff_s / 2, backoff_s))
                backoff_s = min(backoff_s * 2, backoff_max_s)
    if connection.phase is Phase.RECOVERING:
        _resync(connection, reason, progress)
        pushes.begin_again(connection, counted)


async def find_or_rebuild(connection: Connection, reason: ResyncReason) -> HotProgress:
    """A hot copy that knows this stream, with this connection's session beside it."""
    if reason == "diverged":
        # Another copy is there, with our session: nothing is lost that this connection would have to bring back.
        found = await connection.node.hot.find_progress(connection.key)
        if found is not None and connection.device in found.accepted:
            return found
    return await rebuild(connection)


async def rebuild(connection: Connection) -> HotProgress:
    """Hydrate, and re-create the session if it is gone."""
    node = connection.node
    for _ in range(OPEN_ATTEMPTS_MAX):
        cold = await node.hydrator.hydrate(
            connection.key, connection.device, session_id=connection.session_id, is_live=True
        )
        if cold is None or cold.session_ended:
            raise Goodbye(CloseCode.SESSION_ENDED)
        if cold.ban is not None:
            raise banned(cold.ban, node.now_ms())
        async with node.openings.hold(is_live=True):
            opened = await node.hot.open_session(
                OpenSession(
                    key=connection.key,
                    device=connection.device,
                    node=node.name,
                    session_id=connection.session_id,
                    started_ms=connection.started_ms,
                    claims=connection.claims,
                    connection_min=connection.number,
                    seen=None,
                    start_entry=start_entry(
                        node.entry_ids,
                        connection.session_id,
                        connection.key,
                        connection.device,
                        connection.started_ms,
                    ),
                    end_entry=None,
                    restore=True,
                )
            )
        match opened.outcome:
            case Outcome.OK:
                assert opened.progress is not None
                return opened.progress
            case Outcome.FENCED:
                raise Goodbye(CloseCode.REPLACED)
            case Outcome.CHANGED:
                # Another session holds the player, with a lower number: an old Redis came back. A hello sorts it out.
                raise Goodbye(CloseCode.SESSION_ENDED)
            case Outcome.BANNED:
                assert opened.ban is not None
                raise banned(opened.ban, node.now_ms())
            case Outcome.NO_DEVICE:
                await node.hydrator.install_device(connection.key, connection.device, is_live=True)
            case _:
                pass  # gone again: look again
    raise Goodbye(CloseCode.UNAVAILABLE)


def _resync(connection: Connection, reason: ResyncReason, progress: HotProgress) -> None:
    """No await in here: what the store showed and what the client is told are one instant for this node."""
    device = connection.device
    accepted = progress.accepted[device]
    if accepted < connection.saved_told:
        # We told it that more is saved than anybody has now. Its hello will say so, and its stream be reset.
        log.error("saved_was_lost", progress=connection.key.member, accepted=accepted, told=connection.saved_told)
        raise Goodbye(CloseCode.SESSION_ENDED)
    connection.hold(progress.copy)
    connection.version = progress.version
    connection.told = accepted
    connection.saved_told = saved = max(connection.saved_told, progress.saved.get(device, 0))
    connection.drop_queue()
    connection.go_back_to(accepted + 1)
    connection.phase = Phase.PLAYING
    connection.task = None
    connection.node.tally.resyncs += 1
    connection.send(
        frames.resync(
            reason,
            accepted,
            saved,
            document(progress.fields),
            progress.version,
            progress.voids.get(device, ()),
        )
    )
    connection.check_window()
    if connection.wants_leave:
        connection.node.start_leave(connection)
    elif connection.pings:
        connection.node.committer.enqueue(connection)
