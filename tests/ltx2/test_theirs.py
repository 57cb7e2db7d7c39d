"""The peer is worth comparing with: it runs, is repeatable, and everything asked for shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import torch
from diffusers import LTX2Pipeline
from diffusers.pipelines.ltx2.utils import STAGE_2_DISTILLED_SIGMA_VALUES
from PIL import Image
from safetensors.torch import load_file

from loraloom.core.request import Canvas
from loraloom.models.find import card

from . import theirs, tiny

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

VISIBLE = 1e-2
CLOSE = 1e-4

pytestmark = pytest.mark.slow
"""The peer is looked at when it changes, and in CI."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one case asks for: adapters of both stages, and images."""

    first: Mapping[str, float]
    second: Mapping[str, float]
    images: int = 0


CASES = {
    "base": Wanted({}, {}),
    "distilled": Wanted({}, {"distilled": 1.0}),
    "distilled in both": Wanted({"distilled": 0.25}, {"distilled": 0.5}),
    "style and distilled": Wanted({"style": 0.8}, {"style": 0.8, "distilled": 1.0}),
    "three": Wanted({"style": 0.8, "style2": -0.5}, {"style2": 1.0, "distilled": 1.0}),
    "first image": Wanted({}, {}, images=1),
    "first and last image": Wanted({}, {}, images=2),
}


