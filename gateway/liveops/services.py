"""
What the requests of this process share. Built by the composition root, found at `request.app.state.services`.

    services: Annotated[Services, Depends(get_services)]
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Request

from gateway.liveops.access import Access
from gateway.liveops.limits import LoginLimits
from gateway.liveops.live.hub import LiveHub
from gateway.liveops.precise import PreciseLooks
from gateway.liveops.setup_key import SetupKey
from gateway.telemetry.health import Readiness
from gateway.telemetry.node_report import NodeReport
from persistence.analytics import Analytics
from persistence.cold.store import ColdStore
from persistence.errors import PersistenceError
from persistence.hot.store import HotStore
from persistence.operators import Operators
from persistence.player_progress import PlayerProgress
from protocol.experience import ExperienceDefinition

HEALTH_S = 2.0


@dataclass
class Services:
    hot: HotStore
    cold: ColdStore
    analytics: Analytics
    progress: PlayerProgress
    operators: Operators
    access: Access
    redis_url: str
    database_url: str
    definitions: Mapping[str, ExperienceDefinition]
    clock: Callable[[], float]
    hub: LiveHub
    ask_health: Callable[[], Awaitable[dict[str, str]]]
    """Whether the stores answer: {"redis": "ok" | "error", "postgresql": …}."""
    answer_analytics: Callable[[str, Mapping[str, str]], Awaitable[dict[str, Any]]]
    """What `wayhold analytics QUESTION --json` says. Raises CommandError with what was wrong."""
    judge: Callable[[], Readiness]
    list_reports: Callable[[], list[NodeReport]]
    is_production: bool
    version: str
    setup_key: SetupKey
    """Opens POST /api/v1/setup while there is no operator."""
    data_dir: Path | None = None
    precise_looks: PreciseLooks = field(default_factory=PreciseLooks)
    health_due: float = float("-inf")
    logins: LoginLimits = field(init=False)
    extras: dict[str, Any] = field(default_factory=dict)
    """What a part that plugs in keeps here under its own name (`actions`)."""

    def __post_init__(self) -> None:
        self.logins = LoginLimits(self.clock)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def refresh_health(self) -> None:
        """Into the hub's figures: what only the stores know, asked at most every `HEALTH_S`. Never raises."""
        now = self.clock()
        if now < self.health_due:
            return
        self.health_due = now + HEALTH_S
        stores = await self.ask_health()
        readiness = self.judge()
        is_healthy = stores["redis"] == stores["postgresql"] == "ok"
        health = {
            **stores,
            "status": "healthy" if is_healthy and readiness.is_ready else "degraded",
            "is_ready": readiness.is_ready,
            "reasons": readiness.reasons,
        }
        quarantined: int | None = None
        with suppress(PersistenceError):
            quarantined = await self.hot.count_quarantined()
        self.hub.extra = {"health": health, "quarantined": quarantined}


async def get_services(request: Request) -> Services:
    """Async only so that the framework calls it here: a plain function it hands to a thread, and waits for that."""
    services: Services = request.app.state.services
    return services
