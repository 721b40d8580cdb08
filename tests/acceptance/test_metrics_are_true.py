"""/metrics and the health page of a running `dev` say what happened, number by number."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect

from gateway.sessions.tokens import make_token
from protocol.codec import codec_named
from tests.acceptance.dev_rig import run_dev
from tests.integration.gateway_rig import Bare, update_frame

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

DEADLINE_S = 20.0


def read_metrics(ops_url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{ops_url}/metrics", timeout=10) as page:
        found = re.findall(r"^([a-z_]+(?:\{[^}]*\})?) (\S+)$", page.read().decode(), re.MULTILINE)
    return {name: float(value) for name, value in found}


async def wait_for_metrics(ops_url: str, wanted: Mapping[str, float]) -> dict[str, float]:
    """Until these numbers are shown: each process publishes once a second."""
    give_up_at = time.monotonic() + DEADLINE_S
    while True:
        found = await asyncio.to_thread(read_metrics, ops_url)
        different = {name: (value, found.get(name)) for name, value in wanted.items() if found.get(name) != value}
        if not different:
            return found
        assert time.monotonic() < give_up_at, f"(wanted, shown): {different}"
        await asyncio.sleep(0.1)


async def test_every_number_is_what_happened() -> None:
    with run_dev("--flush-interval-s", "0.2", "--play-host", "127.0.0.1") as dev:
        ready, secret = dev.ready(), (dev.data_dir / "jwt_secret").read_text().strip().encode()
        ops_url, play = ready["ops_url"], urlsplit(ready["play_url"])
        codec = codec_named("msgpack")

        async def open_socket() -> Bare:
            client = await connect(
                play.geturl(), subprotocols=[codec.subprotocol], compression=None, ping_interval=None
            )
            return Bare(client, codec)

        user_id = str(uuid.uuid4())
        hello: dict[str, Any] = {"token": make_token(secret, user_id, 600), "at": round(time.time() * 1000)}

        first = await open_socket()
        await first.hello(**hello)
        for seq in (1, 2, 3):
            await first.accept(seq)
        await first.accept(4, effects=[{"op": "incr", "path": "inventory", "value": 1}])  # void
        await first.send(update_frame(2))  # once more
        await first.wait_for("ack")
        await first.send(update_frame(9))  # a gap
        await first.wait_for("error")
        for number, of in enumerate(("inventory", "state", "visited"), 1):
            await first.send({"t": "query", "id": str(number), "of": of})
            await first.wait_for("result")
        await first.wait_saved(4)
        first.abort()

        second = await open_socket()
        await second.hello(**hello, resume=first.resume())
        shown = await wait_for_metrics(
            ops_url,
            {
                "wayhold_updates_accepted_total": 3,
                "wayhold_updates_void_total": 1,
                "wayhold_updates_repeated_total": 1,
                "wayhold_updates_saved_total": 3,
                "wayhold_flush_batch_updates_sum": 3,
                'wayhold_errors_total{code="103"}': 1,
                "wayhold_resumes_total": 1,
                "wayhold_hydrates_total": 1,
                "wayhold_resyncs_total": 0,
                "wayhold_stream_resets_total": 0,
                "wayhold_discards_total": 0,
                'wayhold_hot_lookups_total{by="hello"}': 2,
                'wayhold_hot_hits_total{by="hello"}': 1,
                'wayhold_hot_lookups_total{by="read"}': 3,
                'wayhold_hot_hits_total{by="read"}': 3,
                "player_progress_cache_hit_rate": 0.8,
                "wayhold_connections": 1,
                "wayhold_sessions": 1,
                "active_players_total": 1,
                "wayhold_pending_updates": 0,
                "wayhold_pending_bytes": 0,
                "wayhold_oldest_pending_seconds": 0,
                "wayhold_dead_letters": 0,
            },
        )
        flushes = shown["player_progress_write_latency_seconds_count"]
        assert 1 <= flushes == shown["wayhold_flush_duration_seconds_count"] <= 10
        assert 0 < shown["player_progress_write_latency_seconds_sum"] <= shown["wayhold_flush_duration_seconds_sum"]

        await second.send({"t": "leave"})
        assert await second.close_code() == 1000
        await wait_for_metrics(ops_url, {"wayhold_connections": 0, "wayhold_sessions": 0})

        def read_health() -> Any:
            with urllib.request.urlopen(f"{ops_url}/health/player-progress", timeout=10) as page:
                return json.loads(page.read())

        assert await asyncio.to_thread(read_health) == {"status": "healthy", "redis": "ok", "postgresql": "ok"}
