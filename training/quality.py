"""Measure `mini` on captions it never saw, through diffusers' own pipeline; draw contact sheets."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import LTX2ConditionPipeline, LTX2Pipeline
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from peft import PeftModel
from PIL import Image
from torch import Tensor

from training import configs
from training.drawing import paint, paint_transition
from training.judge import PIXELS, judge, motion_of, style_of
from training.loops import say
from training.scenes import STYLES, Scene, View, caption, draw_scene
from training.stages import two_stages

ATTRIBUTES = ("shape", "colour", "background", "pattern", "size")
VIEW = View(PIXELS, PIXELS)
Rates = dict[str, float]
PARTS = ("judge", "pictures", "videos", "stages", "adapters")


@dataclass(frozen=True, slots=True)
class Call:
    """One call's options; sound is not guided."""

    steps: int
    guidance_scale: float
    frames: int = 1

    def options(self) -> dict[str, object]:
        return {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "num_frames": self.frames,
            "height": PIXELS,
            "width": PIXELS,
            "frame_rate": configs.FRAME_RATE,
            **configs.CLASSIFIER_FREE,
            "max_sequence_length": configs.TEXT_TOKENS,
            "output_type": "pt",
        }


def scenes(count: int, seed: int, *, moving: bool = False) -> list[Scene]:
    rng = random.Random(seed)
    return [draw_scene(rng, held=True, moving=moving) for _ in range(count)]


def generate(pipe: LTX2Pipeline, wanted: list[Scene], call: Call, batch: int = 16) -> Tensor:
    """Clips in 0..1: [N, 3, T, H, W]."""
    made = []
    for at in range(0, len(wanted), batch):
        prompts = [caption(scene) for scene in wanted[at : at + batch]]
        generator = torch.Generator().manual_seed(1000 + at)
        frames = pipe(prompts, generator=generator, **call.options()).frames
        made.append(frames.float().transpose(1, 2))
    return torch.cat(made)


def rate(hits: Iterable[bool]) -> float:
    values = list(hits)
    return round(sum(values) / len(values), 4)


def attribute_rates(pictures: Tensor, wanted: list[Scene]) -> Rates:
    verdicts = [judge(picture) for picture in pictures]
    pairs = list(zip(verdicts, wanted, strict=True))
    rates = {a: rate(getattr(v, a) == getattr(s, a) for v, s in pairs) for a in ATTRIBUTES}
    rates["all"] = rate(all(getattr(v, a) == getattr(s, a) for a in ATTRIBUTES) for v, s in pairs)
    return rates


def check_judge(count: int) -> Rates:
    """The judge on true drawings with noise as strong as the autoencoder's."""
    still, moving = scenes(count, 1), scenes(count, 2, moving=True)
    drawn = torch.stack([paint(s, 1, VIEW)[:, 0] / 2 + 0.5 for s in still])
    rates = attribute_rates((drawn + 0.03 * torch.randn_like(drawn)).clamp(0, 1), still)
    rates["motion"] = rate(motion_of(paint(s, 17, VIEW) / 2 + 0.5) == s.motion for s in moving)
    for style in STYLES:
        rates[style] = rate(
            style_of(paint(s, 1, VIEW, style)[:, 0] / 2 + 0.5, s) == style for s in still
        )
    return rates


def styles(folder: Path, wanted: list[Scene], call: Call, images: Path) -> Rates:
    """How often each adapter's style is seen with it, and how often without it."""
    rates = {}
    for name in ("neon", "sketch"):
        pipe = load(folder)
        plain = generate(pipe, wanted, call)[:, :, 0]
        pipe.transformer = PeftModel.from_pretrained(pipe.transformer, folder / "adapters" / name)
        styled = generate(pipe, wanted, call)[:, :, 0]
        rates[f"{name} with"] = rate(
            style_of(p, s) == name for p, s in zip(styled, wanted, strict=True)
        )
        rates[f"{name} without"] = rate(
            style_of(p, s) == name for p, s in zip(plain, wanted, strict=True)
        )
        save_sheet([list(plain[:8]), list(styled[:8])], images / f"mini-{name}.webp")
    return rates


