"""The weights of a component's sites: pristine, and what takes their place while fused."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    from loraloom.core.mix import Site

    from .layer import LoraLayer


class Weights:
    """The weight of every site of a component.

    While a site is fused, its pristine parameter is kept as the object that it is and put back
    when it is restored: exact, because nothing is computed.
    """

    def __init__(self, layers: Mapping[Site, LoraLayer]) -> None:
        self.layers = layers
        self.replaced: Mapping[Site, nn.Parameter] = {}

    def pristine(self, site: Site) -> nn.Parameter:
        """The weight ``[out, in, *kernel]`` that the model was loaded with."""
        return self.replaced[site] if site in self.replaced else self.layers[site].weight

    def change(self, fused: Mapping[Site, nn.Parameter], restore: Iterable[Site]) -> None:
        """Put ``fused`` in place and the pristine weights back at ``restore``, or change nothing.

        Only assignments; what a failure leaves half done is undone.
        """
        now = {site: self.layers[site].weight for site in {*fused, *restore}}
        replaced = {**{site: self.pristine(site) for site in fused}, **self.replaced}
        after = {**{site: replaced.pop(site) for site in restore}, **fused}
        try:
            for site, weight in after.items():
                self.layers[site].weight = weight
        except BaseException:
            for site, weight in now.items():
                self.layers[site].weight = weight
            raise
        self.replaced = replaced
