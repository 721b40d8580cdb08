"""Which upgrade requests are answered how; classes B01 to B19 of bad input."""

from __future__ import annotations

import random

import pytest

from gateway.sessions.token_bucket import TokenBucket
from gateway.sockets.admission import Admission, address_of
from gateway.sockets.handshake import Origins
from tests.unit.sockets.socket_rig import KEY, frame, request, run_sockets

UPGRADES = {
    "plain": (request(), 101),
    "B19 unknown subprotocol": (request("chat"), 101),
    "query is ignored": (request(path="/v1/play?version=3"), 101),
    "no browser, no origin": (request(), 101),
    "own host": (request(headers=(("Origin", "http://game.example"),)), 101),
    "B01 no key": (request(without=("Sec-WebSocket-Key",)), 400),
    "B01 short key": (request(without=("Sec-WebSocket-Key",), headers=(("Sec-WebSocket-Key", "YWJj"),)), 400),
    "B01 two keys": (request(headers=(("Sec-WebSocket-Key", KEY),)), 400),
    "B02 version 8": (
        request(without=("Sec-WebSocket-Version",), headers=(("Sec-WebSocket-Version", "8"),)),
        400,
    ),
    "B03 POST": (request(method="POST"), 405),
    "B04 HTTP/1.0": (request(version="HTTP/1.0"), 505),
    "B05 no upgrade": (request(without=("Upgrade", "Connection")), 426),
    "B06 foreign origin": (request(headers=(("Origin", "https://evil.com"),)), 403),
    "B07 origin null": (request(headers=(("Origin", "null"),)), 403),
    "B08 suffix": (request(headers=(("Origin", "http://game.example.evil.com"),)), 403),
    "B09 two origins": (request(headers=(("Origin", "http://game.example"),) * 2), 400),
    "B10 129 headers": (request(headers=tuple((f"X-{n}", "1") for n in range(129))), 431),
    "B10 a long header": (request(headers=(("X-Long", "x" * 9000),)), 431),
    "B11 a long path": (request(path="/v1/play?" + "x" * 9000), 414),
    "B12 folded header": (request().replace(b"Upgrade: websocket", b"Upgrade:\r\n websocket"), 0),
    "B12 NUL in a name": (request(headers=(("X\0Y", "1"),)), 0),
    "B12 space in a name": (request(headers=(("X Y", "1"),)), 0),
    "B13 GET with a body": (request(headers=(("Content-Length", "5"),)) + b"hello", 0),
    "B13 chunked": (request(headers=(("Transfer-Encoding", "chunked"),)), 0),
    "B14 TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\n", 0),
    "B14 HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
    "B14 random bytes": (random.Random(1).randbytes(300) + b"\r\n\r\n", 0),
    "B17 another path": (request(path="/"), 404),
    "B17 dots": (request(path="/../../etc/passwd"), 404),
    "B17 absolute": (request(path="http://game.example/v1/play"), 404),
    "B17 prefix": (request(path="/v1/play/"), 404),
    "B90 token in the URL": (request(path="/v1/play?token=abc"), 400),
    "frames before our answer": (request() + frame(b"too soon"), 0),
}


@pytest.mark.parametrize("name", UPGRADES)
async def test_upgrade(name: str) -> None:
    data, status = UPGRADES[name]
    async with run_sockets() as rig, rig.opened() as canary, rig.raw() as raw:
        await raw.send(data)
        got, headers = await raw.read_response()
        assert got == status
        if status == 101:
            assert "sec-websocket-extensions" not in headers
        else:
            assert "server" not in headers
            await raw.read_end()
        await canary.send(frame(b"still here"))
        assert await canary.read_frame() == (2, b"still here")


@pytest.mark.parametrize(
    ("offered", "chosen", "codec"),
    [
        (None, None, "json"),
        ("chat", None, "json"),
        ("wayhold.v1.json", "wayhold.v1.json", "json"),
        ("wayhold.v1.msgpack", "wayhold.v1.msgpack", "msgpack"),
        ("chat, wayhold.v1.json, wayhold.v1.msgpack", "wayhold.v1.msgpack", "msgpack"),
    ],
)
async def test_the_subprotocol_chooses_the_codec(offered: str | None, chosen: str | None, codec: str) -> None:
    async with run_sockets() as rig, rig.raw() as raw:
        status, headers = await raw.shake_hands(offered)
        assert status == 101 and headers.get("sec-websocket-protocol") == chosen
        assert rig.echoes[0].codec.name == codec


