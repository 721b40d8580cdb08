"""
The Lua scripts as files, loaded once. A script's name is the name of its operation everywhere. What several scripts do
alike is a part of its own: the line `-- include NAME` stands for `lua/parts/NAME.lua`.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import redis.asyncio as redis_asyncio
from redis.commands.core import AsyncScript

NAMES = (
    "apply_updates",
    "apply_action",
    "push",
    "list_pushes",
    "reset_pushes",
    "trim_pushes",
    "open_session",
    "end_session",
    "install",
    "install_device",
    "claim_due",
    "settle",
    "discard_if_diverged",
    "discard_if_base",
    "forget",
    "quarantine",
    "release_quarantine",
    "make_due",
    "sum_pending",
    "purge_player",
    "note_active_players",
    "open_board",
    "fill_board",
    "note_scores",
    "note_ban",
)


_INCLUDE = re.compile(r"^-- include (\w+)$", re.MULTILINE)


def source(name: str) -> str:
    folder = resources.files("persistence.hot") / "lua"
    return _INCLUDE.sub(
        lambda found: (folder / "parts" / f"{found[1]}.lua").read_text(), (folder / f"{name}.lua").read_text()
    )


def register_all(client: redis_asyncio.Redis) -> dict[str, AsyncScript]:
    """Scripts that send their SHA and load themselves again when Redis has forgotten them (any restart does that)."""
    registered: dict[str, Any] = {name: client.register_script(source(name)) for name in NAMES}
    return registered