def image(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((160, 128), Image.Resampling.BILINEAR)


IMAGES = (theirs.Shown(image(1), 0), theirs.Shown(image(2), -1, strength=0.8))
ASKED = theirs.Asked(
    "a red circle on a blue background",
    Canvas(128, 64, frames=9),
    seed=7,
    steps=3,
    negative_prompt="a yellow star",
    guidance=theirs.GUIDED,
)


@pytest.fixture(scope="module", params=get_args(tiny.Variant))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(request.param, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def who(folder: Path) -> theirs.Peer:
    return theirs.peer(folder, use_cross_timestep=folder.name == "ltx-2.3")


@pytest.fixture(scope="module")
def one(who: theirs.Peer) -> theirs.Latents:
    """One stage of the base model."""
    return theirs.one_stage(who, ASKED, {})


@pytest.fixture(scope="module")
def two(who: theirs.Peer) -> theirs.Latents:
    """Two stages of the base model."""
    return theirs.two_stage(who, ASKED, {}, {})


def apart(left: theirs.Latents, right: theirs.Latents) -> float:
    """The largest difference of the videos."""
    return float((left.video - right.video).abs().max())


def assert_equal(left: theirs.Latents, right: theirs.Latents) -> None:
    assert torch.equal(left.video, right.video)
    assert torch.equal(left.audio, right.audio)


def assert_sound(latents: theirs.Latents) -> None:
    for each in (latents.video, latents.audio):
        assert each.isfinite().all()
        assert 0.3 < each.std() < 3


def seen(who: theirs.Peer, asked: theirs.Asked) -> list[dict[str, Any]]:
    """What the transformer was called with in a two-stage run."""
    calls: list[dict[str, Any]] = []
    hook = who.pipe.transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    theirs.two_stage(who, asked, {}, {})
    hook.remove()
    return calls


def test_a_folder_is_a_model_of_diffusers_and_has_a_card(folder: Path) -> None:
    pipe = LTX2Pipeline.from_pretrained(folder)
    for vae in (pipe.vae, pipe.audio_vae):
        assert vae.latents_mean.abs().min() > 0
        assert (vae.latents_std - 1).abs().min() > 0
    known = card(str(folder))
    assert known.family.name == "ltx2"
    assert sorted(known.adapters) == ["distilled", "style", "style2"]


def test_a_folder_is_written_once_and_equal_wherever(folder: Path, tmp_path: Path) -> None:
    variant = next(each for each in get_args(tiny.Variant) if folder.name == f"ltx-{each}")
    again = tiny.folder(variant, tmp_path)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert [
        each for each in files if (again / each).read_bytes() != (folder / each).read_bytes()
    ] == []
    before = (again / "model_index.json").stat().st_mtime_ns
    assert tiny.folder(variant, tmp_path) == again
    assert (again / "model_index.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("case", CASES)
def test_one_stage_is_repeatable_and_shows_what_was_asked(
    who: theirs.Peer, one: theirs.Latents, case: str
) -> None:
    wanted = CASES[case]
    asked = replace(ASKED, images=IMAGES[: wanted.images])
    made = theirs.one_stage(who, asked, wanted.second)
    assert_sound(made)
    assert_equal(made, theirs.one_stage(who, asked, wanted.second))
    if case != "base":
        assert apart(made, one) > VISIBLE


@pytest.mark.parametrize("case", CASES)
def test_two_stages_are_repeatable_and_show_what_was_asked(
    who: theirs.Peer, two: theirs.Latents, case: str
) -> None:
    wanted = CASES[case]
    asked = replace(ASKED, images=IMAGES[: wanted.images])
    scheduler = who.pipe.scheduler
    made = theirs.two_stage(who, asked, wanted.first, wanted.second)
    assert_sound(made)
    assert_equal(made, theirs.two_stage(who, asked, wanted.first, wanted.second))
    assert who.pipe.scheduler is scheduler
    if case != "base":
        assert apart(made, two) > VISIBLE


def test_an_adapter_of_either_stage_shows(who: theirs.Peer, two: theirs.Latents) -> None:
    first = theirs.two_stage(who, ASKED, {"style": 1.0}, {})
    second = theirs.two_stage(who, ASKED, {}, {"style": 1.0})
    assert min(apart(two, first), apart(two, second), apart(first, second)) > VISIBLE


def test_every_part_of_a_request_shows(who: theirs.Peer, two: theirs.Latents) -> None:
    others = (
        replace(ASKED, prompt="a small green heart on the left"),
        replace(ASKED, negative_prompt=""),
        replace(ASKED, seed=8),
        replace(ASKED, steps=4),
        replace(ASKED, canvas=replace(ASKED.canvas, rate=16.0)),
        replace(ASKED, guidance=theirs.PROMPTED),
        replace(ASKED, guidance=theirs.UNGUIDED),
    )
    for other in others:
        assert apart(theirs.two_stage(who, other, {}, {}), two) > VISIBLE, other


def test_an_adapter_adds_its_scale_times_alpha_over_rank(who: theirs.Peer, folder: Path) -> None:
    worn = theirs.one_stage(who, ASKED, {"style": 0.7})
    factors = load_file(folder / "adapters" / "style" / "adapter_model.safetensors")
    plain = theirs.pipeline(folder)
    for key in [key for key in factors if ".lora_A." in key]:
        site = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        up = factors[key.replace("lora_A", "lora_B")]
        plain.transformer.get_submodule(site).weight.data += 0.7 * 6 / 4 * up @ factors[key]
    assert apart(theirs.one_stage(replace(who, pipe=plain), ASKED, {}), worn) < CLOSE


def test_the_second_stage_takes_three_plain_steps_at_the_given_sigmas(who: theirs.Peer) -> None:
    calls = seen(who, ASKED)
    assert len(calls) == 3 * ASKED.steps + 3
    shown = [float(call["sigma"][0]) / 1000 for call in calls[-3:]]
    assert shown == pytest.approx(STAGE_2_DISTILLED_SIGMA_VALUES)
    assert {len(call["sigma"]) for call in calls[-3:]} == {1}


def test_the_second_stage_draws_what_follows_in_the_stream_of_the_first(who: theirs.Peer) -> None:
    """Video, audio, video, audio; packed; of one generator."""
    calls = seen(who, ASKED)
    start, last = calls[0], calls[-3]
    stream = torch.Generator().manual_seed(ASKED.seed)
    noise = {}
    for name, at in (("first", start), ("last", last)):
        for side in ("hidden_states", "audio_hidden_states"):
            noise[name, side] = torch.randn(at[side][:1].shape, generator=stream)
    assert torch.equal(start["hidden_states"][:1], noise["first", "hidden_states"])
    assert torch.equal(start["audio_hidden_states"][:1], noise["first", "audio_hidden_states"])
    half = replace(ASKED.canvas, width=64, height=32)
    small = theirs.one_stage(who, replace(ASKED, canvas=half), {})
    large = who.upsampler(latents=small.video, output_type="latent").frames
    pipe, share = who.pipe, STAGE_2_DISTILLED_SIGMA_VALUES[0]
    vae = pipe.vae
    clean: Tensor = pipe._pack_latents(
        pipe._normalize_latents(large, vae.latents_mean, vae.latents_std)
    )
    noised = share * noise["last", "hidden_states"] + (1 - share) * clean
    torch.testing.assert_close(last["hidden_states"], noised)


def test_without_audio_no_weight_of_the_audio_reaches_the_video(
    who: theirs.Peer, two: theirs.Latents
) -> None:
    with theirs.without_audio(who.pipe):
        deaf = theirs.two_stage(who, ASKED, {}, {})
    wear_in = who.pipe.transformer.audio_proj_in.base_layer.weight
    before = wear_in.detach().clone()
    wear_in.data.neg_()
    try:
        other = theirs.two_stage(who, ASKED, {}, {})
        with theirs.without_audio(who.pipe):
            still = theirs.two_stage(who, ASKED, {}, {})
    finally:
        wear_in.data.copy_(before)
    assert torch.equal(deaf.video, still.video)
    assert apart(two, other) > VISIBLE
    assert apart(two, deaf) > VISIBLE
    assert_equal(two, theirs.two_stage(who, ASKED, {}, {}))


def test_without_audio_the_stream_of_noise_is_the_videos_alone(who: theirs.Peer) -> None:
    with theirs.without_audio(who.pipe):
        calls = seen(who, ASKED)
    stream = torch.Generator().manual_seed(ASKED.seed)
    torch.randn(calls[0]["hidden_states"][:1].shape, generator=stream)
    noise = torch.randn(calls[-3]["hidden_states"].shape, generator=stream)
    share = STAGE_2_DISTILLED_SIGMA_VALUES[0]
    left = (calls[-3]["hidden_states"] - share * noise) / (1 - share)
    assert torch.corrcoef(torch.stack([left.flatten(), noise.flatten()]))[0, 1].abs() < 0.2


def test_a_reference_its_strength_attention_and_size_show(who: theirs.Peer) -> None:
    asked = replace(ASKED, canvas=Canvas(64, 64, frames=9), images=IMAGES[:1])
    video = theirs.Reference(tuple(image(seed) for seed in range(9)))
    ways = (
        theirs.References((video,)),
        theirs.References((replace(video, strength=0.6),)),
        theirs.References((video,), attention=0.3),
        theirs.References((video,), downscale=2),
        theirs.References((video, video)),
    )
    made = [theirs.in_context(who, asked, way, {"style": 1.0}) for way in ways]
    made.append(theirs.one_stage(who, asked, {"style": 1.0}))
    for one, left in enumerate(made):
        assert_sound(left)
        assert all(apart(left, right) > VISIBLE for right in made[:one])
    assert_equal(made[0], theirs.in_context(who, asked, ways[0], {"style": 1.0}))
