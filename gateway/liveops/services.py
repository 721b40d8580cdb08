"""
What the requests of this process share. Built by the composition root, found at `request.app.state.services`.

    services: Annotated[Services, Depends(get_services)]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Request

from gateway.liveops.access import Access
from gateway.liveops.limits import Attempts
from gateway.telemetry.health import Readiness
from gateway.telemetry.node_report import NodeReport
from persistence.analytics import Analytics
from persistence.cold.store import ColdStore
from persistence.hot.store import HotStore
from persistence.operators import Operators
from persistence.player_progress import PlayerProgress
from protocol.experience import ExperienceDefinition


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
    judge: Callable[[], Readiness]
    list_reports: Callable[[], list[NodeReport]]
    is_production: bool
    version: str
    setup_key: str
    """Opens POST /api/v1/setup while there is no operator. Empty: nothing does."""
    data_dir: Path | None = None
    login_by_name: Attempts = field(init=False)
    login_by_address: Attempts = field(init=False)
    extras: dict[str, Any] = field(default_factory=dict)
    """What a part that plugs in keeps here under its own name (`actions`)."""

    def __post_init__(self) -> None:
        self.login_by_name = Attempts(8, 15.0, self.clock)
        self.login_by_address = Attempts(30, 4.0, self.clock)


def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services
