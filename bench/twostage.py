"""What two stages are measured on: one model for the peer, for nobody, and for ours by mode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import torch
from diffusers import LTX2VideoTransformer3DModel

from loraloom import Loom, Lora, Request
from loraloom.core.mix import Applied, Mix, Part
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.formats.read import survey
from loraloom.lora.model import become
from loraloom.memory.staging import Mode, Order, Plan, plan
from loraloom.models import find
from loraloom.models.ltx2.family import REFINE
from loraloom.models.sizes import sizes, uses

from .folder import DISTILLED, STYLE, WORDS, Size, write
from .measure import Way
from .subject import COMPONENT
from .theirs import UNGUIDED, Theirs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from loraloom import Canvas

    from .subject import Inputs

STEPS, SCALE = 4, 3.0
BASE = Stage("base", Sigmas(STEPS), 0.5, guidance=Guidance(Guides(SCALE), Guides(SCALE)))
STAGES = (BASE, REFINE)
THEIR_BASE = {
    **UNGUIDED,
    "guidance_scale": SCALE,
    "audio_guidance_scale": SCALE,
    "num_inference_steps": STEPS,
}
PROMPT, SEED = "a large red star on a plain blue background", 1
FIRST = {STYLE: 1.0}
SECOND = {STYLE: 1.0, DISTILLED: 1.0}
"""What the stages wear."""

SAME = 0.02
"""The most that two latents in bfloat16 may differ, relative to one."""
TOLD = 0.2
"""The most relative to what the adapters do to them: else one side could be doing less."""
STRONG = 10.0
"""Times the strengths that are measured, so that what adapters do stands out of the rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Ours:
    """A loaded model, and what its stages wear the way that it is kept."""

    loom: Loom
    first: Applied
    second: Applied

    @classmethod
    def load(cls, folder: Path, device: str, made: Plan) -> Ours:
        loom = Loom.load(str(folder), dtype="bfloat16", device=device, plan=made)
        style, distilled = (Part(loom.adapters.get(name).key, 1.0) for name in (STYLE, DISTILLED))
        first = Applied.rows([Mix.of([style])])
        second = Applied.rows([Mix.of([style])], fused=Mix.of([distilled]))
        if made.mode == "original":
            second = Applied.rows([Mix.of([style, distilled])])
        return cls(loom, first, second)

    @property
    def transformer(self) -> Any:
        return self.loom.pipe.transformer

    def wear(self, state: Applied) -> None:
        become(self.loom.models, state)

    def switch(self) -> Way:
        """From what the first stage wears to what the second does."""
        return Way(partial(self.wear, self.second), before=partial(self.wear, self.first))

    def video(self, request: Request) -> Tensor:
        return self.loom.latents([request])[0]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A folder, and what was loaded from it: by the peer, untouched, and by ours in every mode."""

    size: Size
    device: str
    folder: Path
    theirs: Theirs
    plain: Any
    ours: dict[Mode, Ours]

    def step(self, transformer: Any) -> Callable[[], Tensor]:
        """One pass of one of them at the size of the second stage, with sound."""
        inputs = inputs_of(transformer, self.size.step, WORDS)
        return lambda: transformer(**inputs)[0]

    def their_video(self, strength: float = 1.0) -> Tensor:
        """A whole request by the peer."""
        mixes = [dict.fromkeys(mix, strength) for mix in (FIRST, SECOND)]
        call = {"prompt": PROMPT, "seed": SEED, "first": THEIR_BASE}
        return self.theirs.video(call, self.size.request, mixes)[0]


def make(size: Size, device: str, folder: Path) -> Subject:
    write(size, folder)
    plain = LTX2VideoTransformer3DModel.from_pretrained(
        folder / COMPONENT, torch_dtype=torch.bfloat16, local_files_only=True
    )
    ours: dict[Mode, Ours] = {
        mode: Ours.load(folder, device, planned(folder, mode, "together"))
        for mode in get_args(Mode)
    }
    return Subject(size, device, folder, Theirs(folder, device), plain.to(device).eval(), ours)


def planned(folder: Path, mode: Mode, order: Order) -> Plan:
    """As the command line plans it, from the headers of the files."""
    card = find.card(str(folder))
    names = find.name_table(card)
    brought, own = (survey(card.adapters[name], names) for name in (STYLE, DISTILLED))
    return plan(mode, order, sizes(card, [brought], [own], "bfloat16"), uses(card, STAGES))


def asked(canvas: Canvas, strength: float = 1.0) -> Request:
    """One request; the distilled adapter is the second stage's own."""
    loras = (Lora(STYLE, strength), Lora(DISTILLED, stages=(0.0, strength)))
    return Request(PROMPT, SEED, loras, negative_prompt="", canvas=canvas, stages=STAGES)


def check(subject: Subject) -> None:
    """Both sides make the same latents, or nothing here is worth a measurement."""
    canvas = subject.size.request
    theirs = subject.their_video(STRONG)
    bare = subject.ours["original"].video(asked(canvas, 0.0))
    for mode, mine in subject.ours.items():
        apart, size, effect = (
            float(each.float().norm())
            for each in (mine.video(asked(canvas, STRONG)) - theirs, theirs, bare - theirs)
        )
        assert apart <= SAME * size, f"{mode}: latents differ by {apart / size:.4f} of their size"
        assert apart <= TOLD * effect, f"{mode}: by {apart / effect:.2f} of the adapters' effect"


def inputs_of(transformer: Any, canvas: Canvas, words: int) -> Inputs:
    """Of one pass over a canvas and its sound; the same in every call."""
    generator = torch.Generator().manual_seed(0)
    like = next(transformer.parameters())
    config = transformer.config

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(like)

    steps, high, wide = config.vae_scale_factors
    shape = (canvas.frames - 1) // steps + 1, canvas.height // high, canvas.width // wide
    heard = round(canvas.frames / canvas.rate * 25)  # the audio VAE's latents of a second
    time = torch.full((1,), 909.375, device=like.device)
    rope, audio_rope = transformer.rope, transformer.audio_rope
    return {
        "hidden_states": noise(1, math.prod(shape), config.in_channels),
        "audio_hidden_states": noise(1, heard, config.audio_in_channels),
        "encoder_hidden_states": noise(1, words, config.cross_attention_dim),
        "audio_encoder_hidden_states": noise(1, words, config.audio_cross_attention_dim),
        "encoder_attention_mask": torch.ones(1, words).to(like),
        "audio_encoder_attention_mask": torch.ones(1, words).to(like),
        "timestep": time[:, None],
        "audio_timestep": time,
        "sigma": time,
        "audio_sigma": time,
        "video_coords": rope.prepare_video_coords(1, *shape, like.device, fps=canvas.rate),
        "audio_coords": audio_rope.prepare_audio_coords(1, heard, like.device),
        "use_cross_timestep": True,
        "return_dict": False,
    }
