"""The application: every route, what guards them, and how errors are answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

import loraloom

from . import (
    adapters,
    documents,
    dropin,
    failures,
    images,
    jobs,
    mixes,
    models,
    operations,
    page,
    results,
    videos,
)
from .guard import Guard, Hosts
from .keys import Keys
from .metrics import Counted

if TYPE_CHECKING:
    from fastapi import APIRouter

    from .service import Service

ROUTERS: tuple[APIRouter, ...] = (
    images.router,
    videos.router,
    jobs.router,
    results.router,
    adapters.router,
    mixes.router,
    models.router,
    dropin.router,
    operations.router,
    page.router,
)


def create_app(service: Service) -> FastAPI:
    """The application of one service; the engine is started and stopped by who made it."""
    app = FastAPI(
        title="Loraloom",
        version=loraloom.__version__,
        description="Pictures and videos, wearing any LoRA adapters that a request names.",
        docs_url=None,  # both pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
    )
    keys = Keys.read(service.settings)
    app.state.service = service
    app.state.keys = keys
    app.add_middleware(
        Guard,
        keys=keys,
        hosts=Hosts.of(service.settings, keys=keys.wanted),
        most_bytes=service.settings.max_upload,
    )
    app.add_middleware(Counted, metrics=service.metrics)
    for router in ROUTERS:
        app.include_router(router)
    failures.install(app, [route for router in ROUTERS for route in router.routes])
    documents.document(app)
    return app
