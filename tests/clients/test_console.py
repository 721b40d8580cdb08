"""
The console in a real browser, on a real gateway with a real player: find somebody, see what they do, help them, undo
it, send them away, and find all of it in the audit log.
"""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.acceptance.dev_rig import RunningDev
from tests.clients.browser import Page, open_page
from tests.clients.stage import EXPERIENCE, Player, console_url, playing, signed_in

pytestmark = pytest.mark.timeout(120)

MARKUP = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
DEADLINE_S = 15.0


async def do_action(page: Page, title: str, fields: dict[str, str], reason: str) -> None:
    """Fill in, look at the preview, confirm; returns when it has been asked for."""
    await page.click(".actions button", title)
    for name, value in fields.items():
        await page.fill(f"dialog [name={name}]", value)
    await page.fill("dialog [name=reason]", reason)
    await page.click("dialog button[type=submit]", "Show what it would do")
    await page.wait_for_text("What it would do", inside="dialog")
    await page.click("dialog button[type=submit]", "do it")
    await page.wait_for_text("written down", inside="dialog")


async def items_in_postgres(dev: RunningDev, player: str) -> list[str]:
    connection = await asyncpg.connect(dev.ready()["database_url"])
    try:
        state = await connection.fetchval(
            "SELECT p.state FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id "
            "WHERE f.user_id = $1",
            player,
        )
        return list(json.loads(state).get("inventory", []))
    finally:
        await connection.close()


