"""Every effect vector through the real script: what any client computes from the vectors is what the hot store does."""

from __future__ import annotations

import json
import uuid
from importlib import resources
from typing import Any

import msgpack
import pytest

from persistence.cold.shapes import ColdProgress
from persistence.hot.shapes import Outcome
from protocol.state import document, split_state
from tests.stores.conftest import Stores

VECTORS = json.loads((resources.files("protocol") / "vectors" / "effects.json").read_text())["vectors"]


@pytest.mark.timeout(120)
async def test_script_does_what_every_vector_says(stores: Stores) -> None:
    wrong = [line for vector in VECTORS if (line := await compare(stores, vector))]
    assert not wrong, "\n".join(wrong)
    assert len(VECTORS) > 100


async def compare(stores: Stores, vector: dict[str, Any]) -> str | None:
    """None when the script agrees, else what it did instead."""
    update = vector["update"] if "update" in vector else msgpack.unpackb(bytes.fromhex(vector["update_msgpack"]))
    before, kinds = json.dumps(vector["before"]), json.dumps(vector.get("kinds_before", {}))
    player = stores.player(user_id=str(uuid.uuid4()))
    started_ms = await stores.hot.time_ms()
    cold = ColdProgress(player.key, uuid.uuid4().hex, 0, "0" * 32, before, kinds, player.device, 0)
    await stores.hot.install(cold, started_ms)
    await player.hello_without_hydrate()
    verdict = await player.send(player.make(update.get("event"), update.get("effects")))
    assert verdict.outcome is Outcome.OK
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None
    codes = [code for _, code, _ in verdict.voids]
    if "void" in vector:
        if codes != [vector["void"]] or progress.fields != split_state(before, kinds):
            return f"{vector['name']}: void {vector['void']} expected, was {codes}, {progress.fields}"
        return None
    if codes or spelled(document(progress.fields)) != spelled(vector["after"]):
        return f"{vector['name']}: {vector['after']} expected, was {codes}, {document(progress.fields)}"
    return None


def spelled(state: dict[str, Any]) -> str:
    return json.dumps(state, sort_keys=True)
