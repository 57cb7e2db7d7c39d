"""What sglang's calls make of the default mix, as functions from one standing to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

from loraloom.errors import InvalidRequestError, UnknownAdapterError

from .default import Piece, Standing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from loraloom.core.lora import Lora
    from loraloom.core.mix import Component
    from loraloom.models.card import Card
    from loraloom.store.catalog import Catalog

ALL = "all"
"""What sglang calls all components."""


@dataclass(frozen=True, slots=True, eq=False)
class Placing:
    """Which components of a model wear what."""

    card: Card
    catalog: Catalog

    def targets(self, target: str, param: str = "target") -> frozenset[Component]:
        """The components that a call means.

        Raises:
            InvalidRequestError: the model has no such component.
        """
        wears = self.card.family.wears
        if target == ALL:
            return frozenset(wears)
        if target not in wears:
            raise InvalidRequestError(
                f"{param} is {target!r}, the model has {', '.join(wears)}, want one of them or all"
            )
        return frozenset({target})

    def parts(self, lora: Lora) -> frozenset[Component]:
        """The components that wear ``lora``; all of them where its adapter is not known."""
        if lora.target is not None:
            return frozenset({lora.target})
        try:
            return frozenset(self.catalog.edition(lora.name, lora.version).facts.components)
        except UnknownAdapterError:
            return frozenset(self.card.family.wears)

    def placed(
        self, now: Standing, loras: Sequence[Lora], taken: AbstractSet[Component]
    ) -> Standing:
        """``loras``, and what was worn elsewhere than on the components ``taken``.

        Raises:
            InvalidRequestError: of something that is worn now, more than one component is left.
        """
        named = {lora.name for lora in loras}
        others = [self._left(p, taken) for p in now.pieces if p.lora.name not in named]
        return Standing((*filter(None, others), *map(Piece, loras)))

    def factored(self, now: Standing, target: AbstractSet[Component], factor: float) -> Standing:
        """What is worn on ``target``, or was, at ``factor`` times its strength; 0 takes it off.

        Raises:
            InvalidRequestError: something is worn there and elsewhere, too, or is so strong that
                the product is no number.
        """
        after = Standing(
            tuple(
                replace(piece, factor=factor) if self._inside(piece.lora, target) else piece
                for piece in now.pieces
            )
        )
        for lora in after.mix:
            if not isfinite(lora.strength):
                raise InvalidRequestError(
                    f"strength is {factor:g}, times that of {lora.name!r} it is {lora.strength}, "
                    "want a finite number"
                )
        return after

    def told(self, loras: Sequence[Lora]) -> str:
        """A mix for a person."""
        return (
            ", ".join(
                f"{lora.name} at {lora.strength:g} on {' and '.join(sorted(self.parts(lora)))}"
                for lora in loras
            )
            or "nothing"
        )

    def _left(self, piece: Piece, taken: AbstractSet[Component]) -> Piece | None:
        """What is left of a piece when ``taken`` wears something else."""
        own = self.parts(piece.lora)
        left = sorted(own - taken)
        if not left or len(left) == len(own):
            return piece if left else None
        if len(left) == 1:
            return replace(piece, lora=replace(piece.lora, target=left[0]))
        raise InvalidRequestError(
            f"adapter {piece.lora.name!r} of the default mix is worn on {', '.join(sorted(own))}, "
            f"and would be left on {' and '.join(left)}; target all replaces the whole mix"
        )

    def _inside(self, lora: Lora, target: AbstractSet[Component]) -> bool:
        own = self.parts(lora)
        if own <= target or not own & target:
            return own <= target
        raise InvalidRequestError(
            f"adapter {lora.name!r} of the default mix is worn on {', '.join(sorted(own))}, want "
            "target all, or set it for one component first"
        )
