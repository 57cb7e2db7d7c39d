"""What a request wears: the adapters that it names, the default mix, that of its model."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loraloom.core.lora import Lora
from loraloom.core.mix import Scope
from loraloom.core.schedule import ALWAYS, Curve, Knot
from loraloom.errors import LoraloomError, UnknownAdapterError, closest, hint

from .errors import Refusal
from .models import BASE, model_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loraloom.core.request import Request
    from loraloom.models.card import Card
    from loraloom.store.catalog import Catalog

    from .schemas import LoraBody
    from .service import Service


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, and which service."""

    service: Service
    owner: str

    @property
    def card(self) -> Card:
        return self.service.card

    @property
    def catalog(self) -> Catalog:
        return self.service.catalog


@contextmanager
def about(param: str) -> Iterator[None]:
    """Errors of the library in this block are about one field.

    Raises:
        Refusal: naming it.
    """
    try:
        yield
    except LoraloomError as error:
        raise Refusal.of(error, param) from error


def loras_of(
    given: Sequence[LoraBody] | None, where: str, model: str | None, asking: Asking
) -> tuple[Lora, ...]:
    """What is worn: as the request says, or the default mix, and the adapter of ``model``."""
    extra = adapter_of(model, asking)
    if given is None:
        own = tuple(each for each in asking.service.defaults.mix if each.name != extra)
    else:
        own = worn(given, asking.catalog, where)
    if extra is None:
        return own
    if any(each.name == extra for each in own):
        raise Refusal("invalid_value", f"adapter {extra!r} is named by model and by {where}", where)
    return (*own, Lora(extra, asking.catalog.label(extra).strength))


def adapter_of(model: str | None, asking: Asking) -> str | None:
    """The adapter that a request's ``model`` names behind the model's own name or alone, if any.

    Alone is how clients of vLLM name one; the model's own name goes before an adapter's.

    Raises:
        Refusal: it names another model, or no adapter that there is.
    """
    own, catalog = model_id(asking.card), asking.catalog
    if model in {None, own, BASE}:
        return None
    assert model is not None
    for parent in (own, BASE):
        name = model.removeprefix(f"{parent}:")
        if name != model:
            try:
                return catalog.edition(name).name
            except UnknownAdapterError as error:
                said = f"model {model!r}: {error}"
                raise Refusal("model_not_found", said, "model") from error
    if model in catalog.names():
        return model
    known = [own, BASE, *(f"{own}:{each.name}" for each in catalog.editions())]
    near = hint(closest(model, known), known)
    raise Refusal("model_not_found", f"model {model!r} is not known{near}", "model")


def worn(given: Sequence[LoraBody], catalog: Catalog, where: str = "loras") -> tuple[Lora, ...]:
    """Adapters of a body as requests wear them, by the names of the catalogue.

    Raises:
        Refusal: one is not there, is named twice, or its name looks like a path.
    """
    loras = tuple(_lora(each, catalog, f"{where}[{index}]") for index, each in enumerate(given))
    for name, times in Counter(lora.name for lora in loras).items():
        if times > 1:
            raise Refusal("invalid_value", f"{where} names adapter {name!r} {times} times", where)
    return loras


def _lora(body: LoraBody, catalog: Catalog, where: str) -> Lora:
    if re.search(r"[/\\]|://", body.name):
        raise Refusal(
            "invalid_value",
            f"{where}.name is {body.name[:100]!r}, which looks like a path or link; a request "
            "names what is published: publish it with POST /v1/adapters first",
            f"{where}.name",
        )
    with about(f"{where}.name"):
        name = catalog.edition(body.name, body.version).name
        usual = catalog.label(name).strength
    with about(f"{where}.schedule"):
        knots = tuple(Knot(each.progress, each.factor) for each in body.schedule or ())
        curve = Curve(knots) if knots else ALWAYS
    return Lora(
        name,
        usual if body.scale is None else body.scale,
        curve,
        tuple(Scope(each.pattern, each.factor) for each in body.scopes or ()),
        stages=tuple(body.stages or ()),
        target=body.target,
        version=body.version,
    )


def facts(asking: Asking, requests: Sequence[Request]) -> dict[str, Any]:
    """By digest, what answers say of an adapter that the engine does not."""
    usual = asking.card.defaults.usual
    wanted = {lora for each in requests for lora in each.loras} | {
        lora for each in requests for stage in each.stages or usual for lora in stage.wears
    }
    known = set(asking.catalog.names())
    editions = [
        asking.catalog.edition(each.name, each.version) for each in wanted if each.name in known
    ]
    return {
        edition.key.digest: {
            "alpha": edition.facts.alpha,
            "rank": edition.facts.rank,
            "unmatched": edition.facts.unmatched,
        }
        for edition in editions
    }
