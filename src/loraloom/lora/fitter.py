"""Adapters as one component takes them: which sites they reach, and whether they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loraloom.core.packing import shapes, spread
from loraloom.errors import AdapterMismatchError, UnknownAdapterError, closest, hint

from .live import Fitted, Piece
from .packs import packs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import nn

    from loraloom.core.adapter import Adapter, Update
    from loraloom.core.mix import AdapterKey, Component, Site

    from .layer import LoraLayer


class Fitter:
    """Finds adapters by key and fits them to the layers of a component.

    ``coverage`` says which sites an adapter updates, of those that were asked for.

    Args:
        component: the name that adapters call it by.
        module: the component.
        layers: its layers that wear adapters, by site.
        adapters: where adapters are found.
    """

    def __init__(
        self,
        component: Component,
        module: nn.Module,
        layers: Mapping[Site, LoraLayer],
        adapters: Mapping[AdapterKey, Adapter],
    ) -> None:
        self.component = component
        self.module = module
        self.layers = layers
        self.packs = packs(module)
        self.adapters = adapters
        self.coverage: dict[AdapterKey, frozenset[Site]] = {}

    def cover(self, keys: Iterable[AdapterKey]) -> None:
        """Learn which sites adapters update. A key is a content: what fitted once fits.

        Raises:
            UnknownAdapterError, AdapterMismatchError: see :meth:`check`.
        """
        for key in keys:
            if key not in self.coverage:
                self.check(self._adapter(key))
                self.coverage[key] = frozenset(self.updates(key))

    def check(self, adapter: Adapter) -> None:
        """Return if every update of ``adapter`` for this component has a site that it fits.

        Raises:
            AdapterMismatchError: one has not, or projections were fused since the component was
                fitted out, so that other layers are called now.
        """
        if packs(self.module) != self.packs:
            raise AdapterMismatchError(
                f"projections of {self.component} were fused or taken apart after its layers began "
                "to wear adapters; want that done before, or release() and a new LoraModel"
            )
        there = {site: layer.shape for site, layer in self.layers.items()}
        there |= shapes(self.packs)
        for site, update in adapter.sites(self.component).items():
            where = f"adapter {adapter.key.name!r} at {self.component}.{site}"
            if site not in there:
                near = hint(closest(site, there), there)
                raise AdapterMismatchError(f"{where}: there is no such layer{near}")
            if there[site] != update.shape:
                got, wanted = "×".join(map(str, update.shape)), "×".join(map(str, there[site]))
                raise AdapterMismatchError(f"{where} is {got}, the layer is {wanted}")

    def updates(self, key: AdapterKey) -> Mapping[Site, Mapping[Site, Update]]:
        """By the site that they act at and, within, by the site that the adapter names.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        return spread(self._adapter(key).sites(self.component), self.packs)

    def size(self, key: AdapterKey) -> int:
        """Bytes that an adapter takes in the types of the weights."""
        self.cover([key])
        return sum(
            tensor.numel() * kind.itemsize
            for site, updates in self.updates(key).items()
            for kind in [self.layers[site].kind]
            for update in updates.values()
            for tensor in update.tensors
        )

    def fit(self, key: AdapterKey, device: torch.device) -> Fitted:
        """An adapter in the types of the weights.

        Raises:
            AdapterMismatchError: it has numbers that float16 cannot hold, and the weights are that.
        """
        sites: dict[Site, tuple[Piece, ...]] = {}
        for site, updates in self.updates(key).items():
            kind = self.layers[site].kind
            pieces = (Piece(name, update.to(device, kind)) for name, update in updates.items())
            sites[site] = tuple(pieces)
            if kind == torch.float16:
                _check_finite(key, sites[site])
        return Fitted(sites)

    def _adapter(self, key: AdapterKey) -> Adapter:
        adapter = self.adapters.get(key)
        if adapter is None:
            raise UnknownAdapterError(str(key), [str(known) for known in self.adapters])
        return adapter


def _check_finite(key: AdapterKey, pieces: Sequence[Piece]) -> None:
    for piece in pieces:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in piece.update.tensors):
            raise AdapterMismatchError(
                f"adapter {key.name!r} at {piece.named} has numbers beyond float16, the type of "
                "the layer; want a model in bfloat16 or float32"
            )
