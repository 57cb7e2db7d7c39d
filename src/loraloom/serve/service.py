"""What every route works with, put together once when the server starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request

if TYPE_CHECKING:
    from loraloom.engine.engine import Engine
    from loraloom.models.card import Card
    from loraloom.settings import Settings
    from loraloom.store.catalog import Catalog

    from .default import DefaultMix
    from .metrics import Metrics
    from .shop import Shop


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """One model behind HTTP.

    Attributes:
        catalog: the adapters; there before the model is loaded.
        shop: where adapters that are added come from.
        defaults: what requests wear that name nothing.
    """

    engine: Engine
    catalog: Catalog
    card: Card
    settings: Settings
    shop: Shop
    defaults: DefaultMix
    metrics: Metrics


def service_of(request: Request) -> Service:
    """The service that a request reached."""
    service: Service = request.app.state.service
    return service