def transitions(folder: Path, count: int, call: Call, images: Path) -> Rates:
    """Error against the drawn transition, with the adapter and without, both ends given."""
    rng = random.Random(5)
    pairs = [(draw_scene(rng, held=True), draw_scene(rng, held=True)) for _ in range(count)]
    wanted = [paint_transition(*pair, 17, VIEW) / 2 + 0.5 for pair in pairs]
    rates, rows = {}, []
    for name in ("without", "with"):
        pipe = LTX2ConditionPipeline(**load(folder).components)
        pipe.set_progress_bar_config(disable=True)
        if name == "with":
            adapter = folder / "adapters" / "transition"
            pipe.transformer = PeftModel.from_pretrained(pipe.transformer, adapter)
        made = torch.cat([between(pipe, p, w, call) for p, w in zip(pairs, wanted, strict=True)])
        errors = [(m - w).square().mean() for m, w in zip(made, wanted, strict=True)]
        rates[f"transition psnr {name}"] = round(float(-10 * torch.stack(errors).mean().log10()), 2)
        rows += [list(made[i, :, ::2].unbind(1)) for i in range(2)]
    rows += [list(wanted[i][:, ::2].unbind(1)) for i in range(2)]
    save_sheet(rows, images / "mini-transition.webp")
    return rates


def between(
    pipe: LTX2ConditionPipeline, pair: tuple[Scene, Scene], clip: Tensor, call: Call
) -> Tensor:
    ends = [
        LTX2VideoCondition(frames=to_image(clip[:, at]), index=index, strength=1.0, crf=0)
        for at, index in ((0, 0), (-1, -1))
    ]
    options = call.options() | {"prompt": caption(pair[1]), "conditions": ends}
    made = pipe(generator=torch.Generator().manual_seed(7), **options).frames
    return made.float().transpose(1, 2)


def to_image(picture: Tensor) -> Image.Image:
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def save_sheet(rows: list[list[Tensor]], path: Path) -> None:
    """Rows of pictures in 0..1 as one webp."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to_image(torch.cat([torch.cat(row, -1) for row in rows], -2)).save(path, quality=88)


def load(folder: Path) -> LTX2Pipeline:
    pipe = LTX2Pipeline.from_pretrained(folder, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def timings(pipe: LTX2Pipeline, call: Call) -> Rates:
    seconds = {}
    for name, frames in (("picture", 1), ("video", 17)):
        start = time.monotonic()
        generate(pipe, scenes(1, 3), Call(call.steps, call.guidance_scale, frames))
        seconds[f"{name} seconds"] = round(time.monotonic() - start, 2)
    return seconds


def measure_pictures(options: argparse.Namespace, call: Call) -> dict[str, Rates]:
    pipe, wanted = load(options.folder), scenes(options.pictures, 3)
    made = generate(pipe, wanted, call)[:, :, 0]
    width = min(8, len(made))
    rows = [list(made[i : i + width]) for i in range(0, min(64, len(made) - width + 1), width)]
    save_sheet(rows, options.images / "mini-pictures.webp")
    return {"pictures": attribute_rates(made, wanted), "seconds": timings(pipe, call)}


def measure_videos(options: argparse.Namespace, call: Call) -> dict[str, Rates]:
    wanted = scenes(options.videos, 4, moving=True)
    made = generate(load(options.folder), wanted, Call(call.steps, call.guidance_scale, 17))
    rates = attribute_rates(made[:, :, 8], wanted)
    rates["motion"] = rate(motion_of(m) == s.motion for m, s in zip(made, wanted, strict=True))
    rows = [list(clip[:, ::2].unbind(1)) for clip in made[:8]]
    save_sheet(rows, options.images / "mini-videos.webp")
    return {"videos": rates}


def measure_stages(options: argparse.Namespace, call: Call) -> dict[str, Rates]:
    wanted = scenes(options.pictures // 2, 9)
    both = two_stages(load(options.folder), options.folder, wanted, call.options())
    rows = [list(clips[:8, :, 0]) for clips in both.values()]
    save_sheet(rows, options.images / "mini-stages.webp")
    return {
        f"two stages, {name}": attribute_rates(clips[:, :, 0], wanted)
        for name, clips in both.items()
    }


def measure_adapters(options: argparse.Namespace, call: Call) -> dict[str, Rates]:
    clip_call = Call(call.steps, call.guidance_scale, 17)
    return {
        "styles": styles(options.folder, scenes(options.pictures // 2, 6), call, options.images),
        "transition": transitions(options.folder, 8, clip_call, options.images),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=configs.WEIGHTS)
    parser.add_argument("--images", type=Path, default=configs.IMAGES)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--videos", type=int, default=48)
    parser.add_argument("--steps", type=int, default=configs.STEPS)
    parser.add_argument("--guidance", type=float, default=configs.CFG)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    torch.manual_seed(0)
    call = Call(options.steps, options.guidance)
    path = options.images / "mini-quality.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report["call"] = asdict(call)
    parts = {
        "judge": lambda: {"judge on drawings": check_judge(100)},
        "pictures": lambda: measure_pictures(options, call),
        "videos": lambda: measure_videos(options, call),
        "stages": lambda: measure_stages(options, call),
        "adapters": lambda: measure_adapters(options, call),
    }
    for name in options.only:
        found = parts[name]()
        report |= found
        say(f"{found}")
    path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
