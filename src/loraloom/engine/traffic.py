"""How often the layers of a component are called in a run, and with how many entries."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from loraloom.pipelines.samplers import SAMPLERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loraloom.core.mix import Component, Site
    from loraloom.lora.model import LoraModel
    from loraloom.models.card import Grid

    from .job import Job

KEPT = 16
"""How many shapes of runs are remembered."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the size of a forward depends on.

    Attributes:
        rows: requests in the batch.
        tokens: of one of them in the main component, as far as its canvas tells: the mean over
            the steps of its stages.
        passes: of every stage, as predictions a step.
    """

    rows: int
    tokens: int
    passes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """What reaches one layer: calls in a run of ``steps``, and the entries of a call."""

    calls: float
    entries: float


@dataclass(frozen=True, slots=True)
class Run:
    """One batch as far as its cost depends on it."""

    shape: Shape
    steps: int

    @classmethod
    def of(cls, batch: Sequence[Job], grid: Grid) -> Run:
        """Of jobs that run together.

        A token is one place of the latent video, as far as the grid of sizes tells: where the VAE
        is finer there are more of them, which the first run shows.
        """
        canvas, stages, steps = batch[0].canvas, batch[0].stages, batch[0].steps
        frames = grid.latent(canvas.frames - 1) + 1
        whole = frames * (canvas.width // grid.pixels) * (canvas.height // grid.pixels)
        share = sum(each.size**2 * each.sigmas.count for each in stages if each.sigmas) / steps
        passes = tuple(
            len(stage.guidance.passes) * SAMPLERS[stage.solver].evaluations for stage in stages
        )
        return cls(Shape(len(batch), round(whole * share), passes), steps)


Flows = dict[tuple["Component", "Site"], Flow]


class Traffic:
    """What was seen of earlier runs.

    The first run of a shape is watched: a hook on every layer counts its calls and entries, which
    is exact whatever the model does (guidance in one pass or in several, text and sound beside
    the picture, a connector that is called once). A shape that was never seen is estimated.
    """

    def __init__(self, models: Sequence[LoraModel]) -> None:
        self.models = models
        self.seen: OrderedDict[Shape, tuple[int, Flows]] = OrderedDict()

    def flow(self, model: LoraModel, site: Site, run: Run) -> Flow:
        """Calls in a run and entries of one of them; a layer that was never called has none.

        Of a shape that was not seen: the entries of the last one that was, in proportion to rows
        and tokens; of the first shape of all, every token of every row, once a step.
        """
        shape, steps, scale = run.shape, run.steps, 1.0
        seen = self.seen.get(shape)
        if seen is None and self.seen:
            other, seen = next(reversed(self.seen.items()))
            scale = shape.rows * shape.tokens / (other.rows * other.tokens)
        # experts take turns at the steps and are named after the first: transformer, transformer_2
        main = model.component.startswith(self.models[0].component)
        if seen is None:
            rows = shape.rows * max(shape.passes)
            return Flow(steps if main else 1, rows * shape.tokens)
        before, flows = seen
        flow = flows.get((model.component, site), Flow(0, 0))
        # what denoises is called in proportion to the steps, the others once in a run
        return Flow(flow.calls * (steps / before if main else 1), flow.entries * scale)

    @contextmanager
    def watching(self, run: Run) -> Iterator[None]:
        """Count in the block, which is one run, if its shape was not seen before."""
        shape, steps = run.shape, run.steps
        if shape in self.seen:
            self.seen.move_to_end(shape)
            yield
            return
        counts: dict[tuple[Component, Site], Count] = {}
        with ExitStack() as hooks:
            for model in self.models:
                for site, layer in model.weights.layers.items():
                    count = counts[model.component, site] = Count()
                    hook = layer.register_forward_pre_hook(count, with_kwargs=True)
                    hooks.callback(hook.remove)
            yield
        self.seen[shape] = steps, {key: each.flow for key, each in counts.items() if each.calls}
        while len(self.seen) > KEPT:
            self.seen.popitem(last=False)


class Count:
    """A hook of a layer that counts what reaches it."""

    __slots__ = ("calls", "entries")

    def __init__(self) -> None:
        self.calls = self.entries = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        axis = 1 if x.ndim > 2 and not isinstance(module, nn.Linear) else -1
        wide = 1 if isinstance(module, nn.Embedding) else x.shape[axis]
        self.calls += 1
        self.entries += x.numel() // max(wide, 1)

    @property
    def flow(self) -> Flow:
        return Flow(self.calls, self.entries / self.calls)
