"""What machines ask a server: whether it lives, is ready, what it counts, and how to deploy it."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from fastapi import APIRouter, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.responses import Response

import loraloom
from loraloom.engine.deployment import Wanted, deployment
from loraloom.engine.resources import Resources, parse_bytes
from loraloom.errors import BudgetError
from loraloom.memory.staging import Room
from loraloom.models import find

from . import answers, documents
from .errors import Refusal
from .models import BASE, model_id
from .service import service_of

if TYPE_CHECKING:
    from loraloom.models.card import Card

    from .service import Service

router = APIRouter(tags=["operations"])

PACKAGES = ("torch", "diffusers", "transformers", "fastapi", "uvicorn")
"""Whose versions matter where something is reported."""

Bytes: TypeAlias = Annotated[str, Query(max_length=20, examples=["80G"])]


class Health(BaseModel):
    """The process lives and answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Whether requests are taken, and if not, why not."""

    ready: bool
    reason: str | None


class Version(BaseModel):
    """What runs here."""

    loraloom: str
    python: str
    model: str
    model_version: str
    packages: dict[str, str]


class Deploy(BaseModel):
    """The command for a machine; the plan of memory behind it, where it is asked for."""

    command: str
    plan: str | None


@router.head("/health", include_in_schema=False)
@router.get("/health", operation_id="health", summary="Whether the process lives")
async def health() -> Health:
    """200 as long as the process answers."""
    return Health()


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    operation_id="ready",
    summary="Whether requests are taken",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "Not yet, or not any more."}},
)
def ready(request: Request) -> Response:
    """200 once the model is loaded and warm, 503 before, and while the server stops."""
    engine = service_of(request).engine
    if engine.ready:
        return answers.told(Ready(ready=True, reason=None))
    failed = "the model could not be loaded; the log says why"
    reason = failed if engine.failure else "the model is being loaded, or the server stops"
    return answers.told(Ready(ready=False, reason=reason), 503, {"Retry-After": "5"})


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="What is counted",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "For Prometheus."}},
)
def metrics(request: Request) -> Response:
    """Counts and times; no adapter, prompt or key is in any of them."""
    service = service_of(request)
    status = service.engine.status()
    page = service.metrics.page(
        waiting=status.waiting, running=status.running, resident=resident(service)
    )
    return Response(page, media_type=CONTENT_TYPE_LATEST)


@router.get("/version", operation_id="version", summary="What runs here")
def versions(request: Request) -> Version:
    """Versions of Loraloom, the model, and the packages that results depend on."""
    card = service_of(request).card
    return Version(
        loraloom=loraloom.__version__,
        python=python_version(),
        model=model_id(card),
        model_version=card.version[:12],
        packages={name: said for name in PACKAGES if (said := _version(name))},
    )


@router.get(
    "/v1/deploy",
    operation_id="deploy",
    summary="The command for a machine",
    response_model=Deploy,
    responses=documents.answers("model_not_found", "lora_not_found", "lora_incompatible"),
)
def deploy(  # noqa: PLR0913, PLR0917 - the parameters of a query
    request: Request,
    device_memory: Bytes,
    host_memory: Bytes = "128G",
    model: Annotated[str | None, Query(max_length=300)] = None,
    pipeline: Annotated[str | None, Query(max_length=100)] = None,
    lora: Annotated[
        list[Annotated[str, Query(max_length=300)]] | None, Query(max_length=64)
    ] = None,
    explain: bool = False,  # noqa: FBT001, FBT002
) -> Response:
    """The command that serves a model with published adapters on a machine with so much memory.

    Nothing is loaded. What does not go together, or has no room, is refused.
    """
    service = service_of(request)
    room = Room(
        parse_bytes(device_memory, "device_memory"), parse_bytes(host_memory, "host_memory"), 0
    )
    loras = tuple(lora or ())
    for text in loras:
        if "=" in text:  # nobody is told by this what lies on this machine
            said = f"lora is {text!r}, want NAME[:STRENGTH] of an adapter that is published"
            raise Refusal("invalid_value", said, "lora")
    try:
        found = deployment(
            Wanted(
                card=_card(service, model),
                resources=Resources("auto", "auto", room),
                loras=loras,
                pipeline=pipeline,
                files={each.name: each.path for each in service.catalog.editions()},
            )
        )
    except BudgetError as error:  # the machine asked about is too small, this one is not
        raise Refusal("invalid_value", str(error), "device_memory") from error
    return answers.told(Deploy(command=found.command, plan=found.plan if explain else None))


def resident(service: Service) -> dict[str, int]:
    """Bytes of adapters that are kept, by tier."""
    there = service.catalog.by_key
    host = sum(found.nbytes for key in there if (found := there.get(key)))
    models = service.engine.loom.models if service.engine.ready else ()
    return {"host": host, "device": sum(model.wardrobe.kept.nbytes for model in models)}


def _card(service: Service, model: str | None) -> Card:
    """The card of this server's model, or of one that comes with Loraloom.

    Raises:
        Refusal: it is another one; folders of this machine are nobody's business.
    """
    own = model_id(service.card)
    if model in {None, own, BASE}:
        return replace(service.card, name=own)
    if model in find.BUNDLED:
        return find.card(str(model))
    raise Refusal("model_not_found", f"model {model!r} is not served here, {own!r} is", "model")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
