"""Train the four adapters with peft: two styles, a transition, and three-step sampling."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from training import configs
from training.build import lora_config, save_adapter
from training.flow import (
    Batch,
    Denoiser,
    Text,
    TextCache,
    draw_batch,
    loss_of,
    pack,
    sigmas,
    with_first,
    with_key,
)
from training.latents import KEY_FRAMES, Shelf, load
from training.loops import Budget, Masters, Rates, say
from training.scenes import Scene, caption, loose_caption
from training.transformer import load_denoiser
from training.upsampler import Upsampler, load_upsampler


@dataclass(frozen=True, slots=True)
class Lesson:
    shelf: str
    batch: int
    share: float
    shift: float


@dataclass(frozen=True, slots=True)
class Adapter:
    lessons: tuple[Lesson, ...]
    trigger: str
    description: str


ADAPTERS = {
    "neon": Adapter(
        (
            Lesson("neon128", 48, 0.65, 0.6),
            Lesson("neon64", 96, 0.10, 0.4),
            Lesson("neonclips128", 8, 0.25, 1.0),
        ),
        "",
        "glowing outlines at night; any caption of the base model",
    ),
    "sketch": Adapter(
        (
            Lesson("sketch128", 48, 0.65, 0.6),
            Lesson("sketch64", 96, 0.10, 0.4),
            Lesson("sketchclips128", 8, 0.25, 1.0),
        ),
        "",
        "pencil and crayon on paper; any caption of the base model",
    ),
    "transition": Adapter(
        (Lesson("turns128", 8, 0.75, 1.0), Lesson("turns64", 32, 0.25, 0.6)),
        "",
        "give the first and the last frame: one scene opens into the other through an iris",
    ),
    "distilled": Adapter(
        (Lesson("pictures128", 32, 0.6, 0.0), Lesson("clips128", 8, 0.4, 0.0)),
        "",
        "stage 2 in three steps without guidance, from upsampled latents",
    ),
}


def turn_caption(pair: tuple[Scene, Scene], rng: random.Random) -> str:
    before, after = pair
    chance = rng.random()
    if chance < 0.35:
        return caption(after)
    if chance < 0.6:
        return caption(before)
    if chance < 0.9:
        return f"a {before.colour} {before.shape} turns into a {after.colour} {after.shape}"
    return ""


def given_ends(denoiser: Denoiser, batch: Batch, shelf: Shelf, picked: list[int], at: int) -> Batch:
    """First frame in place, last frame appended at pixel frame `at`."""
    assert shelf.keys is not None
    batch = with_first(batch, shelf.latents[0, 0, 0].numel())
    return with_key(denoiser.transformer, batch, shelf.keys[picked, KEY_FRAMES.index(16)], at)


def low_start(upsampler: Upsampler, batch: Batch, low: Shelf, picked: list[int]) -> Batch:
    """Begin between the upsampled latents and the target, as later steps do."""
    with torch.no_grad():
        start = pack(upsampler(low.latents[picked])).float()
    blend = torch.rand(len(picked), 1, 1) * (torch.rand(len(picked), 1, 1) < 0.6)
    return replace(batch, start=start.lerp(batch.x0.float(), blend).bfloat16())


def stage_2_sigmas(count: int) -> Tensor:
    return torch.tensor(configs.STAGE_2_SIGMAS)[torch.randint(3, (count,))]


class Trainer:
    """One adapter's batches: which latents, which conditions, which noise."""

    def __init__(self, name: str, denoiser: Denoiser, words: TextCache) -> None:
        self.name, self.denoiser, self.words = name, denoiser, words
        self.lessons = ADAPTERS[name].lessons
        self.shelves = {lesson.shelf: load(lesson.shelf) for lesson in self.lessons}
        self.rng = random.Random(4)

    def loss(self, upsampler: Upsampler | None) -> Tensor:
        lesson = self.rng.choices(self.lessons, [each.share for each in self.lessons])[0]
        shelf, low = self.shelves[lesson.shelf], None
        if upsampler:
            low = load_low(lesson.shelf)
        count = len(low.scenes) if low else len(shelf.scenes)
        picked = [self.rng.randrange(count) for _ in range(lesson.batch)]
        batch = draw_batch(self.denoiser.transformer, shelf, picked, self.text(shelf, picked))
        if self.name == "transition":
            batch = given_ends(self.denoiser, batch, shelf, picked, self.rng.choice((13, 16)))
        levels = sigmas(lesson.batch, lesson.shift)
        if upsampler and low:
            batch = low_start(upsampler, batch, low, picked)
            levels = stage_2_sigmas(lesson.batch)
        return loss_of(self.denoiser, batch, levels)

    def text(self, shelf: Shelf, picked: list[int]) -> Text:
        if self.name == "transition":
            return self.words.read([turn_caption(shelf.scenes[i], self.rng) for i in picked])
        drop = 0.0 if self.name == "distilled" else 0.1
        return self.words.read(
            [
                "" if self.rng.random() < drop else loose_caption(shelf.scenes[i][0], self.rng)
                for i in picked
            ]
        )


LOW: dict[str, Shelf] = {}


def load_low(name: str) -> Shelf:
    if name not in LOW:
        LOW[name] = load(name.replace("128", "64"))
    return LOW[name]


def train(name: str, options: argparse.Namespace) -> None:
    torch.manual_seed(configs.SEED + 5)
    denoiser = load_denoiser(options.base).requires_grad_(requires_grad=False)
    if options.resume:
        model = PeftModel.from_pretrained(
            denoiser.transformer, options.resume / name, is_trainable=True
        )
    else:
        model = get_peft_model(denoiser.transformer, lora_config())
    trainer = Trainer(name, denoiser, TextCache(configs.WEIGHTS))
    upsampler = load_upsampler(options.upsampler, options.vae) if name == "distilled" else None
    model.to(torch.bfloat16)
    masters = Masters(model.named_parameters(), Rates(0.0, options.rate), lambda *_: False)
    budget, step, seen = Budget(options.minutes), 0, 0.0
    while budget.progress < 1:
        loss = trainer.loss(upsampler)
        loss.backward()
        masters.step(budget.rate())
        step += 1
        seen += (loss.item() - seen) * max(0.03, 1 / step)
        if step % 25 == 0:
            say(f"{name} {step} {budget.seconds:.0f}s {seen:.4f}")
    about = ADAPTERS[name]
    save_adapter(model, options.out / name, about.trigger, about.description)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=configs.ADAPTERS)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--resume", type=Path, help="folder of adapters to train further")
    parser.add_argument("--base", type=Path, default=configs.WORK / "transformer")
    parser.add_argument("--vae", type=Path, default=configs.WORK / "vae")
    parser.add_argument("--upsampler", type=Path, default=configs.WORK / "upsampler")
    parser.add_argument("--out", type=Path, default=configs.WORK / "adapters")
    options = parser.parse_args()
    for name in options.names:
        train(name, options)


if __name__ == "__main__":
    main()
