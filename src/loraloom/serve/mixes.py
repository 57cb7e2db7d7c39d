"""``/v1/default-mix``: what requests wear that name no adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from loraloom.core.request import Request as Wish
from loraloom.core.schedule import ALWAYS
from loraloom.engine.job import admit

from . import answers, documents, forms
from .errors import Refusal
from .keys import administrator
from .listing import MixBody
from .schemas import KnotBody, LoraBody, ScopeBody
from .service import service_of
from .wearing import worn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loraloom.core.lora import Lora
    from loraloom.models.card import Card

    from .service import Service

router = APIRouter(tags=["adapters"])


@router.get(
    "/v1/default-mix",
    operation_id="retrieve_default_mix",
    summary="The default mix",
    response_model=MixBody,
    responses=documents.answers(),
)
def default_mix(request: Request) -> Response:
    """What requests wear that name no adapters."""
    return answers.told(_mix(service_of(request).defaults.mix))


@router.put(
    "/v1/default-mix",
    operation_id="set_default_mix",
    summary="Set the default mix",
    dependencies=[Depends(administrator)],
    response_model=MixBody,
    responses=documents.answers(
        *documents.READING, "lora_not_found", "lora_incompatible", "storage_full"
    ),
    openapi_extra=documents.takes(MixBody),
)
async def set_default_mix(request: Request) -> Response:
    """Have requests that come later and name no adapters wear this; an empty list is nothing."""
    body = await forms.read_json(request, MixBody)
    service = service_of(request)
    return await run_in_threadpool(_set_mix, service, body)


def _set_mix(service: Service, body: MixBody) -> Response:
    loras = worn(body.loras, service.catalog)
    for index, lora in enumerate(loras):
        _check(lora, f"loras[{index}]", service.card)
    admit([Wish("a picture", loras=loras)], service.card, service.catalog)
    service.defaults.set(loras)
    return answers.told(_mix(loras))


def _check(lora: Lora, where: str, card: Card) -> None:
    """Return if ``lora`` can be worn through every pipeline, and as long as it is there."""
    if lora.version is not None:
        said = "the default mix wears what is current, for an old version may go at any time"
        raise Refusal("invalid_value", said, f"{where}.version")
    for name, stages in card.defaults.pipelines.items():
        if lora.stages and len(lora.stages) != len(stages):
            said = (
                f"adapter {lora.name!r} has factors for {len(lora.stages)} stages, and pipeline "
                f"{name!r} has {len(stages)}; the default mix is worn through any of them"
            )
            raise Refusal("invalid_value", said, f"{where}.stages")


def _mix(loras: Sequence[Lora]) -> MixBody:
    return MixBody(
        loras=[
            LoraBody(
                name=lora.name,
                scale=lora.strength,
                target=lora.target,
                version=None,
                stages=list(lora.stages) or None,
                schedule=[
                    KnotBody(progress=knot.progress, factor=knot.factor)
                    for knot in (lora.curve.knots if lora.curve != ALWAYS else ())
                ]
                or None,
                scopes=[ScopeBody(pattern=s.pattern, factor=s.factor) for s in lora.scopes] or None,
            )
            for lora in loras
        ]
    )
