"""
What a page costs in each frame, from the browser's own trace: everything that its main thread did from one frame to the
next (scripts, parsing, layout, paint, garbage), and what its raster threads did meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from tests.clients.browser import Page

CATEGORIES = ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline", "__metadata"]


@dataclass(frozen=True, slots=True)
class FrameCosts:
    """`costs_ms`: of each frame, rising."""

    costs_ms: list[float]

    def percentile(self, share: float) -> float:
        return self.costs_ms[min(len(self.costs_ms) - 1, int(share * len(self.costs_ms)))]

    def __str__(self) -> str:
        return (
            f"{len(self.costs_ms)} frames: p50 {self.percentile(0.5):.1f} ms, p95 {self.percentile(0.95):.1f} ms, "
            f"the worst {self.costs_ms[-1]:.1f} ms"
        )


async def measure_frames(page: Page, seconds: float) -> FrameCosts:
    events: list[dict[str, Any]] = []
    is_complete = asyncio.Event()
    page.forget("Tracing.dataCollected", "Tracing.tracingComplete")
    page.listen("Tracing.dataCollected", lambda params: events.extend(params["value"]))
    page.listen("Tracing.tracingComplete", lambda params: is_complete.set())
    await page.call("Tracing.start", transferMode="ReportEvents", traceConfig={"includedCategories": CATEGORIES})
    await asyncio.sleep(seconds)  # how long is measured
    await page.call("Tracing.end")
    async with asyncio.timeout(30):
        await is_complete.wait()
    return FrameCosts(_costs(events))


def _costs(events: list[dict[str, Any]]) -> list[float]:
    frames: dict[tuple[int, int], list[float]] = defaultdict(list)
    for event in events:
        if event["name"] == "FireAnimationFrame":
            frames[event["pid"], event["tid"]].append(event["ts"])
    (pid, main), begins = max(frames.items(), key=lambda one: len(one[1]))
    begins.sort()
    workers = {
        event["tid"]
        for event in events
        if event["pid"] == pid and event["name"] == "thread_name" and "TileWorker" in event["args"]["name"]
    }
    costs = [0.0] * len(begins)
    index = 0
    for event in sorted((one for one in events if one.get("dur") and one["pid"] == pid), key=lambda one: one["ts"]):
        # Not "ThreadControllerImpl::RunTask", too: that is the same task once more.
        is_ours = event["name"] == "RunTask" and event["tid"] == main
        if not is_ours and not (event["name"] == "RasterTask" and event["tid"] in workers):
            continue
        middle = event["ts"] + event["dur"] / 2
        while index + 1 < len(begins) and begins[index + 1] <= middle:
            index += 1
        if middle >= begins[0]:
            # Where the browser says what a task took of a processor, others who use the machine do not count.
            costs[index] += event.get("tdur", event["dur"]) / 1000
    return sorted(costs[:-1])
