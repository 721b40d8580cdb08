"""Export and erase as an operator does them, on a running `dev`: afterwards no file of ours names the player."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.dev_rig import RunningDev, run_dev
from tests.integration.gateway_rig import Bare
from tests.stores.grep_stores import grep_postgres, grep_redis

pytestmark = pytest.mark.slow

PLAYER = str(uuid.UUID(int=0x1234567890ABCDEF1234567890ABCDEF, version=4))
DEVICE = "phone-of-the-erased"


@pytest.fixture(scope="module")
def dev() -> Iterator[RunningDev]:
    with run_dev() as running:
        yield running


def grep_files(folder: Path, *needles: str) -> list[str]:
    """Every file below, but for the tables of Postgres: what becomes of those is not ours to say."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_relative_to(folder / "postgres"):
            raw = path.read_bytes() + str(path.relative_to(folder)).encode()
            found += [
                f"{path.relative_to(folder)}: {needle}"
                for needle in needles
                if any(one in raw for one in (needle.encode(), needle.replace("-", "").encode()))
                or (len(needle) == 36 and uuid.UUID(needle).bytes in raw)
            ]
    return found


async def say_hello(dev: RunningDev, token: str, device: str, made: int = 0, saved: int = 0) -> dict[str, object]:
    from websockets.asyncio.client import connect

    from protocol.codec import codec_named
    from tests.integration.gateway_rig import hello_frame

    codec = codec_named("json")
    async with connect(dev.ready()["play_url"], subprotocols=[codec.subprotocol], compression=None) as client:
        bare = Bare(client, codec)
        await bare.send(hello_frame(token=token, device=device, made=made, saved=saved))
        return await bare.expect("welcome", "stream_reset", "bye")


def test_export_erase_and_no_file_names_the_player(dev: RunningDev, tmp_path: Path) -> None:
    walked = dev.run("walk", "--fast", "--player", PLAYER, "--device", DEVICE)
    assert walked.returncode == 0, walked.stderr
    token = dev.run("token", "--player", PLAYER).stdout.strip()
    # A log names the player, as it may when something goes wrong; a walk was cut off and left its journal.
    with (dev.data_dir / "logs" / "gateway-1.log").open("a") as log:
        log.write(f"progress={PLAYER}:wylding-woods\n")
    (dev.data_dir / "walk").mkdir(exist_ok=True)
    (dev.data_dir / "walk" / f"{PLAYER}.journal").write_text(DEVICE)
    assert {line.split("/")[0] for line in grep_files(dev.data_dir, PLAYER)} == {"logs", "valkey", "walk"}

    output = tmp_path / "player.json"
    exported = dev.run("export", PLAYER, "--output", str(output))
    assert exported.returncode == 0, exported.stderr
    assert output.stat().st_mode & 0o777 == 0o600
    (progress,) = json.loads(output.read_text())["progress"]
    assert len(progress["events"]) > 40 and progress["streams"][0]["device_id"] == DEVICE
    assert json.loads(dev.run("export", PLAYER).stdout)["progress"] == [progress]
    unknown = dev.run("export", str(uuid.uuid4()))
    assert unknown.returncode == 1 and "nothing is known" in unknown.stderr

    erased = dev.run("erase", PLAYER, "--yes", "--json")
    assert erased.returncode == 0, erased.stderr
    assert json.loads(erased.stdout)["tidied"] == ["append-only file", "tables", "logs", "walks"]
    ready = dev.ready()
    assert asyncio.run(grep_postgres(ready["database_url"], [PLAYER, DEVICE])) == []
    assert asyncio.run(grep_redis(ready["redis_url"], [PLAYER, DEVICE])) == []
    assert grep_files(dev.data_dir, PLAYER, DEVICE) == []
    assert dev.run("export", PLAYER).returncode == 1

    # The phone that comes back is refused, and its coming leaves no trace either.
    assert asyncio.run(say_hello(dev, token, DEVICE))["code"] == 4204
    assert grep_files(dev.data_dir, PLAYER) == []
    newer = dev.run("token", "--player", PLAYER).stdout.strip()
    for _ in range(50):  # tokens tell whole seconds: one of the second of the erase is too old
        welcome = asyncio.run(say_hello(dev, newer, "a-new-phone"))
        if welcome["t"] == "welcome":
            break
        newer = dev.run("token", "--player", PLAYER).stdout.strip()
    assert welcome["t"] == "welcome" and (welcome["state"], welcome["seq"]) == ({}, {"accepted": 0, "saved": 0})
