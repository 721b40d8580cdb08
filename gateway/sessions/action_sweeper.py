"""
The sweep for actions that were asked for and are not saved yet: their node died before it applied them, Redis was away
or has forgotten, the progress was in quarantine.

Promise: whatever the journal has is applied sooner or later, in order, while any node lives. Every node sweeps; that
two issue the same action is harmless. The sweep is bounded and paced, and goes on where it stopped: what cannot be
applied now does not keep the others waiting.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

from gateway.telemetry.logs import get_logger
from persistence.actions.journal import Place
from persistence.errors import PersistenceError
from persistence.progress_key import ProgressKey

if TYPE_CHECKING:
    from gateway.sessions.node import Node

SWEEP_S = 2.0
AGE_MIN_S = 5.0
"""Younger actions are left to those who asked for them; one that waits for its flush is looked at in vain."""

PAGE = 200
AT_ONCE = 2

log = get_logger("actions")


class ActionSweeper:
    """One per node. `run` never raises; a store that is away is asked again with the next sweep."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._after: Place | None = None

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            # Jittered: many nodes must not all ask in the same moment.
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), SWEEP_S * random.uniform(0.7, 1.3))
                return
            try:
                await self.sweep()
            except PersistenceError as error:
                log.debug("sweep_failed", error=str(error))
            except Exception:
                log.error("sweep_failed", exc_info=True)

    async def sweep(self, older_than_s: float = AGE_MIN_S) -> int:
        """Issue a page of what waits; returns how many actions were applied."""
        progress = self._node.progress
        waiting, self._after = await progress.journal.list_waiting(older_than_s, PAGE, self._after)
        applied = 0
        for first in range(0, len(waiting), AT_ONCE):
            results = await asyncio.gather(
                *(self._issue(*one) for one in waiting[first : first + AT_ONCE]), return_exceptions=True
            )
            for result in results:
                if isinstance(result, PersistenceError):
                    log.debug("actions_wait", error=str(result))
                elif isinstance(result, BaseException):
                    log.error("issue_failed", exc_info=result)
                else:
                    applied += result
        if applied:
            log.info("waiting_actions_applied", actions=applied)
        return applied

    async def _issue(self, key: ProgressKey, row_id: str) -> int:
        progress = self._node.progress
        refused = await progress.journal.refuse_overtaken(row_id)
        if refused:
            log.error("actions_overtaken", progress=key.member, actions=list(refused))
        return await progress.issuer.issue_requested(key, row_id)
