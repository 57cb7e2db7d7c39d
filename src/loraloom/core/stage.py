"""One pass of a pipeline as data: its size, noise levels, guidance, and what is worn in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from loraloom.errors import InvalidStageError

from .lora import Lora
from .mix import Component, finite

if TYPE_CHECKING:
    from .canvas import Canvas, Sampling

Modality: TypeAlias = Literal["video", "audio"]
"""What is denoised: a video, of which a picture is one frame, and the sound beside it."""

Pass: TypeAlias = Literal["prompt", "negative", "perturbed", "isolated"]
"""One prediction of a step: for the prompt; for the negative one; with self-attention skipped in
some blocks; without attention between video and sound."""

Solver: TypeAlias = Literal["euler", "res2s", "scheduler"]
"""How a step is taken; ``scheduler`` is the model's own."""


@dataclass(frozen=True, slots=True)
class Guides:
    """How far one modality is pushed away from what the weaker passes predict.

    Attributes:
        cfg: classifier-free guidance, from the negative prompt; 1 is none.
        stg: spatio-temporal guidance, from the perturbed pass; 0 is none.
        modality: from the isolated pass; 1 is none.
        rescale: how much of the prompt's own deviation is restored, 0 to 1.
    """

    cfg: float = 1.0
    stg: float = 0.0
    modality: float = 1.0
    rescale: float = 0.0

    @property
    def passes(self) -> frozenset[Pass]:
        """The passes that are computed for these scales, the main one included."""
        some: dict[Pass, bool] = {
            "prompt": True,
            "negative": self.cfg > 1,
            "perturbed": self.stg > 0,
            "isolated": self.modality > 1,
        }
        return frozenset(each for each, wanted in some.items() if wanted)


