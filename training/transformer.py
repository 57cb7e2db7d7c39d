"""Train transformer and connectors: pictures first, then a mix with clips and conditions."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from torch import Tensor, nn

from training import configs
from training.flow import Denoiser, TextCache, condition, draw_batch, loss_of, sigmas
from training.latents import Shelf, load
from training.loops import Average, Budget, Masters, Rates, say
from training.scenes import loose_caption


@dataclass(frozen=True, slots=True)
class Course:
    """One kind of batch and how often it comes."""

    shelf: str
    batch: int
    shift: float
    early: float
    late: float


COURSES = (
    Course("pictures128", 64, 0.6, 0.65, 0.13),
    Course("pictures64", 128, 0.4, 0.35, 0.07),
    Course("clips128", 12, 1.3, 0.0, 0.43),
    Course("clips64", 40, 1.0, 0.0, 0.37),
)


def muon(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "_blocks" in name and name.endswith("weight")


def trainable(denoiser: Denoiser) -> None:
    """The video stream and its text; sound is trained apart."""
    for name, parameter in denoiser.named_parameters():
        sound = "audio" in name or "a2v" in name or "v2a" in name or "av_cross" in name
        parameter.requires_grad_(not sound)


def load_denoiser(folder: Path) -> Denoiser:
    return Denoiser(
        LTX2VideoTransformer3DModel.from_pretrained(folder / "transformer", dtype=torch.bfloat16),
        LTX2TextConnectors.from_pretrained(folder / "connectors", dtype=torch.bfloat16),
    )


def compile_blocks(denoiser: Denoiser) -> None:
    """Every shape compiles once for all blocks, in seconds, and saves a fifth of each step."""
    torch._dynamo.config.recompile_limit = 64
    for block in denoiser.transformer.transformer_blocks:
        block.compile(dynamic=False)


def save(denoiser: Denoiser, folder: Path) -> None:
    denoiser.transformer.save_pretrained(folder / "transformer")
    denoiser.connectors.save_pretrained(folder / "connectors")


def save_average(denoiser: Denoiser, average: Average, folder: Path) -> None:
    average.write()
    save(denoiser, folder)
    with torch.no_grad():
        for live, copy in average.masters.pairs():
            live.copy_(copy)


def one_loss(
    denoiser: Denoiser, shelf: Shelf, course: Course, words: TextCache, rng: random.Random
) -> Tensor:
    picked = [rng.randrange(len(shelf.scenes)) for _ in range(course.batch)]
    captions = [
        "" if rng.random() < 0.1 else loose_caption(shelf.scenes[i][0], rng) for i in picked
    ]
    batch = draw_batch(denoiser.transformer, shelf, picked, words.read(captions))
    batch = condition(denoiser.transformer, batch, shelf, picked, rng)
    return loss_of(denoiser, batch, sigmas(len(picked), course.shift))


def train(denoiser: Denoiser, words: TextCache, options: argparse.Namespace) -> None:
    rng = random.Random(2)
    shelves: dict[str, Shelf] = {}
    masters = Masters(
        denoiser.named_parameters(), Rates(options.rate, options.rate / 3, decay=0.05), muon
    )
    average = Average(masters)
    budget = Budget(options.minutes, warmup=0.005)
    seen = {c.shelf: [0, 0.0] for c in COURSES}
    step, next_save = 0, 300.0
    while budget.progress < 1:
        late = budget.progress > options.pictures
        course = rng.choices(COURSES, [c.late if late else c.early for c in COURSES])[0]
        if course.shelf not in shelves:
            shelves[course.shelf] = load(course.shelf)
        loss = one_loss(denoiser, shelves[course.shelf], course, words, rng)
        loss.backward()
        masters.step(budget.rate())
        average.update()
        step += 1
        count = seen[course.shelf]
        count[0] += 1
        count[1] += (loss.item() - count[1]) * max(0.03, 1 / count[0])
        if step % 50 == 0:
            kinds = " ".join(f"{k} {v:.4f}" for k, (n, v) in seen.items() if n)
            say(f"{step} {budget.seconds:.0f}s {kinds}")
        if budget.seconds > next_save:
            next_save += 300
            save_average(denoiser, average, options.out)
    average.write()
    save(denoiser, options.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--pictures", type=float, default=0.4, help="share of pictures only")
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--start", type=Path, default=configs.WEIGHTS)
    parser.add_argument("--out", type=Path, default=configs.WORK / "transformer")
    options = parser.parse_args()
    torch.manual_seed(configs.SEED + 1)
    denoiser = load_denoiser(options.start)
    trainable(denoiser)
    compile_blocks(denoiser)
    train(denoiser, TextCache(configs.WEIGHTS), options)


if __name__ == "__main__":
    main()
