"""
Take the pictures of docs/console.md: a real gateway, players who walk on it, and each page as an operator sees it.

    python -m tests.clients.make_screenshots [--players 40] [--walk-s 45] [--folder docs/images/console]
"""

from __future__ import annotations

import argparse
import asyncio
import random
from pathlib import Path

from tests.acceptance.dev_rig import REPOSITORY, RunningDev, run_dev
from tests.clients.browser import Page, open_page
from tests.clients.fake_answers import DEFINITION
from tests.clients.small_png import shrink_png
from tests.clients.stage import DEADLINE_S, EXPERIENCE, Player, console_url, playing, signed_in
from tests.clients.test_console import do_action

FOLDER = REPOSITORY / "docs" / "images" / "console"
SIZE = (1180, 780)


async def walk_about(player: Player) -> None:
    """Somebody who plays: a waypoint now and then, sometimes an item, a quest, a moment in the pocket."""
    dice = random.Random(player.id)
    while True:
        await player.visit()
        if dice.random() < 0.3:
            await player.find()
        if dice.random() < 0.15:
            quest = dice.choice(DEFINITION.quests).id
            await player.client.event(dice.choice(["quest_started", "quest_completed"]), quest)
        await asyncio.sleep(dice.uniform(0.5, 6))


async def take(
    page: Page, dev: RunningDev, folder: Path, name: str, hash: str, ready: str, pause_s: float = 2.0
) -> None:
    await page.go_to(f"{console_url(dev)}#/{hash}")
    await page.wait_for_text(ready, inside="main")
    await asyncio.sleep(pause_s)  # charts and maps want something to show
    await page.screenshot(folder / f"{name}.png")
    print(name, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--players", type=int, default=40)
    parser.add_argument("--walk-s", type=float, default=45.0, help="how long they walk before the first picture")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(play_and_take(args))
    for file in sorted(args.folder.glob("*.png")):
        file.write_bytes(shrink_png(file.read_bytes()))
        print(f"{file.name}: {file.stat().st_size:,} bytes", flush=True)


async def play_and_take(args: argparse.Namespace) -> None:
    with run_dev() as dev:
        # Three months that were: without them there is no retention to look at.
        filled = dev.run("fill", "--players", "400", "--events", "30000", timeout_s=300)
        print(filled.stdout[-300:] or filled.stderr[-600:], flush=True)
        async with playing(dev, args.players) as players:
            for player in players[::7]:  # some have their phone in the pocket
                await player.client.wait_accepted(await player.visit(), DEADLINE_S)
                await player.client.suspend(600)
            walks = [asyncio.create_task(walk_about(player)) for at, player in enumerate(players) if at % 7]
            try:
                await take_all(dev, players, args)
            finally:
                for task in walks:
                    task.cancel()
                await asyncio.gather(*walks, return_exceptions=True)


async def take_all(dev: RunningDev, players: list[Player], args: argparse.Namespace) -> None:
    folder: Path = args.folder
    async with open_page() as page:
        await page.resize(SIZE[0], 560)
        await page.go_to(console_url(dev))
        await page.wait_for("document.querySelector('input[name=password]')")
        await page.screenshot(folder / "login.png")
    async with signed_in(dev) as page:
        await page.resize(*SIZE)
        await asyncio.sleep(args.walk_s)  # a quarter of an hour is too long to wait, some of it is enough
        await take(page, dev, folder, "overview", "overview", "Healthy")
        await take(page, dev, folder, "players", "players", "in all")
        await take(page, dev, folder, "map", f"map/{EXPERIENCE}", "in view", 3)
        await take(page, dev, folder, "events", "events", "Pause", 6)
        await take(page, dev, folder, "analytics", f"analytics/{EXPERIENCE}", "Funnel")

        await take(page, dev, folder, "player", f"player/{players[1].id}", "Timeline", 6)
        await page.click(".actions button", "Grant an item")
        await page.fill("dialog [name=item]", "silver_bell")
        await page.fill("dialog [name=reason]", "lost it when the app was reinstalled, ticket 4711")
        await page.click("dialog button[type=submit]", "Show what it would do")
        await page.wait_for_text("Afterwards", inside="dialog")
        await page.screenshot(folder / "action.png")
        await page.click("dialog button[type=submit]", "do it")
        await page.wait_for_text("Postgres has it", inside="dialog", deadline_s=DEADLINE_S)
        await page.screenshot(folder / "action-done.png")
        await page.click("dialog button", "Close")
        await page.go_to(f"{console_url(dev)}#/player/{players[2].id}")
        await page.wait_for_text("Timeline", inside="main")
        await do_action(page, "Ban", {"message": "Please be kind to the others"}, "insulted others, ticket 4712")
        await page.wait_for_text("Postgres has it", inside="dialog", deadline_s=DEADLINE_S)
        await page.click("dialog button", "Close")

        await take(page, dev, folder, "audit", "audit", "grant_item")
        await take(page, dev, folder, "maintenance", "maintenance", "Please be kind")
        await take(page, dev, folder, "dead-letters", "dead-letters", "There are no dead letters")
        await page.press("/", code="Slash", text="/")
        await page.wait_for("document.activeElement.matches('dialog.search input')")
        await page.type(players[3].id[:2])
        await page.wait_for_text(players[3].id[:2], inside="#found")
        await page.screenshot(folder / "search.png")
        await page.press("Escape")

        await page.prefer(**{"prefers-color-scheme": "dark"})
        await take(page, dev, folder, "overview-dark", "overview", "Healthy")
        await page.resize(390, 780, is_phone=True)
        await take(page, dev, folder, "phone-player", f"player/{players[4].id}", "Timeline", 4)


if __name__ == "__main__":
    main()
