"""
How long an operator waits for who they look for: searches over HTTP while ten thousand players are in and play slowly.

A search is what the console asks for with one more letter, by the begin of an id or a part of a device: in the box that
`/` opens, then above the page of those who play now. It counts from when it is sent until its answer is here, so that
what the system and this process add is in it: the server took no longer. One in six finds every player. All of it goes
through the ops process that an operator has, on connections that stay open.

Nothing is bound to a core, other than in the parts that count the gateway's time: with all but the gateway on one core
a search would wait for the simulated players. The processor time of a search is that of the ops process without what it
takes by itself to keep the table of sessions.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from benchmarks.accounts import read_cpu_s
from benchmarks.installation import Cores, Installation, run_installation
from benchmarks.load_processes import run_load
from benchmarks.measure import bring_in
from benchmarks.plan import Plan
from benchmarks.walk_step import DEVICE, make_user_id
from gateway.app.ops_token import TOKEN_FILE

RUN = "search"
PLAYERS = 10_000
CONNECT_PER_S = 250.0
"""Nobody measures how fast they come in; all at once would only wait for each other."""
EACH_PER_S = 0.1
"""Of each player: a step in ten seconds is somebody who walks."""
SEARCHES_PER_S = 10.0
ALONE_S, SEARCHING_S = 15.0, 30.0
BOX, PAGE = "/api/v1/search?limit=8&text=", "/api/v1/sessions?limit=50&sort=-last_activity&search="
"""As the console asks (js/search.js and js/pages/players.js of gateway/liveops/console)."""
LETTERS_MAX = 8
TABLE_DEADLINE_S = 30.0
ANSWER_DEADLINE_S = 10.0
ASKED_AGAIN_S = 5.0
"""Sooner than the table is forgotten and a connection that nobody uses is closed."""


async def run(plan: Plan) -> dict[str, Any]:
    players, window_s = plan.players(PLAYERS), plan.seconds(SEARCHING_S)
    terms = make_terms(players, round(SEARCHES_PER_S * window_s))
    async with (
        run_installation(Cores(), settings=plan.settings()) as wayhold,
        run_load(wayhold, players=players, run=RUN) as load,
        _ask_from(wayhold) as api,
    ):
        await bring_in(load, is_seeded=False, per_s=CONNECT_PER_S)
        alone_s = plan.seconds(ALONE_S)
        seconds = TABLE_DEADLINE_S + 2 * (alone_s + 2 * window_s) + 30  # longer than it is needed for: `end` ends it
        playing = asyncio.create_task(load.do("open", per_s=EACH_PER_S * players, seconds=seconds))
        try:
            await _wait_for_table(api, players)
            alone = await _keep_table(wayhold, api, alone_s)
            plan.say(f"player search: nobody searches: {alone}")
            box = await _search(wayhold, api, BOX, terms)
            page = await _search(wayhold, api, PAGE, terms)
            await load.write({"do": "end"})
            loop = await playing
        finally:
            playing.cancel()
        facts = await wayhold.describe()
    figures: dict[str, float] = {}
    for name, window in (("search", box), ("search_page", page)):
        figures |= {f"{name}_{which}_ms": ms for which, ms in window["took"].items()}
        own_s = window["ops_cpu_s"] - alone["ops_cpu_s"] / alone["seconds"] * window["seconds"]
        figures[f"{name}_ops_cpu_ms"] = round(max(0.0, own_s) / len(terms) * 1000, 2)
        took = ", ".join(f"{which} {ms:g} ms" for which, ms in window["took"].items())
        plan.say(f"{name}: {len(terms)} among {players:,} sessions: {took}; CPU {figures[f'{name}_ops_cpu_ms']:g} ms")
    return {
        "figures": figures,
        "sessions": players,
        "alone": alone,
        "box": box,
        "page": page,
        "loop": loop,
        "installation": facts,
    }


def make_terms(players: int, count: int) -> list[tuple[str, str | None]]:
    """What is typed, letter by letter, and the player whom it must find (None: everybody has that device)."""
    chance = random.Random(1)
    terms: list[tuple[str, str | None]] = []
    while len(terms) < count:
        wanted = make_user_id(RUN, chance.randrange(players))
        letters = chance.randint(1, LETTERS_MAX)
        terms += [(wanted[:end], wanted) for end in range(1, letters + 1)]
        terms.append((DEVICE, None))
    return terms[:count]


async def _wait_for_table(api: _Asking, players: int) -> None:
    """Until the ops process knows everybody."""
    total = None
    try:
        async with asyncio.timeout(TABLE_DEADLINE_S):
            while total != players:
                total = (await api.get("/api/v1/sessions?limit=1"))["total"]
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise RuntimeError(f"the ops process knows {total} sessions of {players}") from None


async def _keep_table(wayhold: Installation, api: _Asking, seconds: float) -> dict[str, Any]:
    """What the ops process uses while somebody has the table open and searches nothing."""
    clock, pid = asyncio.get_running_loop().time, wayhold.pids()["ops-1"]
    began, before = clock(), read_cpu_s(pid)
    while (left_s := began + seconds - clock()) > 0:
        await asyncio.sleep(min(ASKED_AGAIN_S, left_s))
        await api.get("/api/v1/sessions?limit=1")
    return {"seconds": round(clock() - began, 3), "ops_cpu_s": round(read_cpu_s(pid) - before, 4)}


async def _search(
    wayhold: Installation, api: _Asking, path: str, terms: Sequence[tuple[str, str | None]]
) -> dict[str, Any]:
    """All searches, each when it is due, whatever became of those before."""
    clock, pid = asyncio.get_running_loop().time, wayhold.pids()["ops-1"]
    took: list[float] = []
    late: list[float] = []
    size = int(path.partition("limit=")[2].partition("&")[0])

    async def search(text: str, wanted: str | None) -> None:
        began = clock()
        answer = await api.get(path + quote(text))
        took.append(clock() - began)
        found = [item["user_id"] for item in answer["items"]]
        if not found or (wanted is not None and len(found) < size and wanted not in found):
            raise RuntimeError(f"a search for {text!r} did not find {wanted or 'anybody'}")

    before, began = read_cpu_s(pid), clock()
    async with asyncio.TaskGroup() as group:
        for number, (text, wanted) in enumerate(terms):
            due = began + number / SEARCHES_PER_S
            await asyncio.sleep(max(0.0, due - clock()))
            late.append(clock() - due)
            group.create_task(search(text, wanted))
    return {
        "searches": len(terms),
        "seconds": round(clock() - began, 3),
        "ops_cpu_s": round(read_cpu_s(pid) - before, 4),
        "took": describe(took),
        "sent_late": describe(late),
    }


def describe(seconds: Sequence[float]) -> dict[str, float]:
    """Quantiles in milliseconds."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    quantiles = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(last, int(share * len(ordered)))] * 1000, 3) for name, share in quantiles.items()}


