"""``/v1/adapters``: the catalogue over HTTP."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from . import answers, documents, forms
from .counter import Brought, brought
from .errors import Refusal
from .inspection import InspectionAnswer, inspected
from .keys import administrator
from .listing import (
    AdapterAnswer,
    AdapterBody,
    AdapterList,
    InspectBody,
    LabelBody,
    PinBody,
    WithdrawnAnswer,
    all_shown,
    shown,
)
from .pictures import MIME
from .publishing import PUBLISHING, aside, on_device, pictures_of, withdraw
from .service import service_of
from .shop import Offer

if TYPE_CHECKING:
    from collections.abc import Callable

    from loraloom.store.editions import Edition, Label

    from .service import Service

router = APIRouter(tags=["adapters"])

ADMIN = [Depends(administrator)]

AdapterName: TypeAlias = Annotated[str, Path(examples=["neon"])]

FILES = {
    "file": "The adapter, .safetensors.",
    "config": "The adapter_config.json that lies beside it, where there is one.",
}
PICTURE = {"picture": "What it does, PNG, JPEG or WebP."}

LABELLING = (*documents.READING, "lora_not_found", "storage_full", "out_of_memory")
"""What a call may answer that changes how an adapter is offered."""


@router.get(
    "/v1/adapters",
    operation_id="list_adapters",
    summary="List adapters",
    response_model=AdapterList,
    responses=documents.answers(),
)
def adapters(request: Request) -> Response:
    """All adapters by name, as they are worn by requests that come now."""
    service = service_of(request)
    return answers.told(AdapterList(data=all_shown(service.catalog, on_device(service))))


@router.get(
    "/v1/adapters/{name}",
    operation_id="retrieve_adapter",
    summary="One adapter",
    response_model=AdapterAnswer,
    responses=documents.answers("lora_not_found", "lora_incompatible"),
)
def adapter(request: Request, name: AdapterName) -> Response:
    """An adapter by its name or an alias."""
    service = service_of(request)
    return _told(service, service.catalog.edition(name))


@router.post(
    "/v1/adapters",
    operation_id="publish_adapter",
    summary="Publish an adapter",
    dependencies=ADMIN,
    response_model=AdapterAnswer,
    responses={
        201: {"model": AdapterAnswer, "description": "The name is new."},
        **documents.answers(*PUBLISHING),
    },
    openapi_extra=documents.takes(AdapterBody, documents.form(AdapterBody, {**FILES, **PICTURE})),
)
async def add(request: Request) -> Response:
    """Publish an upload, a path under an allowed root, or what the hub has.

    The file is read whole before its name means it. Requests under way keep the version that they
    began with; a file that is refused changes nothing.
    """
    service = service_of(request)
    async with brought(request, AdapterBody, service.shop) as found:
        with service.metrics.rejecting():
            return await aside(partial(_add, service, found))


@router.post(
    "/v1/adapters/inspect",
    operation_id="inspect_adapter",
    summary="What an adapter would do",
    response_model=InspectionAnswer,
    responses=documents.answers(*PUBLISHING),
    openapi_extra=documents.takes(InspectBody, documents.form(InspectBody, FILES)),
)
async def inspect(request: Request) -> Response:
    """Look at an adapter as if it were published: which layers it changes, what does not fit.

    Nothing is published and nothing is kept. What is not uploaded wants an administrator.
    """
    service = service_of(request)
    async with brought(request, InspectBody, service.shop) as found:
        if found.body.source is not None:
            administrator(request)
        return await aside(partial(_inspect, service, found))


@router.patch(
    "/v1/adapters/{name}",
    operation_id="change_adapter",
    summary="Change how an adapter is offered",
    dependencies=ADMIN,
    response_model=AdapterAnswer,
    responses=documents.answers(*LABELLING),
    openapi_extra=documents.takes(LabelBody),
)
async def change(request: Request, name: AdapterName) -> Response:
    """Change default strength, trigger words, aliases or the pin; what is absent stays."""
    body = await forms.read_json(request, LabelBody)
    service = service_of(request)
    return await aside(partial(_relabel, service, name, body.label))


@router.post(
    "/v1/adapters/{name}/pin",
    operation_id="pin_adapter",
    summary="Keep an adapter in memory",
    dependencies=ADMIN,
    response_model=AdapterAnswer,
    responses=documents.answers(*LABELLING),
    openapi_extra=documents.takes(PinBody, required=False),
)
async def pin(request: Request, name: AdapterName) -> Response:
    """Have an adapter stay in the host's memory, or let it leave again."""
    body = await forms.read_json(request, PinBody) if await request.body() else PinBody()
    service = service_of(request)
    pinned = partial(_pinned, pinned=body.pinned)
    return await aside(partial(_relabel, service, name, pinned))


@router.delete(
    "/v1/adapters/{name}",
    operation_id="withdraw_adapter",
    summary="Withdraw an adapter",
    dependencies=ADMIN,
    response_model=WithdrawnAnswer,
    responses=documents.answers("lora_not_found", "storage_full"),
)
def delete(request: Request, name: AdapterName) -> Response:
    """Make an adapter unknown to requests that come later; those under way keep it."""
    return answers.told(withdraw(service_of(request), name))


@router.get(
    "/v1/adapters/{name}/picture",
    operation_id="adapter_picture",
    summary="The picture of an adapter",
    response_class=Response,
    responses={
        200: {"content": {MIME: {}}, "description": "The picture."},
        **documents.answers("lora_not_found", "not_found"),
    },
)
def picture(request: Request, name: AdapterName) -> Response:
    """A preview that was uploaded with the adapter."""
    service = service_of(request)
    label = service.catalog.label(name)
    data = pictures_of(service).read(label.picture) if label.picture else None
    if data is None:
        raise Refusal("not_found", f"adapter {name!r} has no picture")
    return Response(data, media_type=MIME, headers={"Cache-Control": "private, max-age=86400"})


def _add(service: Service, found: Brought[AdapterBody]) -> Response:
    body, pictures = found.body, pictures_of(service)
    image = found.picture(service.settings.max_pixels)
    kept = pictures.keep(image) if image else None
    before: list[Label] = []

    def label(now: Label) -> Label:
        before.append(now)
        return replace(body.label(now), picture=kept or now.picture)

    try:
        with found.goods(service.shop) as goods:
            offer = Offer(body.name, body.fit, label, fresh=not body.replace)
            done = service.shop.publish(goods, offer)
    except BaseException:
        pictures.remove(kept)
        raise
    if kept:
        pictures.remove(before[0].picture)
    return _told(service, done.edition, 201 if done.new else 200)


def _inspect(service: Service, found: Brought[InspectBody]) -> Response:
    with found.goods(service.shop) as goods:
        return answers.told(inspected(service.shop.inspect(goods, found.body.fit)))


def _relabel(service: Service, name: str, label: Callable[[Label], Label]) -> Response:
    return _told(service, service.shop.relabel(name, label))


def _pinned(label: Label, *, pinned: bool) -> Label:
    return replace(label, pinned=pinned)


def _told(service: Service, edition: Edition, status: int = 200) -> Response:
    return answers.told(shown(edition, service.catalog, on_device(service)), status)
