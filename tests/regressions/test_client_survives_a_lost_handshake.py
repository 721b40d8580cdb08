"""Players of a gateway that died at the wrong instant never came back."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError

from protocol.client import client_socket
from protocol.client.player_client import PlayerClient
from tests.waiting import wait_until


async def test_connection_that_ends_before_the_handshake_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A socket that was closed after TCP had connected and before the first byte was sent raised ConnectionClosedError
    from the handshake. Nobody caught it there: the client's task ended, and the player was offline for ever.
    """
    attempts = 0

    async def connect(*args: Any, **kwargs: Any) -> Any:
        nonlocal attempts
        attempts += 1
        raise ConnectionClosedError(None, None)

    monkeypatch.setattr(client_socket, "connect", connect)
    client = PlayerClient("ws://127.0.0.1:9/v1/play", "token", "wylding-woods")
    await client.start()
    try:

        async def is_tried_again() -> bool:
            return attempts >= 2

        await wait_until("a second attempt", is_tried_again, 10)
        assert not client.stopped
    finally:
        await client.stop()
