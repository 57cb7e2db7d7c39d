"""What adapters of a model may take of memory, and where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.memory.residency import ORIGINAL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from loraloom.core.mix import Component
    from loraloom.memory.residency import Residency
    from loraloom.store.catalog import Catalog


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """What adapters of a model may take of memory.

    Attributes:
        residency: what may be spent on quick changes of fused weights.
        device: bytes of adapters that lie ready beside the weights of all components together;
            ``None`` leaves that to every component.
        catalog: where adapters are; a new one of the model's own where none is given.
    """

    residency: Residency = ORIGINAL
    device: int | None = None
    catalog: Catalog | None = None

    def budgets(self, modules: Mapping[Component, nn.Module]) -> dict[Component, int | None]:
        """The bytes by component, as their weights are."""
        if self.device is None:
            return dict.fromkeys(modules)
        sizes = {
            name: sum(each.nbytes for each in module.parameters())
            for name, module in modules.items()
        }
        whole = sum(sizes.values())
        return {name: self.device * size // whole for name, size in sizes.items()}
