"""Endpoints of sglang and vLLM for their clients, as changes of the catalogue and the default mix.

Weights are never changed: requests under way wear what they began with, and those that name their
own adapters are not touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

from loraloom.core.lora import Lora
from loraloom.store.editions import Fit

from . import answers, documents, forms
from .errors import Refusal
from .foreign import (
    Active,
    Done,
    LoadAdapter,
    Loaded,
    Loras,
    MergeLora,
    SetLora,
    Setting,
    UnloadAdapter,
    UnmergeLora,
    settings_of,
)
from .keys import administrator
from .placing import ALL, Placing
from .publishing import PUBLISHING, publish, withdraw
from .service import service_of
from .shop import Offer

if TYPE_CHECKING:
    from .service import Service

S = TypeVar("S", bound=BaseModel)

router = APIRouter(tags=["drop-in"])

ADMIN = [Depends(administrator)]


@router.post(
    "/v1/set_lora",
    operation_id="set_lora",
    summary="sglang: set the default mix",
    dependencies=ADMIN,
    response_model=Done,
    responses=documents.answers(*PUBLISHING, "lora_not_found"),
    openapi_extra=documents.takes(SetLora),
)
async def set_lora(request: Request) -> Response:
    """Publish the adapters that bring a path, and make all of them the default mix.

    What the default mix wears on components that are no target stays.
    """
    service = service_of(request)
    settings = settings_of(await forms.read_json(request, SetLora))
    placing = Placing(service.card, service.catalog)
    taken = frozenset[str]().union(*(placing.targets(each.target) for each in settings))
    await run_in_threadpool(_check, settings, taken, service)
    brought = [(each.path, _offer(each, service)) for each in settings if each.path is not None]
    editions = await publish(service, brought)
    published = ", ".join(str(each.key) for each in editions)
    await run_in_threadpool(_set, settings, taken, service)
    done = f"published {published}" if published else "set what is published"
    return await run_in_threadpool(_done, service, done)


@router.post(
    "/v1/merge_lora_weights",
    operation_id="merge_lora_weights",
    summary="sglang: wear the default mix again",
    dependencies=ADMIN,
    response_model=Done,
    responses=documents.answers(*documents.READING, "storage_full"),
    openapi_extra=documents.takes(MergeLora, required=False),
)
async def merge_lora_weights(request: Request) -> Response:
    """Wear the default mix, or what was taken off of it, at ``strength`` times its strengths."""
    service, body = service_of(request), await _read(request, MergeLora)
    if not service.defaults.standing.pieces:
        raise Refusal("invalid_value", "there is no adapter to merge; set_lora sets some")
    await run_in_threadpool(_factor, service, body.target, body.strength)
    done = f"merged {body.target} at strength {body.strength:g}"
    return await run_in_threadpool(_done, service, done)


@router.post(
    "/v1/unmerge_lora_weights",
    operation_id="unmerge_lora_weights",
    summary="sglang: wear nothing by default",
    dependencies=ADMIN,
    response_model=Done,
    responses=documents.answers(*documents.READING, "storage_full"),
    openapi_extra=documents.takes(UnmergeLora, required=False),
)
async def unmerge_lora_weights(request: Request) -> Response:
    """Take the default mix off; it is remembered for merging."""
    service, body = service_of(request), await _read(request, UnmergeLora)
    await run_in_threadpool(_factor, service, body.target, 0.0)
    return await run_in_threadpool(_done, service, f"unmerged {body.target}")


@router.get(
    "/v1/list_loras",
    operation_id="list_loras",
    summary="sglang: what is there, and what is worn by default",
    response_model=Loras,
    responses=documents.answers(),
)
def list_loras(request: Request) -> Response:
    """All adapters, and which of them the default mix wears on which component."""
    service = service_of(request)
    placing = Placing(service.card, service.catalog)
    sources = {each.name: each.source for each in service.catalog.editions()}
    active: dict[str, list[Active]] = {}
    for lora in service.defaults.mix:
        for component in sorted(placing.parts(lora)):
            worn = Active(
                nickname=lora.name,
                path=sources.get(lora.name, ""),
                mode=service.settings.policy,
                strength=lora.strength,
            )
            active.setdefault(component, []).append(worn)
    loaded = [Loaded(nickname=name, path=source) for name, source in sources.items()]
    return answers.told(Loras(loaded_adapters=loaded, active=active))


@router.post(
    "/v1/load_lora_adapter",
    operation_id="load_lora_adapter",
    summary="vLLM: publish an adapter",
    dependencies=ADMIN,
    response_class=PlainTextResponse,
    responses=documents.answers(*PUBLISHING, "lora_not_found"),
    openapi_extra=documents.takes(LoadAdapter),
)
async def load_lora_adapter(request: Request) -> Response:
    """Publish an adapter; requests wear it as ``<model>:<name>``, or name it in ``loras``."""
    body = await forms.read_json(request, LoadAdapter)
    offer = Offer(body.lora_name, fresh=not body.load_inplace)
    (edition,) = await publish(service_of(request), [(body.lora_path, offer)])
    return PlainTextResponse(f"Success: LoRA adapter '{edition.key}' is published.")


@router.post(
    "/v1/unload_lora_adapter",
    operation_id="unload_lora_adapter",
    summary="vLLM: withdraw an adapter",
    dependencies=ADMIN,
    response_class=PlainTextResponse,
    responses=documents.answers(*documents.READING, "lora_not_found", "storage_full"),
    openapi_extra=documents.takes(UnloadAdapter),
)
async def unload_lora_adapter(request: Request) -> Response:
    """Withdraw an adapter; requests that wear it keep it until they are done."""
    body = await forms.read_json(request, UnloadAdapter)
    gone = await run_in_threadpool(withdraw, service_of(request), body.lora_name)
    left = "; it has left the default mix" if gone.left_default_mix else ""
    return PlainTextResponse(
        f"Success: LoRA adapter '{gone.name}' is withdrawn, {gone.in_use} requests under way "
        f"keep it{left}."
    )


async def _read(request: Request, schema: type[S]) -> S:
    """A body that may be left out."""
    return await forms.read_json(request, schema) if await request.body() else schema()


def _check(settings: list[Setting], taken: frozenset[str], service: Service) -> None:
    """Return if nothing but an adapter itself can keep ``settings`` from being set."""
    for each in settings:
        if each.path is None:
            service.catalog.edition(each.name)
    loras = [_lora(each, each.name) for each in settings]
    Placing(service.card, service.catalog).placed(service.defaults.standing, loras, taken)


def _set(settings: list[Setting], taken: frozenset[str], service: Service) -> None:
    placing = Placing(service.card, service.catalog)
    loras = [_lora(each, service.catalog.edition(each.name).name) for each in settings]
    service.defaults.change(lambda now: placing.placed(now, loras, taken))


def _lora(setting: Setting, name: str) -> Lora:
    target = None if setting.target == ALL else setting.target
    return Lora(name, setting.strength, target=target)


def _offer(setting: Setting, service: Service) -> Offer:
    """A file for another component than the main one need not say that it is."""
    whole = setting.target in {ALL, service.card.family.wears[0]}
    return Offer(setting.name, Fit(None if whole else setting.target, setting.alpha))


def _factor(service: Service, target: str, factor: float) -> None:
    placing = Placing(service.card, service.catalog)
    components = placing.targets(target)
    service.defaults.change(lambda now: placing.factored(now, components, factor))


def _done(service: Service, done: str) -> Response:
    mix = Placing(service.card, service.catalog).told(service.defaults.mix)
    return answers.told(
        Done(
            message=f"{done}; requests that name no adapters now wear {mix}; those under way "
            "keep what they wear, and no weight was changed"
        )
    )
