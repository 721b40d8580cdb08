"""A check of the journal on a phone that loses its power."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

from protocol.client.journal import Disk, FileJournal
from protocol.client.player_client import PlayerClient
from tests.faults.guard_check import COUNT, REST_S, Found, Ground, check, count_rows
from tests.integration.gateway_rig import EXPERIENCE, new_user, run_flusher, run_rig, token


class FragileDisk(Disk):
    """Knows how much of the file would be there after a power cut."""

    def __init__(self) -> None:
        self.safe_bytes: dict[int, int] = {}

    def sync(self, handle: int) -> None:
        super().sync(handle)
        self.safe_bytes[handle] = os.fstat(handle).st_size


@check
async def power_cut_on_the_phone(at: Ground) -> Found:
    """
    The battery dies right after an update was accepted; the phone comes back, makes more steps than it had lost, and
    only then finds a network.
    """
    user_id = new_user()
    made = 3
    with tempfile.TemporaryDirectory(prefix="wh-guard-") as folder:
        path = Path(folder) / "phone.journal"
        device = str(uuid.uuid4())

        def open_journal(disk: Disk | None = None) -> FileJournal:
            return FileJournal(
                path,
                server="s",
                player=user_id,
                experience=EXPERIENCE,
                device=None if disk is None else device,
                disk=disk,
            )

        async with run_rig(at.redis_url, at.database_url) as rig, run_flusher(at.redis_url, at.database_url):
            disk = FragileDisk()
            journal = open_journal(disk)
            client = PlayerClient(rig.url, token(user_id), EXPERIENCE, journal=journal)
            await client.start()
            for number in range(made):
                await client.event("step", f"before-{number}", effects=COUNT)
            await client.wait_accepted(made, REST_S)
            safe_bytes = max(disk.safe_bytes.values(), default=0)
            await client.stop()
            await journal.close()
            with path.open("r+b") as file:
                file.truncate(safe_bytes)
            journal = open_journal()
            client = PlayerClient(rig.url, token(user_id), EXPERIENCE, journal=journal)
            for number in range(made + 1):
                await client.event("step", f"after-{number}", effects=COUNT)
            await client.start()
            with suppress(TimeoutError):
                await client.wait_saved(client.made, REST_S)
            await client.stop()
            await journal.close()
    return await count_rows(at, 2 * made + 1) + Counter(stream_resets=int(journal.device != device))
