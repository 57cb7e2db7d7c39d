"""Publishing and withdrawing as all routes do it: a few at a time, counted where it fails."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from . import documents
from .listing import WithdrawnAnswer
from .pictures import Pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from loraloom.core.mix import AdapterKey
    from loraloom.store.editions import Edition

    from .service import Service
    from .shop import Offer

R = TypeVar("R")

AT_ONCE = 2
"""Adapters that are fetched, read and checked at a time; those that wait hold no thread."""

HANDS: RunVar[CapacityLimiter] = RunVar("hands")

PUBLISHING = (
    *documents.READING,
    "lora_incompatible",
    "source_unavailable",
    "storage_full",
    "out_of_memory",
)
"""What a call may answer that brings an adapter."""


async def publish(service: Service, brought: Sequence[tuple[str, Offer]]) -> list[Edition]:
    """Publish what texts mean under the names of their offers.

    Of several all are looked at before the first is published.

    Raises:
        LoraloomError: something cannot be got or worn.
    """
    with service.metrics.rejecting():
        return await aside(partial(_publish, service, brought))


def withdraw(service: Service, name: str) -> WithdrawnAnswer:
    """Withdraw an adapter, also from the default mix.

    Raises:
        UnknownAdapterError: there is none of that name.
    """
    canonical = service.catalog.edition(name).name
    picture = service.catalog.label(canonical).picture
    left = service.defaults.without(canonical)
    service.catalog.withdraw(canonical)
    pictures_of(service).remove(picture)
    users = service.catalog.users(canonical)
    return WithdrawnAnswer(name=canonical, in_use=users, left_default_mix=left)


def on_device(service: Service) -> AbstractSet[AdapterKey]:
    """The adapters that lie on the device now; none before there is a model."""
    return service.engine.loom.on_device() if service.engine.ready else frozenset()


async def aside(work: Callable[[], R]) -> R:
    """Do what takes a while, a few at a time, so that other calls find threads."""
    limiter = HANDS.get(None)
    if limiter is None:
        HANDS.set(limiter := CapacityLimiter(AT_ONCE))
    return await to_thread.run_sync(work, limiter=limiter)


def _publish(service: Service, brought: Sequence[tuple[str, Offer]]) -> list[Edition]:
    shop = service.shop
    with ExitStack() as stack:
        got = [(stack.enter_context(shop.fetched(text)), offer) for text, offer in brought]
        for goods, offer in got if len(got) > 1 else ():
            shop.check(goods, offer)
        return [shop.publish(goods, offer).edition for goods, offer in got]


def pictures_of(service: Service) -> Pictures:
    return Pictures(service.settings.state / "pictures")
