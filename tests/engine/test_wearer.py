"""Any pipeline of diffusers, with adapter files and requests as people have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from safetensors.torch import save_file

from loraloom import Curve, Lora, Wearer
from loraloom.errors import AdapterCoverageError, ModelError, UnknownAdapterError
from tests.families.tiny import build

if TYPE_CHECKING:
    from pathlib import Path


def pipeline() -> Any:
    return build("sd3").pipe


def pictures(pipe: Any, prompts: list[str], each: int = 1, **options: Any) -> torch.Tensor:
    seeds = [10 * prompt + sample for prompt in range(len(prompts)) for sample in range(each)]
    latents: torch.Tensor = pipe(
        prompt=prompts,
        negative_prompt=[""] * len(prompts),
        num_images_per_prompt=each,
        height=32,
        width=32,
        max_sequence_length=8,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="latent",
        return_dict=False,
        **options,
    )[0]
    return latents


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters, saved by diffusers' own pipeline."""
    made = {}
    for number, name in enumerate(("neon", "sketch")):
        torch.manual_seed(number)
        pipe = pipeline()
        targets = ["to_q", "to_v", "ff.net.2"] if number else ["to_k", "to_out.0"]
        config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
        pipe.transformer.add_adapter(config)
        state = peft.get_peft_model_state_dict(pipe.transformer)
        folder = tmp_path_factory.mktemp(name)
        StableDiffusion3Pipeline.save_lora_weights(folder, transformer_lora_layers=state)
        made[name] = next(folder.iterdir())
    return made


PROMPTS = ["a red circle", "two boats", "a small green star on the plain"]


@pytest.mark.parametrize("each", [1, 2])
def test_every_prompt_wears_what_diffusers_would_load_for_it(
    files: dict[str, Path], each: int
) -> None:
    pipe = pipeline()
    wearer = Wearer(pipe)
    for name, path in files.items():
        wearer.adapters.add(name, path)
    batch = [[Lora("neon", 0.7)], [], [Lora("neon"), Lora("sketch", -0.5)]]
    base = pictures(pipe, PROMPTS, each)
    with wearer.wearing(batch, each=each):
        got = pictures(pipe, PROMPTS, each)
    assert torch.equal(pictures(pipe, PROMPTS, each), base)
    theirs = pipeline()
    for name, path in files.items():
        theirs.load_lora_weights(path, adapter_name=name)
    for number, loras in enumerate(batch):
        if loras:
            theirs.enable_lora()
            theirs.set_adapters([one.name for one in loras], [one.strength for one in loras])
        else:
            theirs.disable_lora()
        rows = slice(number * each, (number + 1) * each)
        torch.testing.assert_close(
            got[rows], pictures(theirs, PROMPTS, each)[rows], atol=1e-4, rtol=0
        )
    assert float((got[0] - base[0]).abs().max()) > 1e-2


def test_all_may_wear_one_in_the_weights_and_another_beside_them(files: dict[str, Path]) -> None:
    pipe = pipeline()
    wearer = Wearer(pipe)
    for name, path in files.items():
        wearer.adapters.add(name, path)
    with wearer.wearing([[Lora("neon"), Lora("sketch")], [Lora("sketch")]]):
        want = pictures(pipe, PROMPTS[:2])
    with wearer.wearing([[Lora("neon")], []], fused=[Lora("sketch")]):
        got = pictures(pipe, PROMPTS[:2])
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
    wearer.release()
    assert type(pipe.transformer.transformer_blocks[0].attn.to_q) is torch.nn.Linear


def test_strength_changes_between_steps_through_the_pipeline_s_callback(
    files: dict[str, Path],
) -> None:
    pipe = pipeline()
    wearer = Wearer(pipe)
    wearer.adapters.add("neon", files["neon"])
    base = pictures(pipe, PROMPTS[:1])
    late = Lora("neon", 1.0, Curve.window(0.9, 1.0))
    early = Lora("neon", 1.0, Curve.window(0.0, 0.2))
    made = []
    for lora in (late, early, Lora("neon")):
        with wearer.wearing([[lora]]) as callback:
            made.append(pictures(pipe, PROMPTS[:1], callback_on_step_end=callback))
    assert torch.equal(made[0], base)  # no step begins that late
    assert not torch.equal(made[1], base)
    assert not torch.equal(made[1], made[2])
    assert not any(model.applied.live for model in wearer.models)


def test_weights_of_the_folder_are_not_kept_while_fused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    pipeline().save_pretrained(tmp_path / "model")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "model", vae=None, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    wearer = Wearer(pipe, root=tmp_path / "model")
    wearer.adapters.add("neon", files["neon"])
    base = pictures(pipe, PROMPTS)
    with wearer.wearing([[]] * 3, fused=[Lora("neon")]):
        fused = pictures(pipe, PROMPTS)
        assert sum(model.weights.nbytes for model in wearer.models) == 0
    assert not torch.equal(fused, base)
    assert torch.equal(pictures(pipe, PROMPTS), base)


def test_what_is_not_right_is_said(files: dict[str, Path], tmp_path: Path) -> None:
    pipe = pipeline()
    wearer = Wearer(pipe)
    with (
        pytest.raises(UnknownAdapterError, match="'neon' is not known"),
        wearer.wearing([[Lora("neon")]]),
    ):
        pytest.fail("nothing can be worn")
    wrong = tmp_path / "wrong.safetensors"
    factors = {"A": torch.ones(1, 4), "B": torch.ones(4, 1)}
    save_file({f"transformer.no.such.lora_{k}.weight": v for k, v in factors.items()}, wrong)
    with pytest.raises(AdapterCoverageError):
        wearer.adapters.add("wrong", wrong)
    assert not any(model.applied.live for model in wearer.models)

    class Empty:
        components = {"vae": torch.nn.Linear(2, 2)}  # noqa: RUF012  # as pipelines spell it

    with pytest.raises(ModelError, match="Empty has no transformer and no unet"):
        Wearer(Empty())
