"""Images that a video must show: every request of a batch has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import (
    LTX2ConditionPipeline,
    LTX2VideoCondition,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor

    from loraloom.core.request import Condition
    from loraloom.models.card import Grid


class ConditionedPipeline(LTX2ConditionPipeline):  # type: ignore[misc]  # untyped base
    """diffusers' condition pipeline, with ``conditions[i]`` and ``generator[i]`` for request *i*.

    The stock pipeline gives one list of images and one generator to the whole batch. Rows can be
    prepared one by one because their conditions lie at the same frames.
    """

    def prepare_latents(
        self,
        conditions: Sequence[list[LTX2VideoCondition]],
        batch_size: int,
        generator: Sequence[Generator],
        **shared: Any,
    ) -> tuple[Tensor | None, ...]:
        assert len(conditions) == len(generator) == batch_size
        prepare = super().prepare_latents
        rows = [
            prepare(conditions=own, batch_size=1, generator=draw, **shared)
            for own, draw in zip(conditions, generator, strict=True)
        ]
        return tuple(
            None if parts[0] is None else torch.cat(parts) for parts in zip(*rows, strict=True)
        )


def as_diffusers(condition: Condition, frames: int, grid: Grid) -> LTX2VideoCondition:
    """A condition at one of ``frames`` frames as one at the latent frame that holds it.

    The image is taken as it is, without the lossy re-compression that the stock pipeline applies.
    """
    index = grid.latent(condition.frame % frames)
    return LTX2VideoCondition(condition.image, index, condition.strength, crf=0)
