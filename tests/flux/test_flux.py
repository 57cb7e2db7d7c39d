"""FLUX.1 through our stages gives what diffusers gives; a second stage is built of its parts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from PIL import Image
from torch.nn import functional
from typer.testing import CliRunner

from loraloom import Canvas, Condition, Loom, Lora, Request
from loraloom.cli.app import app
from loraloom.core.request import Sampling
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.errors import InvalidRequestError, InvalidStageError
from loraloom.pipelines import media

from . import tiny

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from loraloom.core.request import Policy

WITHIN = 1e-4
STEPS = 4
CANVAS = Canvas(64, 32)
REQUEST = Request("a red circle", 3, canvas=CANVAS, sampling=Sampling(steps=STEPS))
MIXES: dict[str, dict[str, float]] = {
    "nothing": {},
    "style": {"style": 0.7},
    "both": {"style": 0.7, "other": -0.4},
}


@pytest.fixture(scope="module", params=["dev", "schnell"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    guided = request.param == "dev"
    return tiny.folder(tmp_path_factory.mktemp(request.param), guided=guided)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Loom:
    return Loom.load(str(folder))


@pytest.fixture(scope="module")
def peer(folder: Path) -> Any:
    pipe = FluxPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    for name in ("style", "other"):
        file = folder / "adapters" / name / "pytorch_lora_weights.safetensors"
        pipe.transformer.load_lora_adapter(str(file), prefix="transformer", adapter_name=name)
    return pipe


def theirs(
    pipe: Any, request: Request, mix: Mapping[str, float], canvas: Canvas = CANVAS, **options: Any
) -> Tensor:
    """Packed and normalised, ``[1, tokens, channels]``, of one call of diffusers' pipeline."""
    pipe.transformer.set_adapters(["style", "other"], [mix.get(n, 0.0) for n in ("style", "other")])
    asked: dict[str, Any] = {
        "prompt": request.prompt,
        "width": canvas.width,
        "height": canvas.height,
        "num_inference_steps": STEPS,
        "guidance_scale": 3.5,
        "max_sequence_length": pipe.tokenizer_2.model_max_length,
        "generator": [torch.Generator().manual_seed(request.seed)],
        "output_type": "latent",
        "return_dict": False,
    }
    made: Tensor = pipe(**{**asked, **options})[0]
    return made


def unpacked(pipe: Any, packed: Tensor, canvas: Canvas) -> Tensor:
    """``[1, channels, height, width]`` as the VAE takes them."""
    factor, shift = pipe.vae.config.scaling_factor, pipe.vae.config.shift_factor
    latents = pipe._unpack_latents(packed, canvas.height, canvas.width, pipe.vae_scale_factor)
    made: Tensor = latents / factor + shift
    return made


