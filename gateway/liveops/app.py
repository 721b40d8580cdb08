"""
The app of the ops port: health and metrics for anybody who reaches it, the API for operators, the console's files.

`ROUTERS` is the table of the parts. A part is an `APIRouter` whose paths begin with /api/v1/ and whose endpoints depend
on `require_role(…)`; a test walks all of them as somebody who may not.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute

from gateway.liveops import console_files
from gateway.liveops.errors import install_error_handlers
from gateway.liveops.guards import Guards
from gateway.liveops.hosts import Hosts
from gateway.liveops.routes import accounts, actions, data, live, players, search
from gateway.liveops.services import Services

ROUTERS: tuple[APIRouter, ...] = (
    accounts.router,
    actions.router,
    live.router,
    players.router,
    search.router,
    data.router,
    console_files.router,
)


def make_app(services: Services, health_routes: Sequence[BaseRoute], hosts: Hosts) -> FastAPI:
    app = FastAPI(
        title="Wayhold live-ops",
        version=services.version,
        summary="See every active player, help any of them, break nothing.",
        openapi_url="/api/v1/openapi.json",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    app.router.routes.extend(health_routes)
    for router in ROUTERS:
        app.include_router(router)
    install_error_handlers(app)
    app.add_middleware(Guards, hosts=hosts)
    return app