async def test_compression_is_not_negotiated() -> None:
    async with run_sockets() as rig, rig.raw() as raw:
        status, headers = await raw.shake_hands(headers=(("Sec-WebSocket-Extensions", "permessage-deflate"),))
        assert status == 101 and "sec-websocket-extensions" not in headers


@pytest.mark.parametrize("data", [b"", b"GET /v1/play HTTP/1.1\r\nHost: x\r\nX-Slow: "], ids=["B15", "B16"])
async def test_a_socket_that_does_not_finish_its_handshake_is_closed(data: bytes) -> None:
    async with run_sockets(hello_timeout_s=0.3) as rig, rig.raw() as raw:
        if data:
            await raw.send(data)
        await raw.read_end()


async def test_floods_are_refused_with_a_time_to_come_back() -> None:
    async with run_sockets(connections_per_address_max=2) as rig, rig.opened(), rig.opened() as second:
        async with rig.raw() as third:
            status, headers = await third.shake_hands()
            assert status == 503 and 1 <= int(headers["retry-after"]) <= 5
            await third.read_end()
        await rig.left(2)
        second.writer.transport.abort()
        await second.echo.until(lambda echo: echo.is_disconnected)
        await rig.left(1)
        async with rig.opened():
            pass
        assert rig.server.refused == 1


async def test_more_connections_than_the_process_takes_may_still_ask_and_are_told_by_the_session() -> None:
    async with run_sockets(connections_max=1) as rig, rig.opened(), rig.raw() as second:
        assert (await second.shake_hands())[0] == 101


async def test_handshakes_are_counted_per_second() -> None:
    async with run_sockets(handshakes_per_s=1) as rig:
        statuses = []
        for _ in range(4):
            async with rig.raw() as raw:
                statuses.append((await raw.shake_hands())[0])
        assert statuses[:2] == [101, 101] and 503 in statuses[2:]


def test_admission_counts_what_leaves() -> None:
    admission = Admission(connections_max=10, connections_per_address_max=2, handshakes_per_s=1000, clock=lambda: 0.0)
    for _ in range(3):
        assert admission.enter("a")
    assert admission.find_refusal("a") == "too many connections from this address"
    admission.leave("a")
    assert admission.find_refusal("a") is None
    for _ in range(40):
        admission.enter("b")
    assert not admission.enter("c")
    assert admission.is_nearly_full


def test_a_bucket_lets_a_burst_through_then_a_rate_and_names_the_wait() -> None:
    bucket = TokenBucket(10, 3, 0.0)
    assert [bucket.take(1, 0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s() == pytest.approx(0.1)
    assert bucket.take(1, 0.11)
    assert not bucket.take(1, 0.11)
    assert bucket.take(5, 0.35), "a helping larger than what is left may be taken once"
    assert not bucket.take(1, 0.5)


@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("10.0.0.1", 5), "10.0.0.1"),
        (("::ffff:10.0.0.1", 5, 0, 0), "10.0.0.1"),
        (("2001:db8:1:2:3::4", 5, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:9::9", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 0), "fe80::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_one_host_is_one_address(peername: object, address: str) -> None:
    assert address_of(peername) == address


def test_origins_are_exact() -> None:
    named = Origins.parse("https://game.example, http://localhost:3000/")
    assert named.allows("https://game.example", "x") and named.allows("HTTPS://Game.Example", "x")
    assert named.allows("http://localhost:3000", "x")
    for foreign in (
        "https://game.example.evil.com",
        "http://game.example",
        "null",
        "https://x",
        "http://localhost:3001",
    ):
        assert not named.allows(foreign, "x")
    assert Origins.parse("*").allows("https://anything", "x")
    own = Origins.parse("")
    assert own.allows("http://127.0.0.1:7400", "127.0.0.1:7400") and own.allows("https://game.example", "game.example")
    for foreign in ("http://127.0.0.1:7401", "null", "", "file://127.0.0.1:7400"):
        assert not own.allows(foreign, "127.0.0.1:7400")
    assert not own.allows("http://", "")