async def wait_push(player: Player, text: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while text not in json.dumps((await player.heard.pushes.get())[1]):
            pass


async def check_origin(page: Page, dev: RunningDev) -> None:
    origin = urlsplit(dev.ready()["ops_url"]).netloc
    elsewhere = {url for url in page.requests if urlsplit(url).scheme != "data" and urlsplit(url).netloc != origin}
    assert not elsewhere
    # The browser's own icon of a date field is a data: URL; nothing of ours is one.
    assert all(url.startswith("data:image/svg+xml;base64,") for url in page.requests if url.startswith("data:"))
    # Asking who is signed in, before anybody is, is answered 401, and a browser writes that down.
    assert not [one for one in page.complaints if "401" not in one or not one.endswith("/api/v1/me")]


async def test_an_operator_finds_helps_and_bans_a_player_and_reads_it_all_in_the_audit_log(dev: RunningDev) -> None:
    async with playing(dev, 3, seed=1) as players, signed_in(dev) as page:
        player = players[0]
        for one in players:
            await one.client.wait_accepted(await one.visit(), DEADLINE_S)

        # Find the player by typing.
        await page.wait_for_text("Players now", inside="main")
        await page.press("/", code="Slash", text="/")
        await page.wait_for("document.activeElement.matches('dialog.search input')")
        await page.type(player.id[:6])
        await page.wait_for_text(player.id, inside="#found")
        await page.wait_for_text("playing", inside="#found")
        await page.press("Enter")
        await page.wait_for(f"location.hash.startsWith('#/player/{player.id}')")
        await page.wait_for_text("wylding-woods", inside="main")
        await page.wait_for("[...document.querySelectorAll('.trace .badge')].some((one) => one.innerText === 'note')")

        # An event shows within a second of the player's act, as text and not as markup.
        begun = time.monotonic()
        await player.client.event("riddle_told", "fox_riddle", data={"answer": MARKUP})
        await page.wait_for_text("riddle_told", inside=".trace", deadline_s=5)
        assert time.monotonic() - begun < 1.0
        assert await page.evaluate("!document.querySelector('main img') && document.title !== 'owned'")

        # Grant an item: the client gets it, and Postgres has it before the page says done.
        await do_action(page, "Grant an item", {"item": "silver_bell"}, f"lost in the mud {MARKUP}")
        await wait_push(player, "silver_bell")
        await page.wait_for("document.querySelector('dialog .steps .badge.good')?.innerText === 'done'")
        assert "silver_bell" in await items_in_postgres(dev, player.id)
        assert "silver_bell" in (await player.client.query("inventory"))["items"]

        # Undo it.
        await page.click("dialog button", "Undo …")
        await page.fill("dialog [name=undo-reason]", "wrong player")
        await page.click("dialog button[type=submit]", "Undo it")
        await page.wait_for("document.querySelectorAll('dialog .steps .badge.good').length === 2")
        assert "silver_bell" not in await items_in_postgres(dev, player.id)
        await page.click("dialog button", "Close")

        # Ban: the socket closes with 4203, and the page shows that.
        await do_action(page, "Ban", {"message": "until you are kind again"}, "rude to others")
        async with asyncio.timeout(DEADLINE_S):
            assert await player.heard.closes.get() == 4203
        await page.wait_for("document.querySelector('dialog .steps .badge.good')?.innerText === 'done'")
        await page.click("dialog button", "Close")
        await page.wait_for_text("banned until", inside="main")

        # Everything stands in the audit log, with what was given for a reason.
        await page.go_to(f"{console_url(dev)}#/audit?player={player.id}")
        for text in ("grant_item", "undo of", "ban", "wrong player", "rude to others", "lost in the mud <img"):
            await page.wait_for_text(text, inside="main")
        assert await page.evaluate("!document.querySelector('main img, main td b b')")
        await check_origin(page, dev)


async def test_every_page_shows_what_there_is_without_a_complaint_of_the_browser(dev: RunningDev) -> None:
    async with playing(dev, 4, seed=2) as players, signed_in(dev) as page:
        for player in players:
            await player.client.wait_saved(await player.visit(note=MARKUP), DEADLINE_S)
        url = console_url(dev)
        for hash, text in (
            ("overview", "Healthy"),
            ("players", players[0].id[:8]),
            (f"player/{players[1].id}", "visited_waypoints"),
            (f"map/{EXPERIENCE}", "in view"),
            ("events", "Pause"),
            (f"analytics/{EXPERIENCE}", "_inter_"),
            ("dead-letters", "There are no dead letters"),
            ("audit", "login"),
            ("maintenance", "Players may come and play"),
        ):
            await page.go_to(f"{url}#/{hash}")
            await page.wait_for_text(text, inside="main")
            await page.wait_for("!document.querySelector('main .spinner')")
            assert not await page.evaluate("document.querySelector('main [role=alert]')?.innerText"), hash
        await page.resize(375, 740, is_phone=True)
        for hash in ("overview", "players", f"player/{players[1].id}", "audit", "maintenance"):
            await page.go_to(f"{url}#/{hash}")
            await page.wait_for("document.querySelector('main h1')")
            # A phone never has to scroll the page sideways: wide tables scroll by themselves.
            await page.wait_for("document.documentElement.scrollWidth <= 376")
        await check_origin(page, dev)


async def test_live_events_arrive_within_a_second_and_a_pause_holds_them_back(dev: RunningDev) -> None:
    async with playing(dev, 1, seed=3) as (player,), signed_in(dev) as page:
        await page.go_to(f"{console_url(dev)}#/events?player={player.id}")
        await page.wait_for("document.querySelector('.feed.good')")
        await player.visit()
        await page.wait_for("document.querySelectorAll('main tbody tr').length === 1", deadline_s=5)
        begun = time.monotonic()
        await player.client.event("riddle_told", MARKUP)
        await page.wait_for_text("riddle_told", inside="main tbody", deadline_s=5)
        assert time.monotonic() - begun < 1.0
        await page.click("main button", "Pause")
        await player.client.event("bell_rung", "b")
        await page.wait_for_text("Go on (1 waiting)", inside="main")
        assert await page.evaluate("!document.querySelector('main tbody').innerText.includes('bell_rung')")
        await page.click("main button", "Go on")
        await page.wait_for_text("bell_rung", inside="main tbody")
        await check_origin(page, dev)


async def test_a_page_says_that_its_feed_was_cut_and_goes_on_by_itself_when_the_server_is_back(dev: RunningDev) -> None:
    async with playing(dev, 1, seed=4) as (player,), signed_in(dev) as page:
        await page.go_to(f"{console_url(dev)}#/events?player={player.id}")
        await page.wait_for("document.querySelector('.feed.good')")
        dev.kill("ops-1")
        await page.wait_for_text("reconnecting", inside=".page-head")
        await page.wait_for("document.querySelector('.feed.good')", deadline_s=30)
        # Who plays has noticed nothing, and what they do is seen again, as soon as their gateway knows of the new feed.
        async with asyncio.timeout(20):
            while not await page.evaluate("document.querySelectorAll('main tbody tr').length >= 1"):
                await player.client.wait_accepted(await player.visit(), DEADLINE_S)
                await asyncio.sleep(0.5)


async def test_a_viewer_is_offered_no_action(dev: RunningDev) -> None:
    async with playing(dev, 1, seed=5) as (player,), signed_in(dev) as page:
        made = await page.evaluate(
            """(async () => {
              const me = await (await fetch('../api/v1/me')).json();
              const body = JSON.stringify({name: 'vera', password: 'only looking at it', role: 'viewer'});
              const headers = {'Content-Type': 'application/json', 'X-Wayhold-Csrf': me.csrf};
              return (await fetch('../api/v1/operators', {method: 'POST', headers, body})).status;
            })()"""
        )
        assert made in (200, 201)
        await page.click("button", "Log out")
        await page.fill("input[name=name]", "vera")
        await page.fill("input[name=password]", "only looking at it")
        await page.click("button[type=submit]", "Log in")
        await page.wait_for("document.querySelector('nav#menu')")
        await page.go_to(f"{console_url(dev)}#/player/{player.id}")
        await page.wait_for_text("Your role (viewer) may look, not act.", inside="main")
        assert await page.evaluate(
            "!document.querySelector('.actions button') && !document.querySelector('a[download]')"
        )


async def test_who_is_not_signed_in_sees_the_login_and_a_wrong_password_says_so(dev: RunningDev) -> None:
    async with open_page() as page:
        await page.go_to(f"{console_url(dev)}#/audit")
        await page.fill("input[name=name]", "nobody")
        await page.fill("input[name=password]", "wrong wrong wrong")
        await page.click("button[type=submit]", "Log in")
        await page.wait_for("document.querySelector('[role=alert]')")
        assert await page.evaluate("!document.querySelector('nav#menu')")
