"""
The map with ten thousand players who move, from a recorded feed: what a frame costs, and what can be seen.

The feed is recorded because its load must be the same each time; the map's pages on a real gateway are in
test_console.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator

import pytest
import uvicorn

from tests.clients import fake_answers
from tests.clients.browser import Page, open_page
from tests.clients.frames import measure_frames

pytestmark = pytest.mark.timeout(120)

PLAYERS = 10_000
BUDGET_MS = 25.0
SECONDS = 5.0
ATTEMPTS = 3


@contextlib.asynccontextmanager
async def open_map(players: int) -> AsyncIterator[Page]:
    app = fake_answers.make_app()
    app.state.feed = [
        f"event: players\ndata: {json.dumps(news, separators=(',', ':'))}\n\n"
        for news in fake_answers.record_feed(players, 20)
    ]
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        async with asyncio.timeout(20):
            while not server.started:  # noqa: ASYNC110 -- uvicorn has no event for it
                await asyncio.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with open_page() as page:
            await page.resize(1280, 900)
            await page.go_to(f"http://127.0.0.1:{port}/console/#/map/{fake_answers.EXPERIENCE}")
            await page.wait_for_text(f"{players:,} players", inside=".map-note", deadline_s=20)
            yield page
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, 10)


async def zoom(page: Page, key: str, times: int) -> None:
    for _ in range(times):
        await page.evaluate(
            f"document.querySelector('.map-box').dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}))"
        )


async def move_about(page: Page) -> None:
    """The map is moved to and fro for as long as the page is there."""
    await page.evaluate(
        """(() => {
          let turn = 0;
          const keys = ['ArrowLeft', 'ArrowUp', 'ArrowRight', 'ArrowDown'];
          const box = document.querySelector('.map-box');
          setInterval(() => box.dispatchEvent(new KeyboardEvent('keydown', {key: keys[turn++ % 4]})), 50);
        })()"""
    )


@pytest.mark.parametrize("view", ["everybody, put together", "everybody a dot", "near, dots"])
async def test_ten_thousand_moving_players_stay_below_25_ms_of_script_and_paint_in_a_frame(
    view: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_map(PLAYERS) as page:
        await zoom(page, "-", 6)
        await page.wait_for_text("10,000 in view", inside=".map-note")
        if view == "everybody a dot":
            await page.click("main input[type=checkbox]")
        elif view == "near, dots":
            await zoom(page, "+", 9)
            await page.wait_for("!document.querySelector('.map-note').innerText.includes('put together')")
        else:
            await page.wait_for_text("put together", inside=".map-note")
        await move_about(page)
        # What else runs on the machine makes a frame dearer, never cheaper: one good time of three is the page's.
        for _ in range(ATTEMPTS):
            costs = await measure_frames(page, SECONDS)
            with capsys.disabled():
                print(f"\nmap, {view}: {costs}")
            assert len(costs.costs_ms) > 40, "too few frames to say anything"
            if costs.percentile(0.95) <= BUDGET_MS:
                break
        assert costs.percentile(0.95) <= BUDGET_MS
        assert not page.complaints


async def test_a_player_on_the_map_can_be_picked_and_opened() -> None:
    async with open_map(50) as page:
        await page.wait_for_text("in view", inside=".map-note")
        # Click on a dot that can be seen.
        await page.wait_for(
            """(() => {
              const box = document.querySelector('.map-box');
              const canvas = box.querySelectorAll('canvas')[1];
              const {data, width} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
              const at = data.findIndex((value, index) => index % 4 === 3 && value === 255);
              if (at < 0) return false;
              const pixel = (at - 3) / 4, {left, top} = box.getBoundingClientRect();
              const where = {clientX: left + pixel % width, clientY: top + Math.floor(pixel / width) + 4, pointerId: 1};
              box.setPointerCapture = () => {};
              for (const type of ['pointerdown', 'pointerup']) box.dispatchEvent(new PointerEvent(type, where));
              return true;
            })()"""
        )
        await page.wait_for_text("Player", inside=".picked")
        await page.click(".picked a")
        await page.wait_for("location.hash.startsWith('#/player/')")
