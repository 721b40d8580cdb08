"""A player's session on real servers: hello, steps, saved, resume, takeover, leave, and what Redis may forget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import redis.asyncio as redis_asyncio

from persistence.progress_key import ProgressKey
from protocol.closes import CloseCode
from protocol.errors import ErrorCode
from tests.integration.gateway_rig import (
    DEADLINE_S,
    EXPERIENCE,
    Rig,
    hello_frame,
    new_user,
    run_flusher,
    run_rig,
    token,
    update_frame,
)


@pytest.fixture
async def rig(redis_url: str, database_url: str) -> AsyncIterator[Rig]:
    async with run_rig(redis_url, database_url) as running:
        yield running


async def read_events(database_url: str, user_id: str, experience: str = EXPERIENCE) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            """
            select e.* from player_progress_events e
            join experience_progress p on p.id = e.experience_progress_id
            join player_profiles f on f.id = p.player_id
            where f.user_id = $1 and p.experience_id = $2 order by e.version
            """,
            user_id,
            experience,
        )
    finally:
        await connection.close()
    return [dict(row) for row in rows]


async def read_sessions(database_url: str, user_id: str) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("select * from player_sessions where user_id = $1 order by started_at", user_id)
    finally:
        await connection.close()
    return [dict(row) for row in rows]


async def flush_all(redis_url: str) -> None:
    client = redis_asyncio.Redis.from_url(redis_url)
    try:
        await client.flushall()
    finally:
        await client.aclose()


async def eventually(check: Any, deadline_s: float = DEADLINE_S) -> Any:
    """What `check()` gives once it is not empty; for what nobody announces, like rows that a flusher writes."""
    async with asyncio.timeout(deadline_s):
        while True:
            found = await check()
            if found:
                return found
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("codec", ["msgpack", "json"])
async def test_a_step_is_accepted_and_then_saved(rig: Rig, redis_url: str, database_url: str, codec: str) -> None:
    user_id = new_user()
    async with run_flusher(redis_url, database_url), rig.bare(codec) as bare:
        welcome = await bare.hello(user_id=user_id, made=0)
        assert welcome["resumed"] is False and welcome["reason"] == "new"
        assert welcome["seq"] == {"accepted": 0, "saved": 0} and welcome["state"] == {}
        assert welcome["heartbeat_s"] == 5.0 and welcome["window"] == 256
        for seq in (1, 2, 3):
            ack = await bare.accept(seq)
            assert ack["seq"] == seq
        await bare.wait_saved(3)
        await bare.send({"t": "query", "id": "q", "of": "state"})
        result = await bare.wait_for("result")
        assert result["data"]["state"]["distance_meters"] == 4.5
        assert result["data"]["state"]["visited_waypoints"] == ["w1", "w2", "w3"]
    rows = await read_events(database_url, user_id)
    assert [(row["seq"], row["event_type"], row["content_id"]) for row in rows] == [
        (seq, "waypoint_visited", f"w{seq}") for seq in (1, 2, 3)
    ]
    assert rig.node.tally.updates_accepted == 3


async def test_a_resume_after_a_cut_goes_on_with_the_same_session_and_repeats_are_acknowledged_again(rig: Rig) -> None:
    user_id = new_user()
    async with rig.player(user_id) as first:
        await first.accept(1)
        await first.accept(2)
        first.abort()
        async with rig.bare() as second:
            welcome = await second.hello(user_id=user_id, resume=first.resume())
            assert welcome["resumed"] is True and "reason" not in welcome
            assert welcome["session"]["id"] == first.welcome["session"]["id"]
            assert welcome["seq"]["accepted"] == 2
            await second.update(2)
            assert (await second.expect("ack"))["seq"] == 2
            assert (await second.accept(3))["seq"] == 3
    assert rig.node.tally.updates_repeated == 1 and rig.node.tally.resumes == 1


async def test_a_resume_is_valid_without_a_fresh_token_while_the_session_lives(
    rig: Rig, redis_url: str, database_url: str
) -> None:
    user_id = new_user()
    async with run_flusher(redis_url, database_url), rig.player(user_id) as first:
        resume = first.resume()
        async with rig.bare() as second:
            await second.send(hello_frame(resume=resume))
            assert (await second.expect("welcome"))["resumed"] is True
        async with rig.bare() as third:
            await third.send(hello_frame(token=token(user_id, ttl_s=-100), resume=resume))
            assert (await third.expect("welcome"))["resumed"] is True
            await third.send({"t": "leave"})
            assert (await third.wait_for("left"))["saved"] is True
        async with rig.bare() as late:
            await late.send(hello_frame(resume=resume))
            assert (await late.expect("bye"))["code"] == CloseCode.UNAUTHENTICATED
            assert await late.close_code() == CloseCode.UNAUTHENTICATED


async def test_a_newer_connection_takes_over_at_once_and_the_old_one_is_told_so(rig: Rig) -> None:
    user_id = new_user()
    async with rig.player(user_id) as old, rig.player(user_id, device="tablet") as new:
        assert await old.close_code() == CloseCode.REPLACED
        assert (await new.accept(1))["seq"] == 1


async def test_a_takeover_on_another_node_fences_the_old_connection(redis_url: str, database_url: str) -> None:
    user_id = new_user()
    async with (
        run_rig(redis_url, database_url) as a,
        run_rig(redis_url, database_url) as b,
        a.player(user_id) as old,
    ):
        await old.accept(1)
        async with b.bare() as new:
            welcome = await new.hello(user_id=user_id, resume=old.resume())
            assert welcome["resumed"] is True and welcome["seq"]["accepted"] == 1
            await old.update(2)
            assert await old.close_code() == CloseCode.REPLACED
            assert (await new.accept(2))["seq"] == 2


async def test_fifty_hellos_of_one_player_leave_one_connection(rig: Rig) -> None:
    user_id = new_user()

    async def say(number: int) -> int | None:
        async with rig.bare() as bare:
            await bare.send(hello_frame(user_id))
            frame = await bare.receive()
            if frame["t"] == "welcome":
                try:
                    async with asyncio.timeout(2.0):
                        return await bare.close_code()
                except TimeoutError:
                    assert (await bare.accept(frame["seq"]["accepted"] + 1))["seq"] == 1
                    return None
            assert frame["t"] == "bye", frame
            return await bare.close_code()

    outcomes = await asyncio.gather(*(say(number) for number in range(50)))
    assert outcomes.count(None) == 1
    assert set(outcomes) - {None} <= {CloseCode.REPLACED, CloseCode.UNAVAILABLE}


async def test_a_gap_gets_one_error_and_what_is_above_is_ignored_until_the_expected_one_comes(rig: Rig) -> None:
    async with rig.player() as bare:
        await bare.accept(1)
        for seq in (3, 4, 5):
            await bare.update(seq)
        error = await bare.expect("error")
        assert error["code"] == ErrorCode.SEQUENCE_GAP and error["expected"] == 2
        assert (await bare.accept(2))["seq"] == 2
        assert (await bare.accept(3))["seq"] == 3


async def test_a_void_update_uses_its_number_and_is_answered_the_same_again(
    rig: Rig, redis_url: str, database_url: str
) -> None:
    user_id = new_user()
    bad = {"event": {"type": "waypoint_visited"}}
    async with rig.player(user_id) as bare:
        await bare.accept(1)
        ack = await bare.accept(2, **bad)
        assert [(void["seq"], void["code"]) for void in ack["void"]] == [(2, ErrorCode.INVALID_MESSAGE)]
        again = await bare.accept(2, **bad)
        assert again["void"] == ack["void"]
        ack = await bare.accept(3, effects=[{"op": "incr", "path": "visited_waypoints", "value": 1}])
        assert ack["void"][0]["code"] == ErrorCode.INVALID_EFFECT
        ack = await bare.accept(4, effects=[{"op": "set", "path": "mood", "value": "x"}])
        ack = await bare.accept(5, effects=[{"op": "incr", "path": "mood", "value": 1}])
        assert ack["void"][0]["code"] == ErrorCode.INVALID_EFFECT  # found by the script
        ack = await bare.accept(6, skip=True)
        assert ack["void"][0]["seq"] == 6
        async with rig.bare() as second:
            welcome = await second.hello(user_id=user_id, resume=bare.resume())
            assert [void["seq"] for void in welcome["void"]] == [2, 3, 5, 6]
            async with run_flusher(redis_url, database_url):
                await second.wait_saved(6)
            assert "void" not in await second.accept(2, **bad)
    assert [row["seq"] for row in await read_events(database_url, user_id)] == [1, 4]


async def test_a_batch_is_answered_in_order_and_a_window_of_updates_is_taken(rig: Rig, database_url: str) -> None:
    async with rig.player() as bare:
        await bare.send({"t": "batch", "updates": [update_frame(seq) for seq in range(1, 201)]})
        for seq in range(201, 1001):
            await bare.update(seq)
        seen = 0
        while seen < 1000:
            ack = await bare.expect("ack")
            assert ack["seq"] > seen
            seen = ack["seq"]
        assert rig.node.tally.updates_accepted == 1000
        assert rig.node.committer.calls < 100


async def test_leave_is_answered_when_postgres_has_everything(rig: Rig, redis_url: str, database_url: str) -> None:
    user_id = new_user()
    async with run_flusher(redis_url, database_url), rig.player(user_id) as bare:
        await bare.update(1)
        await bare.update(2)
        await bare.send({"t": "leave"})
        assert (await bare.wait_for("left"))["saved"] is True
        assert await bare.close_code() == 1000
    assert [row["seq"] for row in await read_events(database_url, user_id)] == [1, 2]
    sessions = await read_sessions(database_url, user_id)
    assert [session["end_reason"] for session in sessions] == ["left"]
    async with rig.bare() as again:
        welcome = await again.hello(user_id=user_id, resume=bare.resume())
        assert welcome["resumed"] is False and welcome["reason"] == "ended"


async def test_an_abandoned_session_expires_and_its_last_steps_are_flushed(redis_url: str, database_url: str) -> None:
    user_id = new_user()
    async with (
        run_rig(redis_url, database_url, session_expiry_s=1.2, heartbeat_s=0.5, flush_interval_s=30.0) as rig,
        run_flusher(redis_url, database_url),
    ):
        async with rig.player(user_id) as bare:
            await bare.accept(1)
            bare.abort()
        sessions = await eventually(lambda: read_sessions(database_url, user_id))
        await eventually(lambda: read_events(database_url, user_id))
        assert sessions[0]["end_reason"] == "expired"
        assert await rig.hot.find_session(user_id) is None
        async with rig.bare() as again:
            welcome = await again.hello(user_id=user_id, resume=bare.resume())
            assert welcome["resumed"] is False and welcome["reason"] == "expired"
            assert welcome["seq"] == {"accepted": 1, "saved": 1}


async def test_a_session_does_not_expire_under_a_connection_that_speaks(redis_url: str, database_url: str) -> None:
    async with run_rig(redis_url, database_url, session_expiry_s=1.2, heartbeat_s=0.5) as rig, rig.player() as bare:
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            await bare.send({"t": "ping", "at": 1})
            await bare.expect("pong")
            await asyncio.sleep(0.2)
        assert (await bare.accept(1))["seq"] == 1


async def test_another_experience_ends_the_session(rig: Rig, redis_url: str, database_url: str) -> None:
    user_id = new_user()
    async with run_flusher(redis_url, database_url):
        async with rig.player(user_id) as bare:
            await bare.accept(1)
            async with rig.bare() as other:
                welcome = await other.hello(user_id=user_id, experience="west-of-house", resume=bare.resume())
                assert welcome["reason"] == "switched" and welcome["seq"]["accepted"] == 0
                assert await bare.close_code() == CloseCode.REPLACED
                await other.accept(1)
                await other.wait_saved(1)

        async def ended() -> list[str]:
            sessions = await read_sessions(database_url, user_id)
            return [session["end_reason"] for session in sessions if session["end_reason"]]

        assert await eventually(ended) == ["switched"]


async def test_flushall_under_a_live_connection_resyncs_it_and_nothing_is_lost(
    rig: Rig, redis_url: str, database_url: str
) -> None:
    """What was accepted and not yet saved goes with Redis; the client sends it again from its journal."""
    user_id = new_user()
    async with rig.player(user_id) as bare:
        async with run_flusher(redis_url, database_url):
            for seq in (1, 2, 3):
                await bare.accept(seq)
            await bare.wait_saved(3)
        await bare.accept(4)
        await bare.accept(5)
        await flush_all(redis_url)
        await bare.update(6)
        resync = await bare.wait_for("resync")
        assert resync["reason"] == "redis_lost" and resync["seq"] == {"accepted": 3, "saved": 3}
        assert resync["state"]["visited_waypoints"] == ["w1", "w2", "w3"]
        async with run_flusher(redis_url, database_url):
            for seq in (4, 5, 6):
                await bare.accept(seq)
            await bare.wait_saved(6)
            await bare.send({"t": "leave"})
            await bare.wait_for("left")
    assert [row["seq"] for row in await read_events(database_url, user_id)] == [1, 2, 3, 4, 5, 6]
    sessions = await read_sessions(database_url, user_id)
    assert [session["end_reason"] for session in sessions] == ["left"]
    assert rig.node.tally.resyncs == 1


async def test_an_idle_client_notices_a_forgetful_redis_by_its_heartbeat(
    rig: Rig, redis_url: str, database_url: str
) -> None:
    async with rig.player() as bare:
        async with run_flusher(redis_url, database_url):
            await bare.accept(1)
            await bare.wait_saved(1)
        await flush_all(redis_url)
        await bare.send({"t": "ping", "at": 7})
        pong = await bare.wait_for("pong", when=lambda frame: frame["at"] == 7)
        assert "saved" not in pong
        assert (await bare.wait_for("resync"))["reason"] == "redis_lost"
        assert (await bare.accept(2))["seq"] == 2


async def test_a_hello_whose_saved_is_beyond_redis_brings_the_progress_back_from_postgres(
    rig: Rig, redis_url: str, database_url: str
) -> None:
    """Redis came back with an old copy: it knows the stream up to 1, Postgres up to 3."""
    user_id = new_user()
    key = ProgressKey(user_id, EXPERIENCE)
    async with rig.player(user_id) as bare:
        await bare.accept(1)
        client = redis_asyncio.Redis.from_url(redis_url)
        names = [name async for name in client.scan_iter(f"*{user_id}*")]
        old = {name: await client.dump(name) for name in names}
        async with run_flusher(redis_url, database_url):
            await bare.accept(2)
            await bare.accept(3)
            await bare.wait_saved(3)
        bare.abort()
        for name, value in old.items():
            await client.delete(name)
            await client.restore(name, 0, value)
        await client.aclose()
        assert (await rig.hot.find_progress(key)).accepted == {"phone": 1}  # type: ignore[union-attr]
        async with rig.bare() as again:
            welcome = await again.hello(user_id=user_id, saved=3, made=3, resume=bare.resume())
            assert welcome["seq"] == {"accepted": 3, "saved": 3}
            assert welcome["resumed"] is True
            assert (await again.accept(4))["seq"] == 4


async def test_a_rolled_back_redis_resyncs_a_live_connection(rig: Rig, redis_url: str, database_url: str) -> None:
    async with rig.player(user_id := new_user()) as bare:
        await bare.accept(1)
        client = redis_asyncio.Redis.from_url(redis_url)
        names = [name async for name in client.scan_iter(f"*{user_id}*")]
        old = {name: await client.dump(name) for name in names}
        await bare.accept(2)
        await bare.accept(3)
        for name, value in old.items():
            await client.delete(name)
            await client.restore(name, 0, value)
        await client.aclose()
        await bare.update(4)
        resync = await bare.wait_for("resync")
        assert resync["reason"] == "behind" and resync["seq"]["accepted"] == 1
        for seq in (2, 3, 4):
            assert (await bare.accept(seq))["seq"] == seq
    assert rig.node.tally.resyncs == 1


@pytest.mark.parametrize("reason", ["server_behind", "device_behind"])
async def test_a_stream_that_cannot_go_on_is_reset_on_the_same_socket(rig: Rig, reason: str) -> None:
    user_id = new_user()
    async with rig.player(user_id) as first:
        await first.accept(1)
        await first.accept(2)
    claims = {"made": 9, "saved": 5} if reason == "server_behind" else {"made": 1, "saved": 0}
    async with rig.bare() as bare:
        await bare.send(hello_frame(user_id, **claims))
        reset = await bare.expect("stream_reset")
        assert reset == {"t": "stream_reset", "accepted": 2, "reason": reason}
        welcome = await bare.hello(user_id=user_id, device="phone-2", made=0, saved=0)
        assert welcome["seq"] == {"accepted": 0, "saved": 0}
        assert welcome["state"]["visited_waypoints"] == ["w1", "w2"]
        assert (await bare.accept(1, event={"type": "location_reached", "content_id": "x"}))["seq"] == 1
    assert rig.node.tally.stream_resets == 1


async def test_suspend_keeps_a_silent_connection_and_refresh_replaces_the_token(
    redis_url: str, database_url: str
) -> None:
    async with run_rig(redis_url, database_url, heartbeat_s=0.3, session_expiry_s=30) as rig:
        user_id = new_user()
        async with rig.player(user_id) as silent, rig.player() as asleep:
            await asleep.send({"t": "suspend", "expected_s": 5})
            assert (await asleep.expect("suspended"))["expires_s"] == 5
            assert await silent.close_code() == CloseCode.HEARTBEAT_LOST
            assert (await asleep.accept(1))["seq"] == 1
        async with rig.bare() as bare:
            # The leeway of a token is ten seconds; the connection is closed at `exp` itself.
            await bare.hello(token=token(user_id, ttl_s=2))
            await bare.send({"t": "refresh", "token": token(user_id, ttl_s=100)})
            assert 97 <= (await bare.expect("refreshed"))["expires_s"] <= 100
            await bare.send({"t": "refresh", "token": token(new_user())})
            assert (await bare.expect("error"))["code"] == ErrorCode.FORBIDDEN
            await bare.send({"t": "refresh", "token": "x.y.z"})
            assert (await bare.expect("error"))["code"] == ErrorCode.UNAUTHENTICATED
            assert (await bare.accept(1))["seq"] == 1


async def test_a_token_that_runs_out_ends_the_connection(rig: Rig) -> None:
    async with rig.bare() as bare:
        await bare.hello(token=token(new_user(), ttl_s=1))
        bye = await bare.wait_for("bye")
        assert bye["code"] == CloseCode.TOKEN_EXPIRED
        assert await bare.close_code() == CloseCode.TOKEN_EXPIRED


async def test_bad_tokens_are_refused_by_bye_and_a_code(rig: Rig) -> None:
    import jwt

    user_id = new_user()
    now = int(time.time())
    payload = {"sub": user_id, "iat": now, "exp": now + 60}
    bad = {
        "nothing": None,
        "garbage": "abc",
        "none": jwt.encode(payload, None, algorithm="none"),
        "wrong key": jwt.encode(payload, b"another secret that is long enough too", algorithm="HS256"),
        "no exp": jwt.encode({"sub": user_id, "iat": now}, b"a secret of the tests that is long enough"),
        "sub is no UUID": token("bob"),
        "sub is a number": token(user_id, sub=12),
        "far exp": token(user_id, exp=10**18),
        "early": token(user_id, iat=now + 1000),
        "not yet": token(user_id, nbf=now + 1000),
        "wrong experience": token(user_id, experiences=["elsewhere"]),
        "experiences is text": token(user_id, experiences="all"),
    }
    for name, value in bad.items():
        async with rig.bare() as bare:
            await bare.send(hello_frame(token=value))
            bye = await bare.expect("bye")
            assert bye["code"] == CloseCode.UNAUTHENTICATED, (name, bye)
            assert await bare.close_code() == CloseCode.UNAUTHENTICATED
    async with rig.bare() as bare:
        await bare.send(hello_frame(token=token(user_id, ttl_s=-60)))
        assert (await bare.expect("bye"))["code"] == CloseCode.TOKEN_EXPIRED
    async with rig.bare() as bare:
        await bare.hello(token=token(user_id, experiences=["elsewhere", EXPERIENCE]))


async def test_frames_before_a_welcome_get_an_error_and_a_silent_socket_is_closed(
    redis_url: str, database_url: str
) -> None:
    async with run_rig(redis_url, database_url, hello_timeout_s=0.5) as rig, rig.bare() as bare:
        for frame in (update_frame(1), {"t": "ping", "at": 1}, {"t": "leave"}, {"t": "suspend", "expected_s": 1}):
            await bare.send(frame)
            assert (await bare.expect("error"))["code"] == ErrorCode.NOT_IN_SESSION
        bye = await bare.expect("bye")
        assert bye["code"] == CloseCode.HELLO_TIMEOUT
        assert await bare.close_code() == CloseCode.HELLO_TIMEOUT


async def test_hello_twice_is_an_error_and_the_session_goes_on(rig: Rig) -> None:
    async with rig.player() as bare:
        await bare.send(hello_frame(new_user()))
        assert (await bare.expect("error"))["code"] == ErrorCode.NOT_IN_SESSION
        assert (await bare.accept(1))["seq"] == 1


async def test_queries(rig: Rig, redis_url: str, database_url: str) -> None:
    async with run_flusher(redis_url, database_url), rig.player() as bare:

        async def ask(of: str, **args: Any) -> Any:
            await bare.send({"t": "query", "id": of, "of": of, "args": args})
            result = await bare.wait_for("result")
            assert result["id"] == of
            return result["data"]

        await bare.accept(1)
        await bare.accept(2, event={"type": "item_collected", "content_id": "lamp"})
        await bare.wait_saved(2)
        assert await ask("inventory") == {"items": ["lamp"]}
        assert await ask("visited") == {"waypoints": ["w1"]}
        assert await ask("visited", waypoint="w1") == {"visited": True}
        assert await ask("visited", waypoint="w2") == {"visited": False}
        assert (await ask("state"))["state"]["inventory"] == ["lamp"]
        assert (await ask("leaderboard", board="distance"))["me"]["score"] == 1.5
        assert (await ask("profile"))["total_distance_meters"] == 1.5
        page = await ask("history", limit=1)
        assert [event["event_type"] for event in page["events"]] == ["item_collected"]
        page = await ask("history", limit=5, cursor=page["cursor"])
        assert [event["content_id"] for event in page["events"]] == ["w1"] and page["cursor"] is None
        await bare.send({"t": "query", "id": "x", "of": "history", "args": {"cursor": "none"}})
        assert (await bare.expect("error"))["code"] == ErrorCode.INVALID_MESSAGE


async def test_too_much_pending_gets_one_202_and_goes_on_after_a_flush(redis_url: str, database_url: str) -> None:
    async with run_rig(redis_url, database_url, pending_updates_max=5) as rig, rig.player() as bare:
        for seq in range(1, 11):
            await bare.update(seq)
        error = await bare.wait_for("error")
        assert error["code"] == ErrorCode.OVERLOADED and error["retry_after_ms"] > 0
        held = error["seq"]
        async with run_flusher(redis_url, database_url):
            await bare.wait_saved(held - 1)
            assert (await bare.accept(held))["seq"] == held


async def test_updates_beyond_the_rate_get_200_with_a_time_to_wait(redis_url: str, database_url: str) -> None:
    async with run_rig(redis_url, database_url, updates_per_s=20, updates_burst=5) as rig, rig.player() as bare:
        for seq in range(1, 9):
            await bare.update(seq)
        error = await bare.wait_for("error")
        assert error["code"] == ErrorCode.RATE_LIMITED and 0 < error["retry_after_ms"] <= 60
        await asyncio.sleep(error["retry_after_ms"] / 1000)
        assert (await bare.accept(error["seq"]))["seq"] == error["seq"]


async def test_times_of_events_are_corrected_by_the_clock_of_the_device_and_bounded(
    rig: Rig, redis_url: str, database_url: str
) -> None:
    user_id = new_user()
    now_ms = round(time.time() * 1000)
    ahead_ms = 3_600_000
    day_ms = 86_400_000
    event = {"type": "location_reached", "content_id": "x"}
    async with run_flusher(redis_url, database_url), rig.player(user_id, at=now_ms + ahead_ms) as bare:
        await bare.accept(1, event=event | {"at": now_ms + ahead_ms - 60_000})
        await bare.accept(2, event=event | {"at": now_ms - 400 * day_ms})
        await bare.accept(3, event=event | {"at": now_ms + 400 * day_ms})
        await bare.accept(4, event=event)
        await bare.wait_saved(4)
    rows = await read_events(database_url, user_id)
    found = [round(row["timestamp"].timestamp() * 1000) - now_ms for row in rows]
    assert abs(found[0] + 60_000) < 5_000
    assert abs(found[1] + 90 * day_ms) < 10_000
    assert abs(found[2] - 300_000) < 10_000
    assert abs(found[3]) < 10_000


async def test_drain_tells_everybody_and_closes_everybody_in_time(redis_url: str, database_url: str) -> None:
    async with run_rig(redis_url, database_url, drain_s=0.5) as rig:
        async with rig.player() as first, rig.player() as second:
            await first.accept(1)
            await rig.node.drain(asyncio.Event())
            for bare in (first, second):
                await bare.expect("drain")
                assert (await bare.expect("bye"))["code"] == CloseCode.DRAINING
                assert await bare.close_code() == CloseCode.DRAINING
        async with rig.bare() as late:
            await late.send(hello_frame(new_user()))
            assert (await late.expect("bye"))["code"] == CloseCode.DRAINING


async def test_a_fault_of_ours_costs_one_connection_and_is_resumable(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    user_id = new_user()
    async with rig.player(user_id) as bare, rig.player() as canary:
        monkeypatch.setattr("gateway.sessions.intake.compile_update", lambda *_: 1 / 0)
        await bare.update(1)
        assert await bare.close_code() == CloseCode.UNAVAILABLE
        monkeypatch.undo()
        assert (await canary.accept(1))["seq"] == 1
        async with rig.bare() as again:
            assert (await again.hello(user_id=user_id, resume=bare.resume()))["resumed"] is True


async def test_a_group_the_store_cannot_take_costs_only_its_own_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_updates = rig.hot.apply_updates

    async def poisoned(groups: Any) -> Any:
        if any(b"poison" in group.header and group.updates for group in groups):
            raise ValueError("poison")
        return await apply_updates(groups)

    monkeypatch.setattr(rig.hot, "apply_updates", poisoned)
    async with rig.player(device="poison") as bare, rig.player() as canary:
        await asyncio.gather(bare.update(1), canary.update(1))
        assert (await canary.expect("ack"))["seq"] == 1
        assert await bare.close_code() == CloseCode.UNAVAILABLE


async def test_saved_comes_by_itself(rig: Rig, redis_url: str, database_url: str) -> None:
    async with run_flusher(redis_url, database_url), rig.player() as bare:
        await bare.accept(1)
        assert (await bare.wait_for("saved"))["seq"] == 1


async def test_a_durable_update_is_flushed_at_once(redis_url: str, database_url: str) -> None:
    async with (
        run_rig(redis_url, database_url, flush_interval_s=60.0) as rig,
        run_flusher(redis_url, database_url),
        rig.player() as bare,
    ):
        await bare.accept(1, durable=True)
        assert (await bare.wait_for("saved"))["seq"] == 1
