"""
What somebody who watches costs those who play: CPU of the gateway per update with one viewer and with none, in turns.

Players go on in one open loop all the time. Around it the live feed is opened and closed in the order on, off, off, on;
each window with a viewer is held against its neighbour without one, so that whatever drifts meanwhile drifts in both.
The viewer wants what the console's page of live events wants: the figures of all nodes and a sample of all events.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

from benchmarks.accounts import read_cpu_s
from benchmarks.installation import Installation, run_installation
from benchmarks.load_processes import run_load
from benchmarks.measure import WARM_S, bring_in, settle
from benchmarks.plan import Plan
from gateway.app.ops_token import TOKEN_FILE

PLAYERS, PER_S = 2000, 2000.0
PAIRS = 20
TOPICS = "figures,events"
BEGINS_S, ENDS_S = 2.0, 7.5
"""How long until a node heard that somebody watches, and until it forgot when nobody does (its lease is 6 s)."""

RESAMPLES = 10_000
FEED_BYTES_MIN = 200
"""A feed that said less in a window was none, and the comparison would be of nothing."""


async def run(plan: Plan) -> dict[str, Any]:
    players, pairs, window_s = plan.players(PLAYERS), plan.rounds(PAIRS), plan.seconds(8.0)
    per_s = PER_S * players / PLAYERS
    order = [is_watched for _ in range((pairs + 1) // 2) for is_watched in (True, False, False, True)][: 2 * pairs]
    ends_s = 1.0 if plan.is_quick else ENDS_S
    async with (
        run_installation(plan.cores, settings=plan.settings()) as wayhold,
        run_load(wayhold, players=players, run="viewer") as load,
    ):
        await bring_in(load)
        await load.do("open", per_s=per_s, seconds=min(WARM_S, plan.seconds(WARM_S)))
        await settle(load)
        # Longer than it is needed for: `end` ends it.
        seconds = 2 * sum(window_s + (BEGINS_S if is_watched else ends_s) for is_watched in order) + 30
        playing = asyncio.create_task(load.do("open", per_s=per_s, seconds=seconds))
        try:
            await asyncio.sleep(min(WARM_S, window_s))
            windows = [await _measure(wayhold, is_watched, window_s, per_s, ends_s) for is_watched in order]
            await load.write({"do": "end"})
            loop = await playing
        finally:
            playing.cancel()
        await settle(load)
        facts = await wayhold.describe()
    ratios = [
        (a if a["is_watched"] else b)["gateway_us"] / (b if a["is_watched"] else a)["gateway_us"]
        for a, b in zip(windows[::2], windows[1::2], strict=True)
    ]
    middle, upper = median(ratios), bound_median(ratios)
    plan.say(f"{len(ratios)} pairs: median ratio {middle:.3f}, 95 % below {upper:.3f}")
    figures = {"viewer_ratio": round(middle, 4), "viewer_ratio_upper": round(upper, 4)}
    return {"figures": figures, "ratios": ratios, "windows": windows, "loop": loop, "installation": facts}


def bound_median(ratios: Sequence[float]) -> float:
    """The upper end of the 95 % interval of the median, by resampling; the same for the same ratios."""
    if len(ratios) < 2:
        return ratios[0]
    chance = random.Random(1)
    medians = [median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES)]
    return quantiles(medians, n=40)[-1]


async def _measure(
    wayhold: Installation, is_watched: bool, window_s: float, per_s: float, ends_s: float
) -> dict[str, Any]:
    """CPU of the gateway and of the ops process per update that was due in one window."""
    async with _watch(wayhold) if is_watched else _watch_nothing() as heard:
        await asyncio.sleep(BEGINS_S if is_watched else ends_s)
        pids, said = wayhold.pids(), len(heard)
        before = {name: read_cpu_s(pid) for name, pid in pids.items() if name in ("gateway-1", "ops-1")}
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(window_s)
        used = {name: read_cpu_s(pids[name]) - cpu_s for name, cpu_s in before.items()}
        took_s = asyncio.get_running_loop().time() - began
        if is_watched and sum(map(len, list(heard)[said:])) < FEED_BYTES_MIN:
            raise RuntimeError("the live feed said nothing")
    updates = per_s * took_s
    return {
        "is_watched": is_watched,
        "gateway_us": used["gateway-1"] / updates * 1e6,
        "ops_us": used["ops-1"] / updates * 1e6,
    }


@asynccontextmanager
async def _watch_nothing() -> AsyncIterator[list[bytes]]:
    yield []


@asynccontextmanager
async def _watch(wayhold: Installation) -> AsyncIterator[list[bytes]]:
    """One viewer of the live feed; what it was told."""
    address = urlsplit(wayhold.ready["ops_url"])
    token = (wayhold.folder / TOKEN_FILE).read_text().strip()
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 22)
    head = (
        f"GET /api/v1/live?topics={TOPICS} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    writer.write(head.encode())
    status = await asyncio.wait_for(reader.readline(), 10)
    if b" 200 " not in status:
        raise RuntimeError(f"no live feed: {status.decode().strip()}")
    heard: list[bytes] = []

    async def hear() -> None:
        while some := await reader.read(1 << 16):
            heard.append(some)

    hearing = asyncio.create_task(hear())
    try:
        yield heard
    finally:
        hearing.cancel()
        writer.close()