def refined(pipe: Any, request: Request, mix: Mapping[str, float], levels: list[float]) -> Tensor:
    """A second stage after one of half the size, by hand: decode, enlarge, encode, noise, steps.

    The noise of a request goes on where that of the first stage ends.
    """
    canvas, vae, draw = CANVAS, pipe.vae, torch.Generator().manual_seed(request.seed)
    small = Canvas(canvas.width // 2, canvas.height // 2)
    first = unpacked(pipe, theirs(pipe, request, mix, small, generator=[draw]), small)
    with torch.no_grad():
        pixels = vae.decode(first, return_dict=False)[0].clamp(-1, 1)
        size = (canvas.height, canvas.width)
        pixels = functional.interpolate(pixels, size, mode="bicubic").clamp(-1, 1)
        encoded = vae.encode(pixels).latent_dist.mode()
    latents = (encoded - vae.config.shift_factor) * vae.config.scaling_factor
    start = levels[0] * torch.randn(latents.shape, generator=draw) + (1 - levels[0]) * latents
    own, pipe.scheduler = pipe.scheduler, FlowMatchEulerDiscreteScheduler(shift=1.0)
    packed = pipe._pack_latents(start, *start.shape)
    try:
        made = theirs(pipe, request, mix, latents=packed, sigmas=levels)
    finally:
        pipe.scheduler = own
    return unpacked(pipe, made, canvas)


def wearing(mix: Mapping[str, float], **changes: Any) -> Request:
    return replace(REQUEST, loras=tuple(Lora(n, s) for n, s in mix.items()), **changes)


def latents(loom: Loom, request: Request, policy: Policy = "live") -> Tensor:
    """``[channels, height, width]``."""
    return loom.latents([request], policy=policy)[0][:, 0]


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("policy", ["live", "fused"])
@pytest.mark.parametrize("mix", MIXES)
def test_one_stage_is_that_of_diffusers(mix: str, policy: Policy, ours: Loom, peer: Any) -> None:
    want = unpacked(peer, theirs(peer, REQUEST, MIXES[mix]), CANVAS)[0]
    assert distance(latents(ours, wearing(MIXES[mix]), policy), want) <= WITHIN
    if mix != "nothing":
        bare = unpacked(peer, theirs(peer, REQUEST, {}), CANVAS)[0]
        assert distance(bare, want) > 1000 * WITHIN


@pytest.mark.parametrize("policy", ["live", "fused"])
@pytest.mark.parametrize("mix", MIXES)
def test_two_stages_are_a_refined_enlargement(
    mix: str, policy: Policy, ours: Loom, peer: Any
) -> None:
    stages = ours.card.defaults.pipeline("two-stage")
    levels = stages[1].sigmas
    assert levels
    want = refined(peer, REQUEST, MIXES[mix], list(levels.given))[0]
    got = latents(ours, wearing(MIXES[mix], stages=stages), policy)
    assert distance(got, want) <= WITHIN


@pytest.mark.parametrize("canvas", [Canvas(32, 32), Canvas(32, 96), Canvas(128, 64)])
def test_any_size_is_shifted_as_diffusers_shifts_it(canvas: Canvas, ours: Loom, peer: Any) -> None:
    request = wearing(MIXES["style"], canvas=canvas)
    want = unpacked(peer, theirs(peer, request, MIXES["style"], canvas), canvas)[0]
    assert distance(latents(ours, request), want) <= WITHIN


def test_a_negative_prompt_is_a_second_pass(ours: Loom, peer: Any) -> None:
    (base,) = ours.card.defaults.usual
    stage = replace(base, guidance=replace(base.guidance, video=Guides(3.0)))
    asked = replace(REQUEST, negative_prompt="a blurry star", stages=(stage,))
    options: dict[str, Any] = {"negative_prompt": "a blurry star", "true_cfg_scale": 3.0}
    want = unpacked(peer, theirs(peer, REQUEST, {}, **options), CANVAS)[0]
    assert distance(latents(ours, asked), want) <= WITHIN


def test_the_scale_of_guidance_is_told_where_there_is_a_place_for_it(ours: Loom, peer: Any) -> None:
    asked = replace(REQUEST, sampling=Sampling(STEPS, 1.5))
    if not ours.card.config["guidance_embeds"]:
        with pytest.raises(InvalidStageError, match="not guided"):
            latents(ours, asked)
        stages = (Stage("base", Sigmas(2), guidance=Guidance(embedded=2.0)),)
        with pytest.raises(InvalidStageError, match="has no place for one"):
            latents(ours, replace(REQUEST, stages=stages))
        return
    want = unpacked(peer, theirs(peer, REQUEST, {}, guidance_scale=1.5), CANVAS)[0]
    assert distance(latents(ours, asked), want) <= WITHIN
    assert distance(latents(ours, REQUEST), want) > WITHIN


@pytest.mark.parametrize("pipeline", ["one-stage", "two-stage"])
def test_a_mixed_batch_is_every_request_alone(pipeline: str, ours: Loom) -> None:
    stages = ours.card.defaults.pipeline(pipeline)
    requests = [
        wearing(mix, prompt=prompt, seed=seed, stages=stages)
        for seed, (mix, prompt) in enumerate(
            zip(MIXES.values(), ["two boats", "a green star", "a red circle"], strict=True)
        )
    ]
    for request, row in zip(requests, ours.latents(requests), strict=True):
        assert distance(row[:, 0], latents(ours, request)) <= WITHIN


def test_weights_are_as_before_to_the_bit(folder: Path, ours: Loom) -> None:
    for policy in ("fused", "live", "auto"):
        ours.latents([wearing(MIXES["both"]), wearing(MIXES["style"])], policy=policy)
    ours.bare()
    pristine = Loom.load(str(folder)).pipe.transformer.state_dict()
    for name, value in ours.pipe.transformer.state_dict().items():
        assert torch.equal(value, pristine[name])


def test_pictures_alone_are_made(ours: Loom) -> None:
    (made,) = ours.images([REQUEST])
    assert [frame.size for frame in made.frames] == [(64, 32)]
    with pytest.raises(InvalidRequestError, match=r"frames is 17.*pictures alone and wants 1"):
        ours.videos([replace(REQUEST, canvas=Canvas(64, 32, 17))])
    with pytest.raises(InvalidRequestError, match="makes pictures alone"):
        ours.videos([replace(REQUEST, canvas=None)])


def test_images_and_sizes_that_do_not_fit_are_refused(ours: Loom) -> None:
    image = Condition(Image.new("RGB", (32, 32)))
    with pytest.raises(InvalidRequestError, match=r"image is given.*family flux takes none"):
        ours.latents([replace(REQUEST, conditions=(image,))])
    two = replace(REQUEST, stages=ours.card.defaults.pipeline("two-stage"))
    with pytest.raises(InvalidRequestError, match=r"stage 'base' is 24.*multiple of 16"):
        ours.latents([replace(two, canvas=Canvas(48, 64))])


def test_the_command_line_makes_a_picture_that_makes_itself_again(
    folder: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    options = ["--model", str(folder), "--size", "64x32", "--steps", "2", "--lora", "style:0.5,0.9"]
    runner, how = CliRunner(), ["--pipeline", "two-stage"]
    made = runner.invoke(app, ["generate", "a boat", "-o", str(first), *options, *how])
    assert made.exit_code == 0, made.output
    again = runner.invoke(app, ["generate", "--like", str(first), "-o", str(second)])
    assert again.exit_code == 0, again.output
    assert first.read_bytes() == second.read_bytes()
    assert [stage.name for stage in media.read_provenance(first).asked.stages] == ["base", "refine"]
