"""
A phone: one installation of the app, with its journal, its clock and the real client.

Promise: what a phone whose app or battery dies finds again is what its journal promises and nothing else. Updates that
are gone without ever having been sent are told to the history (`unmade`).

Not here: when these things happen (simulation.py), the network (link.py, transport.py).
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtest.link import Link
from loadtest.phone_disk import PhoneDisk
from loadtest.recording import Recording
from loadtest.transport import LeanSocket, open_socket
from protocol.client.journal import FileJournal, Journal, MemoryJournal
from protocol.client.player_client import PlayerClient

_JOURNAL = Path("journal")


@dataclass(frozen=True, slots=True)
class Account:
    """Who plays, and where: what every phone of a player has in common. `is_new`: nobody has ever played this one."""

    url: str
    experience: str
    user_id: str
    make_token: Callable[[], str]
    is_new: bool = True


class Phone:
    """Its client is another one after each death."""

    __slots__ = ("_account", "_disk", "_link", "_random", "client", "recording", "source_address")

    def __init__(
        self,
        account: Account,
        recording: Recording,
        rng: random.Random,
        *,
        link: Link | None,
        has_disk: bool,
        source_address: tuple[str, int] | None,
    ) -> None:
        self._account = account
        self._random = rng
        self._link = link
        self._disk = PhoneDisk() if has_disk else None
        self.recording = recording
        self.source_address = source_address
        self.client = self._make_client()

    def _make_client(self) -> PlayerClient:
        account, skew_ms = self._account, self.recording.clock_skew_ms
        return PlayerClient(
            account.url,
            account.make_token,
            account.experience,
            journal=self._open_journal(),
            listener=self.recording,
            random=self._random,
            client="wayhold-loadtest",
            open_socket=self._open_socket,
            wall_clock_s=time.time if not skew_ms else functools.partial(_read_clock_s, skew_ms),
            source_address=self.source_address,
        )

    async def _open_socket(
        self, url: str, subprotocol: str, timeout_s: float, source_address: tuple[str, int] | None
    ) -> LeanSocket:
        try:
            return await open_socket(url, subprotocol, timeout_s, source_address, self._link)
        except OSError:  # a TimeoutError is one, too
            self.recording.note_connect_failed()
            raise

    def _open_journal(self) -> Journal:
        if self._disk is None:
            return MemoryJournal()
        account = self._account
        return FileJournal(
            _JOURNAL, server="loadtest", player=account.user_id, experience=account.experience, disk=self._disk
        )

    def start(self) -> None:
        """Begin to connect; nothing when it runs already."""
        client = self.client
        if client.is_running:
            return
        start = client.start()  # it never waits
        try:
            start.send(None)
        except StopIteration:
            pass

    async def die(self, *, is_power_cut: bool) -> None:
        """The app is gone, without a word; the phone can be started again afterwards."""
        old, disk, recording = self.client, self._disk, self.recording
        assert disk is not None, "only a phone with a disk may die"
        device = old.device
        self._disk = disk.survive(self._random, is_power_cut=is_power_cut)
        old.drop_connection()
        await old.stop()
        journal_made = recording.made
        self.client = self._make_client()
        if self.client.device == device and self.client.made < journal_made:
            recording.note_unmade(device, self.client.made + 1)


def _read_clock_s(skew_ms: int) -> float:
    return time.time() + skew_ms / 1000
