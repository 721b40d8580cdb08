"""Sockets are tried on both event loops: production runs uvloop, and a platform without it must not differ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop
except ImportError:
    pass


# Optional: a pytest-asyncio from before this hook runs everything on asyncio's own loop.
@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return LOOPS
