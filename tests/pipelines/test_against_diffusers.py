"""The same file, prompt and seed through diffusers' own LoRA loading gives the same latents."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import LTX2ConditionPipeline
from safetensors.torch import load_file, save_file

from loraloom import Canvas, Lora, Request, Sampling
from loraloom.core.mix import Scope
from loraloom.core.schedule import Curve, Knot
from training.configs import CLASSIFIER_FREE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from loraloom import Loom
    from loraloom.core.request import Policy

PROMPTS = ["a large red circle on a plain blue background", "a small green star moving left"]
SEEDS = [3, 11]
POLICIES: tuple[Policy, ...] = ("live", "fused")
CANVAS, SAMPLING = Canvas(64, 64), Sampling(steps=3, guidance=3.0)


@pytest.fixture(scope="module")
def files(loom: Loom, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random adapters of a style's layers in diffusers' form, with and without metadata."""
    folder = tmp_path_factory.mktemp("adapters")
    found = {}
    draw = torch.Generator().manual_seed(5)
    for name, about in (("neon", True), ("sketch", False)):
        tensors = load_file(loom.card.adapters[name] / "adapter_model.safetensors")
        config = json.loads((loom.card.adapters[name] / "adapter_config.json").read_text())
        state = {
            key.replace("base_model.model.", "transformer."): torch.randn(
                value.shape, generator=draw
            )
            * 0.05
            for key, value in tensors.items()
        }
        said = {
            f"transformer.{key}": config[key]
            for key in ("r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern")
        }
        metadata = {"lora_adapter_metadata": json.dumps(said)} if about else None
        found[name] = folder / f"{name}.safetensors"
        save_file(state, found[name], metadata)
    return found


@pytest.fixture(scope="module")
def peer(loom: Loom) -> Iterator[Any]:
    pipe = LTX2ConditionPipeline.from_pretrained(loom.card.root, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    yield pipe
    del pipe


def theirs(
    pipe: Any,
    loom: Loom,
    scales: Mapping[str, float],
    count: int = 1,
    after_step: Callable[..., dict[str, object]] | None = None,
) -> torch.Tensor:
    """Latents of the first ``count`` prompts, all wearing ``scales``."""
    if scales:
        pipe.enable_lora()
        pipe.set_adapters(list(scales), list(scales.values()))
    else:
        pipe.disable_lora()
    result: torch.Tensor = pipe(
        prompt=PROMPTS[:count],
        negative_prompt=[""] * count,
        width=CANVAS.width,
        height=CANVAS.height,
        num_frames=1,
        num_inference_steps=SAMPLING.steps,
        guidance_scale=SAMPLING.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS[:count]],
        max_sequence_length=pipe.tokenizer.model_max_length,
        output_type="latent",
        callback_on_step_end=after_step,
        **CLASSIFIER_FREE,
    ).frames
    return result


def requests(*worn: dict[str, float]) -> list[Request]:
    return [
        Request(
            prompt,
            seed,
            tuple(Lora(f"their-{name}", strength) for name, strength in mix.items()),
            canvas=CANVAS,
            sampling=SAMPLING,
        )
        for prompt, seed, mix in zip(PROMPTS, SEEDS, worn, strict=False)
    ]


def farthest(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max())


@pytest.fixture(scope="module")
def worn_by_theirs(loom: Loom, peer: Any, files: dict[str, Path]) -> Any:
    for name, path in files.items():
        peer.load_lora_weights(path, adapter_name=name)
        loom.adapters.add(f"their-{name}", path)
    return peer


MIXES = [
    {},
    {"neon": 1.0},
    {"sketch": 1.0},
    {"neon": 0.5},
    {"sketch": -0.7},
    {"neon": 1.0, "sketch": 1.0},
    {"neon": 0.8, "sketch": 0.3},
]


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_live_and_fused_give_the_latents_that_peft_gives(
    mix: dict[str, float], loom: Loom, worn_by_theirs: Any
) -> None:
    want = theirs(worn_by_theirs, loom, mix)[0]
    live = loom.latents(requests(mix), policy="live")[0]
    fused = loom.latents(requests(mix), policy="fused")[0]
    assert farthest(live, want) <= 1e-4
    assert farthest(fused, want) <= 1e-4
    if mix:
        assert farthest(theirs(worn_by_theirs, loom, {})[0], want) > 1e-2, (
            "the adapter does nothing"
        )


def test_a_mixed_batch_gives_what_peft_gives_one_after_the_other(
    loom: Loom, worn_by_theirs: Any
) -> None:
    mixes = [{"neon": 1.0}, {"sketch": 0.5, "neon": -0.25}]
    got = loom.latents(requests(*mixes))
    both = [theirs(worn_by_theirs, loom, mix, 2) for mix in mixes]
    assert farthest(got[0], both[0][0]) <= 1e-4
    assert farthest(got[1], both[1][1]) <= 1e-4


def test_a_schedule_is_what_changing_scales_between_steps_gives(
    loom: Loom, worn_by_theirs: Any
) -> None:
    scales = [0.25, 1.0, 0.0]
    curve = Curve(tuple(Knot(step / 3, scale) for step, scale in enumerate(scales)))

    def change(pipe: Any, step: int, _time: object, _tensors: object) -> dict[str, object]:
        pipe.set_adapters(["neon"], [scales[min(step + 1, 2)]])
        return {}

    want = theirs(worn_by_theirs, loom, {"neon": scales[0]}, after_step=change)[0]
    (request,) = requests({})
    for policy in POLICIES:
        faded = replace(request, loras=(Lora("their-neon", 1.0, curve),))
        together = loom.latents([faded, *requests({"neon": 1.0})], policy=policy)
        assert farthest(together[0], want) <= 1e-4
        assert farthest(together[1], want) > 1e-2


def test_scopes_are_what_an_adapter_of_those_layers_alone_gives(
    loom: Loom, files: dict[str, Path], tmp_path: Path
) -> None:
    tensors = {key: value for key, value in load_file(files["neon"]).items() if ".attn1." in key}
    save_file(tensors, tmp_path / "attention.safetensors")
    loom.adapters.add("attention", tmp_path / "attention.safetensors")
    loom.adapters.add("whole", files["neon"])
    (request,) = requests({})
    want = loom.latents([replace(request, loras=(Lora("attention", 0.8),))])[0]
    scopes = (Scope("*", 0.0), Scope("*.attn1.*", 0.8))
    for policy in POLICIES:
        scoped = replace(request, loras=(Lora("whole", 1.0, scopes=scopes),))
        assert farthest(loom.latents([scoped], policy=policy)[0], want) <= 1e-5
