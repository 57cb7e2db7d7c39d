"""Measure one stage against two, and three distilled steps against the full schedule."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loraloom import Loom, Lora, Request, Result
from loraloom.core.request import Condition
from loraloom.core.stage import Sigmas, Stages
from loraloom.pipelines.sheet import Strip, Tile, contact_sheet
from training import configs
from training.distil import levels
from training.judge import PIXELS, judge, motion_of
from training.loops import say
from training.nearest import decibels, drawn, nearest, off, turned
from training.scenes import Scene, caption, draw_scene

ATTRIBUTES = ("shape", "colour", "background", "pattern", "size")
BATCH = 8
FULL = 15  # steps of the full schedule over the levels of the refine stage
QUICK = 5  # steps of one stage that take as long as two stages
SHOWN = 6
PARTS = ("text", "images")
Clips: TypeAlias = "list[Tensor]"
Pair: TypeAlias = "tuple[Scene, Scene]"


@dataclass(frozen=True, slots=True)
class Made:
    """Clips [3, T, H, W] in 0..1, and the seconds of one core that one of them took."""

    clips: Clips
    seconds: float


@dataclass(frozen=True, slots=True)
class Score:
    """Rates of the middle frame and the motion; decibels to the nearest drawing of the caption."""

    rates: dict[str, float]
    whole: float
    edges: float
    seconds: float


def ways(one: Stages, two: Stages) -> dict[str, Stages]:
    """What is compared, by name; seeds and the first stage of two are the same in all."""
    small, refine = two
    many = replace(
        refine, sigmas=Sigmas(given=tuple(levels(configs.STAGE_2_SIGMAS[0], FULL)[:-1])), wears=()
    )
    return {
        "one stage": one,
        "one stage, as quick": (replace(one[0], sigmas=Sigmas(QUICK)),),
        "two stages": two,
        "no adapter": (small, replace(refine, wears=())),
        "full schedule": (small, replace(many, guidance=small.guidance)),
        "full, unguided": (small, many),
    }


def scenes(count: int, seed: int) -> list[Scene]:
    """Moving scenes whose shape, colour and background were never trained together."""
    rng = random.Random(seed)
    return [draw_scene(rng, held=True, moving=True) for _ in range(count)]


def pairs(count: int, seed: int) -> list[Pair]:
    rng = random.Random(seed)
    return [(draw_scene(rng, held=True), draw_scene(rng, held=True)) for _ in range(count)]


def pixels(result: Result) -> Tensor:
    """[3, T, H, W] in 0..1."""
    frames = np.stack([np.asarray(frame) for frame in result.frames])
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255


def image(picture: Tensor) -> Image.Image:
    values = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(values.numpy())


def run(loom: Loom, requests: Sequence[Request], stages: Stages) -> Made:
    clips: Clips = []
    start = time.process_time()  # what else runs here does not count
    for at in range(0, len(requests), BATCH):
        batch = [replace(each, stages=stages, audio=False) for each in requests[at : at + BATCH]]
        clips += [pixels(result) for result in loom.videos(batch)]
    return Made(clips, round((time.process_time() - start) / len(requests), 2))


def score(made: Made, wanted: Sequence[Scene]) -> Score:
    verdicts = [judge(clip[:, clip.shape[1] // 2]) for clip in made.clips]
    right = [
        {name: getattr(verdict, name) == getattr(scene, name) for name in ATTRIBUTES}
        for verdict, scene in zip(verdicts, wanted, strict=True)
    ]
    rates = {name: round(mean(each[name] for each in right), 3) for name in ATTRIBUTES}
    rates["all five"] = round(mean(all(each.values()) for each in right), 3)
    moved = [motion_of(c) == s.motion for c, s in zip(made.clips, wanted, strict=True)]
    rates["motion"] = round(mean(moved), 3)
    found = [off(clip, nearest(clip, s)) for clip, s in zip(made.clips, wanted, strict=True)]
    whole, edges = (mean(getattr(each, name) for each in found) for name in ("whole", "edges"))
    return Score(rates, round(whole, 2), round(edges, 2), made.seconds)


def save(picture: Image.Image, path: Path) -> None:
    """Without the last two bits of a colour: nobody sees them, and they are half of the file."""
    picture.point(lambda value: round(value / 4) * 4).save(path, optimize=True)


def apart(one: Clips, other: Clips) -> float:
    """Mean decibels between clips of the same requests."""
    return round(mean(decibels(a, b) for a, b in zip(one, other, strict=True)), 2)


def measure_text(loom: Loom, count: int) -> tuple[dict[str, object], dict[str, Made]]:
    wanted = scenes(count, 21)
    requests = [Request(caption(scene), 100 + i) for i, scene in enumerate(wanted)]
    pipelines, made, report = loom.card.defaults, {}, {}
    for name, stages in ways(
        pipelines.pipeline("one-stage"), pipelines.pipeline("two-stage")
    ).items():
        made[name] = run(loom, requests, stages)
        report[name] = asdict(score(made[name], wanted))
        say(f"{name}: {report[name]}")
    distances = {
        f"{name} to {full}": apart(made[name].clips, made[full].clips)
        for full in ("full schedule", "full, unguided")
        for name in ("two stages", "no adapter", full)
        if name != full
    }
    say(f"{distances}")
    return {"text": report, "decibels between": distances}, made


def first_images(wanted: Sequence[Scene]) -> list[Request]:
    """Each caption with the first frame as it is drawn."""
    like = torch.zeros(3, 17, PIXELS, PIXELS)
    return [
        Request(caption(s), 300 + i, conditions=(Condition(image(drawn(s, like)[:, 0])),))
        for i, s in enumerate(wanted)
    ]


def transitions(wanted: Sequence[Pair]) -> list[Request]:
    """Both end frames, and the adapter that opens one into the other."""
    like = torch.zeros(3, 17, PIXELS, PIXELS)
    made = []
    for i, pair in enumerate(wanted):
        clip = turned(*pair, like)
        ends = Condition(image(clip[:, 0])), Condition(image(clip[:, -1]), frame=-1)
        made.append(Request(caption(pair[1]), 500 + i, (Lora("transition"),), conditions=ends))
    return made


def measure_images(loom: Loom, count: int) -> tuple[dict[str, object], dict[str, Made]]:
    """Decibels to what is drawn, which the given frames leave nothing open of."""
    starts, ends = scenes(count, 23), pairs(count, 24)
    pipelines = loom.card.defaults
    both = ways(pipelines.pipeline("one-stage"), pipelines.pipeline("two-stage"))
    report, shown = {}, {}
    for name in ("one stage", "two stages", "no adapter", "full schedule"):
        first = run(loom, first_images(starts), both[name])
        turns = run(loom, transitions(ends), both[name])
        shown[name] = turns
        whole = [drawn(s, c) for s, c in zip(starts, first.clips, strict=True)]
        opened = [turned(*pair, c) for pair, c in zip(ends, turns.clips, strict=True)]
        report[name] = {
            "given first frame": apart(frames(first.clips, 0), frames(whole, 0)),
            "clip from it": apart(first.clips, whole),
            "transition, first": apart(frames(turns.clips, 0), frames(opened, 0)),
            "transition, last": apart(frames(turns.clips, -1), frames(opened, -1)),
            "transition, clip": apart(turns.clips, opened),
        }
        say(f"{name}: {report[name]}")
    return {"images": report}, shown


def frames(clips: Clips, index: int) -> Clips:
    return [clip[:, index] for clip in clips]


def pick(wanted: Sequence[Scene]) -> list[int]:
    """The first scene of every shape, by its place alone."""
    shapes = [scene.shape for scene in wanted]
    return [shapes.index(shape) for shape in dict.fromkeys(shapes)][:SHOWN]


def sheet(made: dict[str, Made], wanted: Sequence[Scene]) -> Image.Image:
    """Middle frames: a row for a caption, a column for a way."""
    names = ("one stage", "no adapter", "two stages", "full schedule")
    heads = [f"{COLUMNS[name]}, {made[name].seconds:.1f} s" for name in names]
    strips = [
        Strip(
            wanted[i].shape,
            tuple(Tile(image(made[name].clips[i][:, 8])) for name in names),
            note=caption(wanted[i]),
        )
        for i in pick(wanted)
    ]
    title = "17 frames of 128x128 in one stage and in two: the middle one, seconds of a video"
    return contact_sheet(strips, title=title, columns=heads, scale=1)


COLUMNS = {
    "one stage": "One stage: 16 guided steps",
    "no adapter": "Two stages: 3 refine steps, no adapter",
    "two stages": "Two stages: 3 refine steps with distilled",
    "full schedule": f"Two stages: {FULL} guided refine steps",
}


def transition_sheet(made: dict[str, Made], wanted: Sequence[Pair], row: int = 0) -> Image.Image:
    """One transition: given frames and drawn middle above, what became of them below."""
    ideal = turned(*wanted[row], made["two stages"].clips[row])
    clips = {"drawn": ideal, **{name: each.clips[row] for name, each in made.items()}}
    strips = [
        Strip(name, tuple(Tile(image(clips[name][:, at])) for at in (0, 5, 8, 11, 16)))
        for name in ("drawn", "one stage", "two stages")
    ]
    heads = [f"frame {at}" for at in (0, 5, 8, 11, 16)]
    title = f"{caption(wanted[row][0])}, then {caption(wanted[row][1])}: frames 0 and 16 given"
    return contact_sheet(strips, title=title, columns=heads, scale=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--dtype", help="float32, as Loom takes it on a CPU, or bfloat16")
    parser.add_argument("--captions", type=int, default=48)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=configs.IMAGES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loom = Loom.load(options.model, dtype=options.dtype)
    path = configs.WORK / "two-stage.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    if "text" in options.only:
        found, made = measure_text(loom, options.captions)
        picture = sheet(made, scenes(options.captions, 21))
        save(picture, options.out / "two-stage.png")
        report |= found
    if "images" in options.only:
        found, made = measure_images(loom, options.images)
        picture = transition_sheet(made, pairs(options.images, 24))
        save(picture, options.out / "two-stage-transition.png")
        report |= found
    path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
