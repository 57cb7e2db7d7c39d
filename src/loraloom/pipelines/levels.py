"""The noise levels of a stage, row by row."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from loraloom.errors import InvalidStageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from loraloom.core.stage import Sigmas


_PLAIN = {"use_dynamic_shifting": False, "shift_terminal": None}
UNSHIFTED: Mapping[Any, Mapping[str, Any]] = {
    FlowMatchEulerDiscreteScheduler: {**_PLAIN, "shift": 1.0},
    UniPCMultistepScheduler: {**_PLAIN, "flow_shift": 1.0},
}
"""How a scheduler is told to leave given levels as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Noise levels of a batch.

    Attributes:
        sigmas: ``[rows, steps + 1]``, float32, falling; the last is 0 where the run ends.
        times: ``[rows, steps]``, what the model is told at the beginning of each step.
        scheduler: of diffusers, that placed the first row's.
    """

    sigmas: Tensor
    times: Tensor
    scheduler: Any

    def __len__(self) -> int:
        return self.times.shape[1]

    def until(self, level: float) -> tuple[Levels, Levels]:
        """The steps that begin at ``level`` or above in every row, and the others.

        By the model's clock: a time that the scheduler cut to a whole number counts as it is told
        (diffusers, ``WanPipeline``).
        """
        time = level * self.scheduler.config.num_train_timesteps
        count = int((self.times >= time).all(0).sum())
        return self._cut(0, count), self._cut(count, len(self))

    def _cut(self, start: int, stop: int) -> Levels:
        return Levels(self.sigmas[:, start : stop + 1], self.times[:, start:stop], self.scheduler)


def levels(scheduler: Any, sigmas: Sigmas, tokens: Sequence[int]) -> Levels:
    """What a stage asks for, in a batch whose rows have so many tokens each.

    Args:
        scheduler: of diffusers, as the model comes with it; it spaces what is not given and
            shifts it as the number of tokens wants it.
    """
    counts = list(tokens)
    if sigmas.tokens == "most":
        counts = [scheduler.config.get("max_image_seq_len", 4096)] * len(counts)
    rows = {count: _row(scheduler, sigmas, count) for count in set(counts)}
    return Levels(
        torch.stack([rows[count].sigmas for count in counts]).float(),
        torch.stack([rows[count].timesteps for count in counts]).float(),
        rows[counts[0]],
    )


def _row(scheduler: Any, sigmas: Sigmas, tokens: int) -> Any:
    """A copy of ``scheduler`` that has placed its steps."""
    if sigmas.given:
        placed = _unshifted(scheduler)
        placed.set_timesteps(sigmas=np.array(sigmas.given))
        return placed
    placed = deepcopy(scheduler)
    if isinstance(placed, FlowMatchEulerDiscreteScheduler):
        spaced = np.linspace(1.0, 1 / sigmas.steps, sigmas.steps)
        placed.set_timesteps(sigmas=spaced, mu=shift(placed.config, tokens))
    else:
        placed.set_timesteps(sigmas.steps)
    return placed


def _unshifted(scheduler: Any) -> Any:
    """One that leaves given levels as they are.

    Raises:
        InvalidStageError: it takes none.
    """
    for kind, changed in UNSHIFTED.items():
        if isinstance(scheduler, kind):
            return scheduler.from_config(scheduler.config, **changed)
    known = ", ".join(kind.__name__ for kind in UNSHIFTED)
    raise InvalidStageError(
        f"noise levels are given, and scheduler {type(scheduler).__name__} places its own; want "
        f"one of {known}"
    )


def shift(config: Any, tokens: int) -> float:
    """The shift for so many tokens: a line through the two that the scheduler names."""
    low, high = config.get("base_image_seq_len", 1024), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.95), config.get("max_shift", 2.05)
    slope = (most - least) / (high - low)
    return float(tokens * slope + (least - slope * low))
