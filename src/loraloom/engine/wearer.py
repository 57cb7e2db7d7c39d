"""Adapters on any pipeline of diffusers: a list of prompts, and what each of them wears."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from loraloom.core.mix import Applied
from loraloom.core.packing import shapes
from loraloom.errors import ModelError
from loraloom.formats.names import NameTable
from loraloom.lora.model import LoraModel
from loraloom.memory.residency import ORIGINAL
from loraloom.models.checkpoint import Checkpoint
from loraloom.store.catalog import Catalog

from .job import schedule

if TYPE_CHECKING:
    from os import PathLike

    from loraloom.core.mix import Component
    from loraloom.core.request import Lora
    from loraloom.memory.residency import Residency

Callback: TypeAlias = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""What the pipelines of diffusers take as ``callback_on_step_end``."""

DENOISERS = ("transformer", "unet")
"""How the names of components begin that are called with the samples of a batch."""

ENCODERS = ("text_encoder", "connectors")
"""Likewise those that are called with its prompts, before samples are made of them."""


class Wearer:
    """A pipeline of diffusers whose prompts wear what each of them asks for.

    ``adapters`` is the catalogue to add files to; ``pipe`` is called as ever, inside of
    :meth:`wearing`.

    Args:
        pipe: any pipeline that takes a list of prompts.
        root: the folder that it was loaded from: what of its weights lies there to the bit need
            not be kept in memory while adapters are fused.
        residency: what memory may be spent on quick changes of fused weights.

    Raises:
        ModelError: the pipeline has no component that adapters are known for.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        root: str | PathLike[str] | None = None,
        residency: Residency = ORIGINAL,
    ) -> None:
        named = sorted(
            (name, part)
            for name, part in pipe.components.items()
            if name.startswith(DENOISERS + ENCODERS) and isinstance(part, nn.Module)
        )
        main = next((name for name, _ in named if name.startswith(DENOISERS)), None)
        if main is None:
            raise ModelError(
                f"{type(pipe).__name__} has no transformer and no unet, want one to put adapters on"
            )
        self.pipe = pipe
        self.models = tuple(
            LoraModel(name, part, {}, checkpoint=_checkpoint(root, name), residency=residency)
            for name, part in named
        )
        self.adapters = Catalog(NameTable({m.component: _shapes(m) for m in self.models}, main))
        for model in self.models:
            model.fitter.adapters = self.adapters.by_key

    @contextmanager
    def wearing(
        self, batch: Sequence[Sequence[Lora]], *, fused: Sequence[Lora] = (), each: int = 1
    ) -> Iterator[Callback]:
        """Prompt *i* wears ``batch[i]`` inside the block; after it, what was worn before.

        Gives the callback to call the pipeline with where strengths change over denoising.

        Args:
            batch: for every prompt, the adapters that it wears beside the weights.
            fused: what all of them wear in the weights; its strengths at the beginning hold.
            each: samples of a prompt, as the pipeline is asked for.

        Raises:
            UnknownAdapterError: the catalogue does not hold one of them.
            InvalidStrengthError, InvalidMixError: as :meth:`Mix.of`.
        """
        named = {lora.name for loras in (*batch, fused) for lora in loras}
        keys = {name: self.adapters.edition(name).key for name in named}
        worn = [schedule(loras, keys) for loras in batch]
        inside = schedule(fused, keys)

        def state(component: Component, progress: float) -> Applied:
            copies = each if component.startswith(DENOISERS) else 1
            mixes = [one.at(progress) for one in worn for _ in range(copies)]
            return Applied.rows(mixes, fused=inside.at(0.0))

        def stepped(pipe: Any, step: int, _time: Any, _tensors: Any) -> dict[str, Any]:
            if step + 1 < pipe.num_timesteps:
                for model in self.models:
                    model.become(state(model.component, (step + 1) / pipe.num_timesteps))
            return {}

        with ExitStack() as during:
            # a name that is published anew under way does not take the old adapter along
            during.enter_context(self.adapters.held(keys.values()))
            for model in self.models:
                during.enter_context(model.wearing(state(model.component, 0.0)))
            yield stepped

    def release(self) -> None:
        """Take everything off and leave the pipeline as it was before."""
        for model in self.models:
            model.release()


def _shapes(model: LoraModel) -> dict[str, tuple[int, ...]]:
    layers = {site: layer.shape for site, layer in model.weights.layers.items()}
    return layers | shapes(model.fitter.packs)


def _checkpoint(root: str | PathLike[str] | None, component: Component) -> Checkpoint | None:
    return Checkpoint(Path(root) / component, str(root)) if root is not None else None
