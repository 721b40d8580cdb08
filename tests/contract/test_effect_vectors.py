"""Every effect vector: compiled, applied and read back as its state says, or void with its code and nothing changed."""

import json
from typing import Any

import msgpack
import pytest

from protocol.effects import compile_update
from protocol.errors import VoidUpdate
from protocol.events import KNOWN_EVENTS
from protocol.state import apply_ops, document, join_state, split_state
from tests.contract.vectors import load_vectors

VECTORS = load_vectors("effects.json")["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_effect_vector(vector: dict[str, Any]) -> None:
    fields: dict[str, Any] = dict(split_state(json.dumps(vector["before"]), json.dumps(vector.get("kinds_before", {}))))
    before = dict(fields)
    update = read_update(vector)
    if "void" in vector:
        with pytest.raises(VoidUpdate) as refused:
            apply_ops(fields, compile_update(update.get("event"), update.get("effects")).ops)
        assert refused.value.code == vector["void"]
        assert len(refused.value.message) <= 200
        assert fields == before
        return
    apply_ops(fields, compile_update(update.get("event"), update.get("effects")).ops)
    state_json, kinds_json = join_state(fields)
    assert spelled(document(fields)) == spelled(vector["after"])
    assert spelled(json.loads(state_json)) == spelled(vector["after"])
    assert json.loads(kinds_json) == vector.get("kinds_after", vector.get("kinds_before", {}))
    assert split_state(state_json, kinds_json) == fields


def test_every_known_event_has_vectors_that_work_and_vectors_that_do_not() -> None:
    worked = {event_type(vector) for vector in VECTORS if "after" in vector}
    refused = {event_type(vector) for vector in VECTORS if vector.get("void") == 102}
    assert worked >= set(KNOWN_EVENTS)
    assert refused >= {name for name, known in KNOWN_EVENTS.items() if known.needs_content_id}


def test_every_op_and_every_void_code_has_vectors() -> None:
    ops = {
        effect["op"] for vector in VECTORS if "after" in vector for effect in read_update(vector).get("effects") or ()
    }
    assert ops == {"set", "unset", "incr", "max", "add", "remove"}
    assert {vector["void"] for vector in VECTORS if "void" in vector} == {102, 105, 106}


def read_update(vector: dict[str, Any]) -> dict[str, Any]:
    update: dict[str, Any] = (
        msgpack.unpackb(bytes.fromhex(vector["update_msgpack"])) if "update_msgpack" in vector else vector["update"]
    )
    return update


def event_type(vector: dict[str, Any]) -> str | None:
    event = read_update(vector).get("event")
    kind = event.get("type") if isinstance(event, dict) else None
    return kind if isinstance(kind, str) else None


def spelled(state: dict[str, Any]) -> str:
    """Equal only if numbers are equal in type too: 5 is not 5.0, and 1 is not true."""
    return json.dumps(state, sort_keys=True)