class _Asking:
    """A browser's connections to one ops process: kept open, as many as are needed at once."""

    def __init__(self, ops_url: str, token: str) -> None:
        address = urlsplit(ops_url)
        self._host, self._port = address.hostname, address.port
        self._head = f"Host: {address.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n"
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._open: set[asyncio.StreamWriter] = set()

    async def get(self, path: str) -> dict[str, Any]:
        """Raises RuntimeError for anything but 200, and for an answer that does not come."""
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                while self._free:
                    reader, writer = self._free.pop()
                    if not reader.at_eof():
                        break
                    self._forget(writer)
                else:
                    reader, writer = await asyncio.open_connection(self._host, self._port, limit=1 << 20)
                    self._open.add(writer)
                writer.write(f"GET {path} HTTP/1.1\r\n{self._head}".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                status, *fields = head.decode("latin-1").split("\r\n")
                sizes = [field.partition(":")[2] for field in fields if field.lower().startswith("content-length:")]
                body = await reader.readexactly(int(sizes[0]))
        except (TimeoutError, OSError, EOFError) as error:
            raise RuntimeError(f"{path}: {error or 'no answer'}") from None
        if " 200 " not in status:
            raise RuntimeError(f"{path}: {status} {body.decode(errors='replace')[:300]}")
        self._free.append((reader, writer))
        found: dict[str, Any] = json.loads(body)
        return found

    def close(self) -> None:
        for writer in list(self._open):
            self._forget(writer)

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        writer.close()


@asynccontextmanager
async def _ask_from(wayhold: Installation) -> AsyncIterator[_Asking]:
    token = (wayhold.folder / TOKEN_FILE).read_text().strip()
    api = _Asking(wayhold.ready["ops_url"], token)
    try:
        yield api
    finally:
        api.close()