ALONE = Guides()
"""One pass, no guidance."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """How a stage is guided.

    Attributes:
        blocks: of the transformer whose self-attention the perturbed pass skips.
        embedded: the scale that a distilled model is told instead (FLUX.1-dev).
    """

    video: Guides = ALONE
    audio: Guides = ALONE
    blocks: tuple[int, ...] = ()
    embedded: float | None = None

    @property
    def passes(self) -> frozenset[Pass]:
        return self.video.passes | self.audio.passes

    def at(self, cfg: float) -> Guidance:
        """The same with another scale for the video; 1 is no guidance of any kind."""
        if cfg == 1 or self.embedded is not None:
            return replace(UNGUIDED, embedded=None if self.embedded is None else cfg)
        return replace(self, video=replace(self.video, cfg=cfg))


UNGUIDED = Guidance()


@dataclass(frozen=True, slots=True)
class Sigmas:
    """The noise levels of a stage.

    Attributes:
        steps: how many of them, where the model's scheduler spaces them.
        given: the levels themselves, falling, without the 0 at the end; empty leaves them to the
            scheduler.
        tokens: whether the scheduler's shift is for those of the video, or for the most that it
            was made for.
        until: the stage ends before the first level below this one.
    """

    steps: int = 0
    given: tuple[float, ...] = ()
    tokens: Literal["own", "most"] = "own"
    until: float = 0.0

    @property
    def count(self) -> int:
        """Steps, up to noise level 0."""
        return len(self.given) or self.steps


@dataclass(frozen=True, slots=True)
class Stage:
    """One pass.

    Attributes:
        name: by which progress and errors call it.
        sigmas: ``None`` takes what the stage before left over, with no fresh noise.
        size: its width and height as a share of the canvas; what a smaller stage before it made
            is enlarged first.
        solver: how a step is taken.
        guidance: how the prediction of a step is made.
        wears: adapters of its own, which a request wears beside those that it names; one that it
            names itself is worn as the request says.
        component: which one denoises; ``None`` is the main one.
        references: whether it sees the references of a request.
    """

    name: str
    sigmas: Sigmas | None
    size: float = 1.0
    solver: Solver = "euler"
    guidance: Guidance = UNGUIDED
    wears: tuple[Lora, ...] = ()
    component: Component | None = None
    references: bool = False

    def canvas(self, whole: Canvas) -> Canvas:
        """The canvas of this stage.

        Raises:
            InvalidStageError: a side is not a whole number of pixels.
        """
        width, height = whole.width * self.size, whole.height * self.size
        if width != int(width) or height != int(height):
            raise InvalidStageError(
                f"stage {self.name!r} has {self.size:g} of {whole.width}x{whole.height}, "
                f"which is {width:g}x{height:g} and no whole number of pixels"
            )
        return replace(whole, width=int(width), height=int(height))

    def describe(self, whole: Canvas) -> str:
        """In words for a person; what it wears is told elsewhere."""
        canvas, cfg = self.canvas(whole), self.guidance.video.cfg
        steps = f"{self.sigmas.count} steps" if self.sigmas else "the remaining steps"
        scale = cfg if self.guidance.embedded is None else self.guidance.embedded
        guided = f", guidance {scale:g}" if self.guidance != UNGUIDED else ""
        return f"{self.name}: {steps}{guided}, {canvas.width}x{canvas.height}, {self.solver}"


Stages: TypeAlias = tuple[Stage, ...]


def check(stages: Stages) -> None:
    """Return if a run can go through ``stages``.

    Raises:
        InvalidStageError: none, two of one name, a size that shrinks or does not end in the
            canvas, noise levels that do not fall, or a first stage without any.
    """
    if not stages:
        raise InvalidStageError("there are no stages, want one or more")
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise InvalidStageError(f"stages are called {', '.join(names)}, want names of their own")
    sizes = [stage.size for stage in stages]
    if not all(0 < small <= large for small, large in pairwise((*sizes, 1.0))) or sizes[-1] != 1:
        raise InvalidStageError(
            f"the sizes of the stages are {sizes}, want rising ones that end in 1"
        )
    if stages[0].sigmas is None:
        raise InvalidStageError(f"stage {names[0]!r} is the first and has no noise levels")
    for before, stage in zip((None, *stages), stages, strict=False):
        _check_levels(stage, before)
        _check_parts(stage)
    for stage, after in zip(stages, (*stages[1:], None), strict=True):
        stops = stage.sigmas and stage.sigmas.until
        if stops and (not 0 < stops <= 1 or after is None or after.sigmas is not None):
            raise InvalidStageError(
                f"stage {stage.name!r} stops at noise level {stops}, want one between 0 and 1 and "
                "a stage that goes on from there"
            )


def _check_levels(stage: Stage, before: Stage | None) -> None:
    sigmas = stage.sigmas
    if sigmas is None:
        assert before
        if before.sigmas is None or not before.sigmas.until or before.size != stage.size:
            raise InvalidStageError(
                f"stage {stage.name!r} goes on where {before.name!r} stops, which is to stop early "
                "and at the same size"
            )
        if (before.references, before.solver) != (stage.references, stage.solver):
            raise InvalidStageError(
                f"stage {stage.name!r} goes on where {before.name!r} stops, which is to have its "
                "solver, and to see references if it does"
            )
        return
    levels = list(sigmas.given)
    if before and (not levels or levels[0] >= 1):
        raise InvalidStageError(
            f"stage {stage.name!r} begins at full noise, which leaves nothing of what "
            f"{before.name!r} made; want given levels below 1"
        )
    falling = all(high > low for high, low in pairwise((*levels, 0.0)))
    if levels and not (falling and levels[0] <= 1):
        raise InvalidStageError(
            f"the noise levels of stage {stage.name!r} are {levels}, want falling ones from 1 to 0"
        )
    if not levels and (not isinstance(sigmas.steps, int) or sigmas.steps < 1):
        raise InvalidStageError(
            f"the number of steps of stage {stage.name!r} is {sigmas.steps}, want a whole number "
            "from 1"
        )


def _check_parts(stage: Stage) -> None:
    if stage.solver not in get_args(Solver):
        raise InvalidStageError(
            f"the solver of stage {stage.name!r} is {stage.solver!r}, want one of "
            f"{', '.join(get_args(Solver))}"
        )
    for lora in stage.wears:
        if lora.stages or lora.manner:
            raise InvalidStageError(
                f"adapter {lora.name!r} of stage {stage.name!r} has strengths by stage or a "
                "manner, which only a request gives"
            )
    for modality, guides in (("video", stage.guidance.video), ("sound", stage.guidance.audio)):
        who = f"the guidance of {modality} in stage {stage.name!r}"
        least = {"cfg": 1.0, "stg": 0.0, "modality": 1.0, "rescale": 0.0}
        for name, low in least.items():
            number = finite(getattr(guides, name), who)
            if number < low or (name == "rescale" and number > 1):
                raise InvalidStageError(
                    f"{name} of {who} is {number:g}, want {'0 to 1' if name == 'rescale' else ''}"
                    f"{'' if name == 'rescale' else f'{low:g} or more'}"
                )
    if stage.guidance.embedded is not None:
        finite(stage.guidance.embedded, f"the embedded guidance in stage {stage.name!r}")


def asked(stages: Stages, sampling: Sampling) -> Stages:
    """``stages`` with the steps and the guidance that a request asks for.

    Steps are for the stages whose levels are not given, guidance for those that are guided.

    Raises:
        InvalidStageError: there is no such stage.
    """
    if not stages:
        return stages
    names = ", ".join(stage.name for stage in stages)
    steps, cfg = sampling.steps, sampling.guidance
    if cfg is not None:
        finite(cfg, "guidance")
    if steps is not None and not any(map(_spaced, stages)):
        raise InvalidStageError(
            f"{steps} steps are asked for, the noise levels of {names} are given"
        )
    if cfg not in {None, 1.0} and all(stage.guidance == UNGUIDED for stage in stages):
        raise InvalidStageError(f"guidance {cfg:g} is asked for, and {names} is not guided")
    return tuple(_asked(stage, sampling) for stage in stages)


def going_on(stages: Stages, level: float) -> Stages:
    """``stages`` whose first begins at a noise level below 1, in something that is there.

    It takes as many of its steps as the level is of all noise, evenly spaced; levels that are
    given remain as far as they are lower.
    """
    first = stages[0]
    assert first.sigmas
    lower = tuple(each for each in first.sigmas.given if each < level)
    if not first.sigmas.given:
        count = max(1, round(first.sigmas.steps * level))
        lower = tuple(level * (count - done) / count for done in range(1, count))
    return (replace(first, sigmas=replace(first.sigmas, given=(level, *lower))), *stages[1:])


def _spaced(stage: Stage) -> bool:
    return stage.sigmas is not None and not stage.sigmas.given


def _asked(stage: Stage, sampling: Sampling) -> Stage:
    if sampling.steps is not None and stage.sigmas and not stage.sigmas.given:
        stage = replace(stage, sigmas=replace(stage.sigmas, steps=sampling.steps))
    if sampling.guidance is not None and stage.guidance != UNGUIDED:
        stage = replace(stage, guidance=stage.guidance.at(sampling.guidance))
    return stage
