"""The vectors of `protocol/vectors`, read as a client in any language would read them."""

import json
from importlib.resources import files
from typing import Any


def load_vectors(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((files("protocol") / "vectors" / name).read_text(encoding="utf-8"))
    assert loaded["format"] == 1
    return loaded
