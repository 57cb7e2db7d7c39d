"""From settings to a service: everything that routes work with, and the model behind it."""

from __future__ import annotations

import hashlib
import re
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from loraloom.core.lora import Lora
from loraloom.engine.archive import Archive
from loraloom.engine.deployment import stages_of, usual_canvas
from loraloom.engine.engine import Engine, Limits
from loraloom.engine.loom import Loom
from loraloom.engine.means import Means
from loraloom.engine.resources import Resources, known_type, plans_for, readings
from loraloom.engine.room import room
from loraloom.engine.wishes import Wish, parse_published, parse_wishes
from loraloom.errors import SettingsError
from loraloom.models import find
from loraloom.models.sizes import working
from loraloom.store.catalog import Catalog
from loraloom.store.editions import Fit, Label
from loraloom.store.fetch import Fetcher
from loraloom.store.roots import Roots
from loraloom.store.shelf import Shelf
from loraloom.store.stock import Stock

from .default import DefaultMix
from .metrics import Metrics
from .service import Service
from .shop import Shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loraloom.memory.staging import Plan
    from loraloom.models.card import Card
    from loraloom.settings import Settings


def build(settings: Settings) -> Service:
    """The service of one model; nothing of the model is loaded before its engine is started.

    Its files are open as long as the process lives.

    Raises:
        LoraloomError: there is no such model, a setting is wrong, or the state folder cannot be
            used.
    """
    return _service(settings, ExitStack())


@contextmanager
def opened(settings: Settings) -> Iterator[Service]:
    """:func:`build`, with files that are closed at the end of the block; the engine stops before.

    Raises:
        LoraloomError: as :func:`build`.
    """
    with ExitStack() as held:
        yield _service(settings, held)


def _service(settings: Settings, held: ExitStack) -> Service:
    card = find.card(settings.model)
    stages_of(card, settings.pipeline)
    machine = Machine.of(settings)
    outset = Outset.of(settings)
    state, metrics = _home(settings, card), Metrics()
    shelf = held.enter_context(closing(Shelf(state / "adapters.sqlite")))
    catalog = Catalog(
        find.name_table(card),
        card.adapters,
        shelf=shelf,
        budget=settings.host_budget,
        meter=metrics.tier("host"),
    )
    held.callback(catalog.close)
    defaults = DefaultMix(state / "default-mix.json")

    def load() -> Loom:
        outset.carry_out(catalog, defaults)
        means = Means(device=settings.device_budget, catalog=catalog)
        plan = _plan(settings, machine, card, catalog)
        return Loom.load(
            card.name, dtype=machine.dtype, device=machine.device, means=means, plan=plan
        )

    limits = Limits(
        max_queue=settings.max_queue,
        max_batch=settings.max_batch,
        timeout=settings.timeout,
        work=settings.max_work,
        max_age=settings.keep_for,
        max_bytes=settings.keep_bytes,
    )
    archive = held.enter_context(closing(Archive(state)))
    engine = Engine(load, archive, limits, policy=settings.policy, meter=metrics)
    shop = _shop(settings, state, card, catalog)
    shop.stock.prune(shelf.paths())
    return Service(engine, catalog, card, settings, shop, defaults, metrics)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a model is computed, and in which type."""

    device: str
    dtype: str

    @classmethod
    def of(cls, settings: Settings) -> Machine:
        """The one that is meant.

        Raises:
            SettingsError: this machine has no such device.
            ModelError: models are not computed in this type.
        """
        cuda, device = torch.cuda.is_available(), settings.device
        if device == "auto":
            device = "cuda" if cuda else "cpu"
        found = re.fullmatch(r"cpu|cuda(?::([0-9]{1,3}))?", device)
        if found is None:
            raise SettingsError(f"--device is {device!r}, want cpu, cuda, cuda:N or auto")
        if device != "cpu" and (not cuda or int(found[1] or 0) >= torch.cuda.device_count()):
            raise SettingsError(f"--device is {device!r}, which this machine does not have")
        usual = "float32" if device == "cpu" else "bfloat16"
        return cls(device, known_type(settings.dtype or usual))


@dataclass(frozen=True, slots=True)
class Outset:
    """Adapters that a server publishes, and the mix that it sets, before it is ready."""

    published: tuple[Wish, ...]
    worn: tuple[Wish, ...]

    @classmethod
    def of(cls, settings: Settings) -> Outset:
        """What ``--lora`` and ``--default-lora`` say.

        Raises:
            LoraloomError: one of them is spelled wrongly, or no file is there.
        """
        published, worn = parse_published(settings.lora), parse_wishes(settings.default_lora)
        for wish in worn:
            if wish.path is not None:
                raise SettingsError(
                    f"--default-lora {wish.name!r} has a path, want --lora {wish.name}=PATH and "
                    f"--default-lora {wish.name}"
                )
        return cls(published, worn)

    def carry_out(self, catalog: Catalog, defaults: DefaultMix) -> None:
        """Publish what has a file, give strengths, and set the default mix where one is given.

        Raises:
            LoraloomError: a file does not fit the model, or a name is unknown.
        """
        for wish in self.published:
            known = wish.name in catalog.names()
            label = catalog.label(wish.name) if known else Label()
            if wish.strengths:
                label = replace(label, strength=wish.strengths[0])
            if wish.path is None:
                catalog.relabel(wish.name, label)
                continue
            fit, source = Fit(component=wish.component), f"file:{wish.path.name}"
            catalog.publish(wish.name, wish.path, fit=fit, source=source, label=label)
        if self.worn:
            defaults.set(_usual(wish, catalog) for wish in self.worn)
        for lora in defaults.mix:
            catalog.edition(lora.name, lora.version)


def _usual(wish: Wish, catalog: Catalog) -> Lora:
    """What is wished for, at its default strength where nothing is said."""
    return wish.worn(Lora(wish.name, catalog.label(wish.name).strength))


def _plan(settings: Settings, machine: Machine, card: Card, catalog: Catalog) -> Plan | None:
    """The plan of memory, where one is asked for.

    Raises:
        BudgetError: there is no such plan, or no room for it.
    """
    asked = (settings.residency, settings.offload)
    if asked == ("original", "together"):
        return None
    wishes = parse_wishes(settings.lora)
    files = {wish.name: catalog.edition(wish.name).path for wish in wishes}
    brought = readings(replace(card, adapters={**card.adapters, **files}), wishes)
    every = plans_for(card, stages_of(card, settings.pipeline), brought, machine.dtype)
    free = None
    if "auto" in asked:
        free = room(machine.device, working(card, usual_canvas(card), machine.dtype))
    return Resources(settings.residency, settings.offload, free).chosen(every)


def _shop(settings: Settings, state: Path, card: Card, catalog: Catalog) -> Shop:
    """Where adapters come from."""
    most = settings.max_upload
    stock = Stock(state / "uploads", most)
    stock.sweep()
    fetcher = Fetcher(
        state / "hub",
        allow_hub=settings.allow_hub,
        offline=settings.offline,
        most_bytes=most,
        hub=settings.hub,
    )
    return Shop(catalog, find.name_table(card), fetcher, stock, Roots(settings.adapter_root))


def _home(settings: Settings, card: Card) -> Path:
    """Where the state of one model is: nothing of it is another's, to run again or to remove."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(card.name).name).strip(".-") or "model"
    home = settings.state / f"{plain}-{hashlib.sha256(card.name.encode()).hexdigest()[:8]}"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home
