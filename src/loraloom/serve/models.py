"""``/v1/models``: the base model, and every adapter as a model of its own, as OpenAI lists them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends

from loraloom.errors import UnknownAdapterError, closest, hint

from . import documents
from .errors import Refusal
from .service import Service, service_of

if TYPE_CHECKING:
    from loraloom.core.canvas import Canvas
    from loraloom.models.card import Card
    from loraloom.store.editions import Edition

router = APIRouter(tags=["models"])

Served = Annotated[Service, Depends(service_of)]

BASE = "base"
"""What every server's model may be called."""


def model_id(card: Card) -> str:
    """How clients name the model: as it was asked for, or its folder without the way there."""
    asked_for_folder = card.root == Path(card.name).expanduser()
    return card.root.resolve().name if asked_for_folder else card.name


@router.get(
    "/v1/models",
    operation_id="list_models",
    summary="List models",
    responses=documents.answers(),
)
def models(service: Served) -> dict[str, Any]:
    """The base model, then every adapter by name."""
    adapters = [adapter_model(service.card, each) for each in service.catalog.editions()]
    return {"object": "list", "data": [base_model(service), *adapters]}


@router.get(
    "/v1/models/{model:path}",
    operation_id="retrieve_model",
    summary="One model",
    responses=documents.answers("model_not_found"),
)
def model(service: Served, model: str) -> dict[str, Any]:
    """One of them; ``base`` is the base model, an adapter may be named by an alias."""
    own = model_id(service.card)
    if model in {own, BASE}:
        return base_model(service)
    parent, colon, name = model.rpartition(":")
    if colon and parent in {own, BASE}:
        try:
            return adapter_model(service.card, service.catalog.edition(name))
        except UnknownAdapterError as error:
            raise Refusal("model_not_found", f"model {model!r}: {error}", "model") from error
    known = [own, BASE, *(f"{own}:{each}" for each in service.catalog.names())]
    near = hint(closest(model, known), known)
    raise Refusal("model_not_found", f"model {model!r} is not known{near}", "model")


def base_model(service: Service) -> dict[str, Any]:
    """The model with what requests may ask of it."""
    card, limits = service.card, service.settings
    name, able, usual = model_id(card), card.family.abilities, card.defaults
    return {
        "id": name,
        "object": "model",
        "created": int(card.root.stat().st_mtime),
        "owned_by": "loraloom",
        "root": name,
        "parent": None,
        "family": card.family.name,
        "version": card.version[:12],
        "components": list(card.family.wears),
        "pipelines": list(usual.pipelines),
        "stages": {
            each: [stage.name for stage in stages] for each, stages in usual.pipelines.items()
        },
        "defaults": {
            "picture": _canvas(usual.picture),
            "video": _canvas(usual.video) if card.grid.frames else None,
            "negative_prompt": usual.negative_prompt,
        },
        "grid": {
            "pixels": card.grid.pixels,
            "frames": card.grid.frames,
            "steps": card.grid.steps,
        },
        "abilities": {"images": able.images, "sound": able.sound, "videos": bool(card.grid.frames)},
        "limits": {
            "batch": limits.max_batch,
            "pixels": limits.max_pixels,
            "work": limits.max_work,
            "timeout": limits.timeout,
            "upload": limits.max_upload,
        },
    }


def adapter_model(card: Card, edition: Edition) -> dict[str, Any]:
    """The model wearing one adapter at its default strength."""
    parent, key = model_id(card), edition.key
    return {
        "id": f"{parent}:{key.name}",
        "object": "model",
        "created": int(edition.published),
        "owned_by": "loraloom",
        "root": key.name,
        "parent": parent,
        "sha256": key.digest,
    }


def _canvas(canvas: Canvas) -> dict[str, Any]:
    size = {"size": f"{canvas.width}x{canvas.height}"}
    if canvas.frames == 1:
        return size
    return {**size, "frames": canvas.frames, "fps": canvas.rate}
