"""Who may do what on the ops port: signing in, cookies, tokens, roles, limits; and what any answer has to bear."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import asyncpg
import pytest
import uvicorn
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from uvicorn.server import ServerState

from gateway.app import ops_http
from gateway.liveops import console_files
from gateway.liveops.access import FRESH_S
from gateway.liveops.app import ROUTERS
from gateway.liveops.live.hub import VIEWERS_OF_ONE_MAX
from gateway.liveops.shapes import make_cursor
from persistence.operators import Role
from tests.integration.ops_rig import PASSWORD, SETUP_KEY, OpsRig, run_ops_rig

# Open to whoever reaches the port: they let people in, or are the page that asks them to.
OPEN = {"/api/v1/login", "/api/v1/setup", "/", "/console", "/console/{path:path}"}


@pytest.fixture
async def ops(redis_url: str, database_url: str) -> AsyncIterator[OpsRig]:
    async with run_ops_rig(redis_url, database_url) as rig:
        yield rig


def list_routes() -> list[tuple[str, str]]:
    return [
        (method, route.path)
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.path not in OPEN
        for method in sorted(route.methods)
    ]


def fill(path: str) -> str:
    for name in ("user_id", "action_id", "token_id"):
        path = path.replace("{" + name + "}", str(uuid.uuid4()))
    return path.replace("{name}", "ann").replace("{question}", "completion")


async def test_nobody_gets_anything_without_signing_in_and_a_viewer_changes_nothing(ops: OpsRig) -> None:
    stranger, viewer = ops.client(), await ops.somebody("viewer")
    wrong = ops.client(token="wh_ops_" + "x" * 43)
    routes = list_routes()
    assert len(routes) > 25
    for method, path in routes:
        for who in (stranger, wrong):
            answer = await who.ask(method, fill(path), None if method == "GET" else {})
            assert (answer.status, answer.code) == (401, "UNAUTHENTICATED"), (method, path)
        if method != "GET" and path != "/api/v1/logout":
            answer = await viewer.ask(method, fill(path), {"action": "kick", "target": {"all": True}, "reason": "x"})
            assert (answer.status, answer.code) == (403, "FORBIDDEN"), (method, path)
    for path in ("/api/v1/operators", f"/api/v1/players/{uuid.uuid4()}/export"):
        assert (await viewer.get(path)).status == 403


async def test_the_first_link_makes_one_admin_and_then_opens_nothing(ops: OpsRig) -> None:
    page = ops.client()
    given = {"key": "another", "name": "Ada", "password": PASSWORD}
    assert (await page.post("/api/v1/setup", given)).code == "WRONG_KEY"
    given["key"] = SETUP_KEY
    assert (await page.post("/api/v1/setup", given | {"password": "short"})).code == "INVALID"
    made = await page.post("/api/v1/setup", given)
    assert (made.status, made.json["operator"], made.json["role"]) == (200, "ada", "admin")
    cookie = made.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert (await page.get("/api/v1/me")).json["operator"] == "ada"
    assert (await ops.client().post("/api/v1/setup", given | {"name": "eve"})).code == "WRONG_KEY"
    # Also when nobody could sign in any more: whoever found the link in a log gets nothing.
    await ops.operators.change("ada", is_disabled=True)
    assert await ops.operators.count() == 0
    assert (await ops.client().post("/api/v1/setup", given | {"name": "eve"})).code == "WRONG_KEY"


async def test_two_who_come_with_the_link_at_once_make_one_operator(ops: OpsRig) -> None:
    answers = await asyncio.gather(
        *(
            ops.client().post("/api/v1/setup", {"key": SETUP_KEY, "name": name, "password": PASSWORD})
            for name in ("ann", "bob")
        )
    )
    assert sorted(answer.status for answer in answers) == [200, 409]


async def test_of_two_first_operators_who_wait_for_each_other_one_is_made(ops: OpsRig, database_url: str) -> None:
    held = await asyncpg.connect(database_url)
    try:
        async with held.transaction():
            await held.execute("SELECT pg_advisory_xact_lock(70368744181)")
            both = [asyncio.create_task(ops.operators.add_first(name, PASSWORD)) for name in ("ann", "bob")]
            async with asyncio.timeout(10):
                waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                while await held.fetchval(waiting) < 2:
                    assert not any(task.done() for task in both)
        made = await asyncio.gather(*both)
    finally:
        await held.close()
    assert [account is None for account in made].count(True) == 1 and await ops.operators.count() == 1


async def test_a_cookie_changes_something_only_with_the_csrf_header_and_from_its_own_origin(ops: OpsRig) -> None:
    await ops.operators.add("ann", Role.ADMIN, password=PASSWORD)
    browser = ops.client()
    assert (await browser.login("ann")).status == 200
    new = {"name": "bob", "role": "viewer"}
    right, browser.csrf = browser.csrf, ""
    assert (await browser.post("/api/v1/operators", new)).code == "CSRF"
    browser.csrf = "0" * 40
    assert (await browser.post("/api/v1/operators", new)).code == "CSRF"
    browser.csrf = right
    assert (await browser.post("/api/v1/operators", new, Origin="https://evil.example")).code == "FORBIDDEN"
    assert (await browser.post("/api/v1/operators", new, Origin=f"http://127.0.0.1:{ops.port}")).status == 201
    # A token in the cookie would go round that rule, so it is none.
    added = await ops.operators.add_token("ann")
    assert added is not None
    assert (await ops.client(cookie=added[1]).get("/api/v1/me")).status == 401
    assert (await ops.client(token=added[1]).post("/api/v1/operators", new | {"name": "cid"})).status == 201


async def test_signing_out_ends_the_session_everywhere(ops: OpsRig) -> None:
    await ops.operators.add("ann", Role.VIEWER, password=PASSWORD)
    browser = ops.client()
    await browser.login("ann")
    stolen = ops.client(cookie=browser.cookie)
    assert (await stolen.get("/api/v1/me")).status == 200
    assert (await browser.post("/api/v1/logout")).status == 200
    assert (await stolen.get("/api/v1/me")).status == 401


async def test_a_wrong_password_an_unknown_name_and_a_disabled_operator_are_answered_alike(ops: OpsRig) -> None:
    await ops.operators.add("ann", Role.VIEWER, password=PASSWORD)
    await ops.operators.add("tokens-only", Role.VIEWER)
    await ops.operators.add("gone", Role.VIEWER, password=PASSWORD)
    await ops.operators.change("gone", is_disabled=True)
    said = set()
    for name, password in (
        ("ann", "wrong"),
        ("nobody", PASSWORD),
        ("gone", PASSWORD),
        ("tokens-only", ""),
        ("'; --", "x"),
    ):
        answer = await ops.client().login(name, password)
        said.add((answer.status, answer.code, answer.body))
    assert len(said) == 1 and said.pop()[:2] == (401, "WRONG_LOGIN")
    admin = await ops.somebody("admin")
    audit = (await admin.get("/api/v1/audit", action="login_failed")).json["items"]
    assert [item["operator"] for item in audit] == ["'; --", "tokens-only", "gone", "nobody", "ann"]


async def test_guessing_is_slowed_down_by_name_and_says_when_to_come_back(ops: OpsRig) -> None:
    await ops.operators.add("ann", Role.VIEWER, password=PASSWORD)
    answers = [await ops.client().login("ann", f"guess {number}") for number in range(10)]
    assert [answer.status for answer in answers[:8]] == [401] * 8
    assert (answers[9].status, answers[9].code) == (429, "TOO_MANY_ATTEMPTS")
    assert int(answers[9].headers["retry-after"]) >= 1
    # Also the right password has to wait, or the limit would tell which one it is.
    assert (await ops.client().login("ann")).status == 429


async def test_a_name_that_is_not_ours_gets_nothing_from_a_server_on_loopback(ops: OpsRig) -> None:
    """A page that gives its own name the address 127.0.0.1 must not read along: DNS rebinding."""
    for path in ("/api/v1/me", "/metrics", "/console/", "/livez"):
        answer = await ops.client(headers={"Host": "evil.example"}).get(path)
        assert (answer.status, answer.code) == (421, "WRONG_HOST")
    for host in ("localhost:7401", f"127.0.0.1:{ops.port}", "[::1]", "10.1.2.3"):
        assert (await ops.client(headers={"Host": host}).get("/livez")).status == 200


async def test_who_says_for_whom_they_ask_is_not_believed(ops: OpsRig) -> None:
    await ops.operators.add("ann", Role.ADMIN, password=PASSWORD)
    browser = ops.client(headers={"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"})
    signed_in = await browser.login("ann")
    assert signed_in.status == 200 and "Secure" not in signed_in.headers["set-cookie"]
    (line,) = (await browser.get("/api/v1/audit", action="login")).json["items"]
    assert line["payload"]["address"] == "127.0.0.1"


async def test_an_account_may_not_be_called_as_the_owner_of_the_machine_is(ops: OpsRig) -> None:
    admin = await ops.somebody("admin")
    answer = await admin.post("/api/v1/operators", {"name": "local", "role": "viewer"})
    assert (answer.status, answer.code) == (422, "INVALID")


async def test_one_operator_cannot_take_all_live_feeds(ops: OpsRig) -> None:
    greedy, other = await ops.somebody("viewer"), await ops.somebody("support")
    async with AsyncExitStack() as stack:
        for _ in range(VIEWERS_OF_ONE_MAX):
            await stack.enter_async_context(greedy.watch(topics="figures"))
        refused = await greedy.get("/api/v1/live", topics="figures")
        assert (refused.status, refused.code) == (429, "TOO_MANY_VIEWERS")
        async with other.watch(topics="figures") as feed:
            await feed.wait_for("figures")


async def test_what_was_revoked_opens_nothing_a_moment_later(ops: OpsRig) -> None:
    admin, viewer = await ops.somebody("admin"), await ops.somebody("viewer")
    assert (await viewer.get("/api/v1/me")).status == 200
    changed = await admin.ask("PATCH", "/api/v1/operators/viewer-plain", {"disabled": True})
    assert changed.status == 200 and changed.json["disabled_at"]
    assert (await viewer.get("/api/v1/me")).status == 401
    # From another process it shows when what is remembered is looked at again.
    other = await ops.somebody("support")
    assert (await other.get("/api/v1/me")).status == 200
    await ops.operators.change("support-plain", is_disabled=True)
    ops.services.access._clock = lambda: ops.services.clock() + FRESH_S  # type: ignore[method-assign]
    assert (await other.get("/api/v1/me")).status == 401
    me = (await admin.get("/api/v1/me")).json["operator"]
    assert (await admin.ask("PATCH", f"/api/v1/operators/{me}", {"disabled": True})).code == "OWN_ACCOUNT"


async def test_every_answer_forbids_what_a_browser_could_be_talked_into(ops: OpsRig) -> None:
    page = await ops.client().get("/console/")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    for part in ("default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert part in page.headers["content-security-policy"]
    again = await ops.client(headers={"If-None-Match": page.headers["etag"]}).get("/console/")
    assert again.status == 304 and not again.body
    zipped = await ops.client(headers={"Accept-Encoding": "gzip"}).get("/console/")
    assert zipped.headers["content-encoding"] == "gzip" and zipped.headers["etag"] != page.headers["etag"]
    for path in (
        "/console/../app.py",
        "/console/%2e%2e/app.py",
        "/console/..%2f..%2fapp.py",
        "/console/%00",
        "/console/x.py",
    ):
        assert (await ops.client().get(path)).status in (400, 404), path
    for answer in (await ops.client().get("/api/v1/me"), await (await ops.somebody()).get("/api/v1/me")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_bad_input_is_refused_with_what_to_do_and_costs_nobody_anything(ops: OpsRig) -> None:
    viewer = await ops.somebody("viewer")
    for path, query in (
        ("/api/v1/sessions", {"limit": 201}),
        ("/api/v1/sessions", {"sort": "password"}),
        ("/api/v1/sessions", {"near": "91,0,5"}),
        ("/api/v1/sessions", {"near": "nan,0,5"}),
        ("/api/v1/sessions", {"cursor": "!!"}),
        ("/api/v1/sessions", {"state": "asleep"}),
        ("/api/v1/players", {"search": "not hex"}),
        ("/api/v1/players/not-a-uuid", {}),
        (f"/api/v1/players/{uuid.uuid4()}/events", {"from": "yesterday"}),
        (f"/api/v1/players/{uuid.uuid4()}/events", {"cursor": "x"}),
        ("/api/v1/audit", {"player": "me"}),
        ("/api/v1/audit", {"cursor": "WzFd"}),
        ("/api/v1/analytics/completion", {"experience": "--json"}),
        ("/api/v1/analytics/completion", {"database_url": "x"}),
        ("/api/v1/live", {"topics": "everything"}),
        ("/api/v1/live", {"topics": "player"}),
        ("/api/v1/live", {"topics": "events", "filter": "x"}),
    ):
        answer = await viewer.get(path, **query)
        assert (answer.status, answer.code) == (422, "INVALID"), (path, query, answer.body)
    assert (await viewer.get("/api/v1/nothing")).code == "NOT_FOUND"
    assert (await viewer.ask("PUT", "/api/v1/me", {})).code == "METHOD_NOT_ALLOWED"
    assert (await viewer.get("/api/v1/analytics/passwords")).code == "NOT_FOUND"
    assert (await viewer.post("/api/v1/login", b"x" * 70_000)).code == "TOO_LARGE"
    assert (await viewer.post("/api/v1/login", b"{")).code == "INVALID"
    assert (await viewer.get("/api/v1/me")).status == 200


async def test_cursors_and_times_that_somebody_has_written_are_refused_as_input(ops: OpsRig) -> None:
    viewer = await ops.somebody("viewer")
    player, at, one = f"/api/v1/players/{uuid.uuid4()}", "2026-01-01T00:00:00Z", str(uuid.uuid4())
    for path, query in (
        ("/api/v1/bans", {"cursor": make_cursor("yesterday", one)}),
        ("/api/v1/bans", {"cursor": make_cursor(at, "me")}),
        ("/api/v1/bans", {"cursor": make_cursor("0001-01-01T00:00:00+14:00", one)}),
        ("/api/v1/audit", {"cursor": make_cursor(at, "me", at, 1)}),
        ("/api/v1/audit", {"cursor": make_cursor(at, one, at, 2**70)}),
        ("/api/v1/audit", {"cursor": make_cursor(at, one, at, True)}),
        ("/api/v1/audit", {"cursor": "Ww" * 400}),
        ("/api/v1/audit", {"from": "0001-01-01T00:00:00+14:00"}),
        ("/api/v1/audit", {"to": "9999-12-31T23:59:59-14:00"}),
        ("/api/v1/audit", {"operator": "a\0b"}),
        ("/api/v1/players", {"cursor": make_cursor("me")}),
        (f"{player}/connections", {"cursor": make_cursor(2**70)}),
        (f"{player}/sessions", {"cursor": make_cursor(at, "me")}),
        (f"{player}/actions", {"cursor": make_cursor(at, "me", at, 1)}),
        (f"{player}/events", {"experience": "a\0b"}),
        (f"{player}/events", {"from": "9999-12-31T23:59:59-14:00"}),
        (f"{player}/path", {"experience": "a\0b"}),
    ):
        answer = await viewer.get(path, **query)
        assert (answer.status, answer.code) == (422, "INVALID"), (path, query, answer.body)
    failed = await ops.client().post("/api/v1/login", {"name": "a\0b", "password": PASSWORD})
    assert (failed.status, failed.code) == (401, "WRONG_LOGIN")


async def test_a_file_of_the_console_is_kept_once_however_it_is_asked_for(ops: OpsRig) -> None:
    stranger = ops.client()
    for number in range(5):
        assert (await stranger.get(f"/console/no{number}/../index.html")).status == 200
        assert (await stranger.get(f"/console/js/%2e%2e/.//x{number}/%2e%2e/index.html")).status == 200
    kept = [one for one in console_files._kept if one.endswith("index.html")]
    assert len(kept) == 1, kept


async def test_who_does_not_finish_a_request_keeps_no_connection(ops: OpsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_http, "REQUEST_S", 0.3)
    head = b"POST /api/v1/login HTTP/1.1\r\nHost: ::1\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
    live = b"GET /livez HTTP/1.1\r\nHost: ::1\r\n\r\n"
    for whole, begun in ((b"", b""), (b"", head[:20]), (b"", head + b"{"), (live, head[:20])):
        reader, writer = await asyncio.open_connection("127.0.0.1", ops.port)
        async with asyncio.timeout(4):  # sooner than the end of an idle connection
            if whole:
                writer.write(whole)
                await reader.readuntil(b"ok\n")
            writer.write(begun)
            with suppress(ConnectionResetError):
                assert await reader.read(-1) == b""
        writer.close()
    viewer = await ops.somebody("viewer")
    async with viewer.watch(topics="figures") as feed:
        for _ in range(2):  # some seconds: what has arrived may be answered for as long as it takes
            await feed.wait_for("figures")


async def test_who_does_not_read_an_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_http, "UNREAD_S", 0.05)
    aborted = asyncio.Event()

    class Pipe(asyncio.Transport):
        def abort(self) -> None:
            aborted.set()

        def close(self) -> None:
            raise AssertionError("it would wait until what was written is read")

    connection = ops_http._Connection(uvicorn.Config(Starlette(), log_config=None), ServerState(), {})
    connection.connection_made(Pipe())
    connection.pause_writing()
    connection.resume_writing()
    assert connection._unread is None
    connection.pause_writing()
    await asyncio.wait_for(aborted.wait(), 5)
    connection.connection_lost(OSError("gone"))


async def test_the_description_of_the_api_lists_every_path(ops: OpsRig) -> None:
    described = (await ops.client().get("/api/v1/openapi.json")).json["paths"]
    assert {path for _, path in list_routes()} <= set(described)
