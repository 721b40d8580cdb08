"""
An app on a phone for the drill `offline_for_days`: it makes updates without a network, or uploads its journal. It says
one line when it is where it should be killed, and then goes on until it is.

`python -m tests.faults.run_phone make|upload`, with its order as a line of JSON on stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import uvloop

from protocol.client.journal import Disk, FileJournal
from protocol.client.player_client import PlayerClient
from tests.faults.drills import phone_effects, phone_event


class LazyDisk(Disk):
    """Remembers how much of the journal was synced: a power cut takes the rest."""

    def __init__(self) -> None:
        self.is_syncing = True
        self.stuck = asyncio.Event()

    def sync(self, handle: int) -> None:
        if self.is_syncing:
            super().sync(handle)


async def run(what: str, order: dict[str, Any]) -> None:
    disk = LazyDisk()
    path = Path(order["journal"])
    journal = FileJournal(path, server="drill", player=order["user_id"], experience=order["experience"], disk=disk)
    client = PlayerClient(order["url"], order["token"], order["experience"], journal=journal)
    if what == "make":
        for first in range(1, order["updates"] + 1, 50):
            seqs = range(first, min(first + 50, order["updates"] + 1))
            await asyncio.gather(*(client.update(phone_event(order, seq), phone_effects()) for seq in seqs))
        synced_bytes = path.stat().st_size  # noqa: ASYNC240
        disk.is_syncing = False  # the battery is nearly empty: what comes now never reaches the disk
        for seq in range(order["updates"] + 1, order["updates"] + order["unsynced"] + 1):
            await client.update(phone_event(order, seq), phone_effects())
        say(synced_bytes=synced_bytes, made=journal.made)
    else:
        assert journal.made == order["updates"], f"the journal holds {journal.made} updates"
        await client.start()
        until = order["until"]
        if until is not None:
            await client.wait_accepted(until, 50)
        else:
            await client.wait_saved(order["updates"], 50)
        say(accepted=client.accepted, saved=client.saved, device=client.device)
    await asyncio.Event().wait()


def say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> int:
    uvloop.run(run(sys.argv[1], json.loads(sys.stdin.readline())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
