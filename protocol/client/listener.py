"""What a client tells its owner while it plays."""

from __future__ import annotations

from typing import Any


class PlayerListener:
    """
    What a client tells while it plays. Override what you need.

    Called in the client's loop, between its reads and writes: keep it cheap and synchronous. What it raises is logged
    and goes no further. `at_ms` is `time.monotonic()` in milliseconds.
    """

    def on_made(self, device: str, seq: int, frame: dict[str, Any]) -> None:
        """An update has its number and stands in the journal; it is synced before it is sent."""

    def on_journaled(self, device: str, seq: int, payload: bytes, body: dict[str, Any]) -> None:
        """
        The same for those who want the bytes: `payload` is what the journal holds, `body` encoded as msgpack. Override
        this or `on_made`, which is called from here.
        """
        self.on_made(device, seq, {"t": "update", "seq": seq, **body})

    def on_unmade(self, device: str, seq: int) -> None:
        """The disk refused an update before it was ever sent: its number goes to the next one."""

    def on_accepted(self, device: str, seq: int, at_ms: float) -> None:
        """Everything up to `seq` is accepted."""

    def on_saved(self, device: str, seq: int) -> None:
        """Everything up to `seq` is saved."""

    def on_void(self, device: str, seq: int, code: int, message: str) -> None:
        """The server rejected this update. Told once, and anew when the server had forgotten it."""

    def on_resume(self, reason: str) -> None:
        """The client is back after a lost connection: "resumed", or why a new session began (`ended`, `lost`, …)."""

    def on_resync(self, reason: str) -> None:
        """The server rebuilt its copy: the state was replaced, what it does not know is sent again."""

    def on_state(self, state: dict[str, Any], version: int, accepted: int) -> None:
        """A whole state, with a welcome or a resync: everything up to the own update `accepted` is in it."""

    def on_stream_reset(self, old_device: str, new_device: str, renumbered: dict[int, int]) -> None:
        """The client goes on as a new device. Old seqs that are not in `renumbered` are in the server's hands."""

    def on_push(self, n: int, kind: str, data: Any, after: int | None) -> None:
        """The server tells something by itself."""

    def on_error(self, code: int, name: str, message: str) -> None:
        """An error frame that answers no query."""

    def on_close(self, code: int | None) -> None:
        """A connection ended: its close code, None when there was none."""

    def on_stopped(self, code: int | None) -> None:
        """The client will not come back by itself."""
