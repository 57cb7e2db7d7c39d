"""Where checks are made: a model, what is asked of it, and ways to put attires on it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias, cast

from torch import nn

from loraloom.core.hashing import digest
from loraloom.core.mix import Applied, Mix, Part
from loraloom.core.request import Lora, Request

from .figures import Likeness, differing, largest, levels, psnr, ssim

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from loraloom.core.provenance import Asked
    from loraloom.core.request import Policy
    from loraloom.engine.loom import Loom

    from .law import Dtype

Attire: TypeAlias = tuple[Lora, ...]
"""What one row wears, by the names of the catalogue."""

BARE: Attire = ()


@dataclass(frozen=True, slots=True)
class Case:
    """The adapters that a law is tried on, together and at full strength."""

    names: tuple[str, ...]

    @property
    def whole(self) -> Attire:
        return self.at(1.0)

    def at(self, strength: float) -> Attire:
        return tuple(Lora(name, strength) for name in self.names)

    @property
    def rows(self) -> tuple[Attire, ...]:
        """A batch in which every row wears something else: nothing, each alone, all at half."""
        return (BARE, *((Lora(name),) for name in self.names), self.at(0.5))

    def __str__(self) -> str:
        return " + ".join(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One picture and the latents ``[channels, frames, height, width]`` that it came from."""

    latents: Tensor
    picture: Image

    def likeness(self, want: Shot) -> Likeness:
        return Likeness(
            psnr(self.picture, want.picture),
            ssim(self.picture, want.picture),
            levels(self.picture, want.picture),
            largest(self.latents, want.latents),
            differing(self.latents, want.latents),
        )


class Studio:
    """A model and one picture that is asked of it, in whatever attire."""

    def __init__(self, loom: Loom, asked: Asked) -> None:
        self.loom = loom
        self.asked = asked
        self._rows: dict[tuple[Policy, tuple[Attire, ...]], list[Tensor]] = {}

    @property
    def dtype(self) -> Dtype:
        layer = next(iter(self.loom.models[0].weights.layers.values()))
        return cast("Dtype", str(layer.weight.dtype).removeprefix("torch."))

    def draw(self, attires: Sequence[Attire], policy: Policy) -> list[Tensor]:
        """The latents of one batch, made now, from whatever state the model is in."""
        asked = self.asked
        return self.loom.latents(
            [
                Request(
                    asked.prompt,
                    asked.seed,
                    attire,
                    negative_prompt=asked.negative_prompt,
                    canvas=asked.canvas,
                    stages=asked.stages,
                    audio=asked.audio,
                )
                for attire in attires
            ],
            policy=policy,
        )

    def rows(self, attires: Sequence[Attire], policy: Policy) -> list[Tensor]:
        """The latents of one batch; the same batch is made once."""
        key = (policy, tuple(attires))
        if key not in self._rows:
            self._rows[key] = self.draw(attires, policy)
        return self._rows[key]

    def shot(self, latents: Tensor) -> Shot:
        return Shot(latents, self.loom.denoiser.frames(latents)[0])

    def plain(self, attire: Attire, policy: Policy) -> Shot:
        """What an attire looks like that is put on a bare model, alone."""
        return self.shot(self.rows([attire], policy)[0])

    def mix(self, attire: Attire) -> Mix:
        return Mix.of(Part(self.loom.adapters.get(o.name).key, o.strength) for o in attire)

    def state(self, attire: Attire, policy: Policy) -> Applied:
        mix = self.mix(attire)
        return Applied(fused=mix) if policy == "fused" else Applied.rows([mix])

    def become(self, want: Applied) -> None:
        for model in self.loom.models:
            model.become(want)

    @contextmanager
    def wearing(self, want: Applied) -> Iterator[None]:
        """``want`` inside the block, nothing after it."""
        try:
            self.become(want)
            yield
        finally:
            self.become(Applied())

    def fingerprint(self) -> Mapping[str, str]:
        """The digest of every parameter and buffer of every component."""
        return {
            f"{part}.{name}": digest([("", [tensor])])
            for part, module in self.loom.pipe.components.items()
            if isinstance(module, nn.Module)
            for name, tensor in chain(module.named_parameters(), module.named_buffers())
        }


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The names of tensors that are not what they were."""
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
