"""The released files of LTX-2 and LTX-2.3 become the model that a folder of diffusers is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    LTX2LatentUpsamplePipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import (
    LTX2LatentUpsamplerModel,
    LTX2TextConnectors,
    LTX2Vocoder,
    LTX2VocoderWithBWE,
)
from safetensors.torch import load_file, save_file

from loraloom import Canvas, Loom, Lora, Request, Sampling
from loraloom.errors import ModelError
from loraloom.models import find
from loraloom.models.checkpoint import Checkpoint, config, held
from loraloom.models.load import load, load_upsampler
from loraloom.models.ltx2 import released
from loraloom.models.ltx2.configs import version

from . import originals

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

MINI = find.BUNDLED["mini"]
FILE = "ltx-2.3-22b-dev.safetensors"
DATA = ("_diffusers_version", "_class_name", "_name_or_path", "_use_default_values")


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a release of LTX-2.3."""
    return originals.write(MINI, tmp_path_factory.mktemp("mini") / "released")


@pytest.fixture
def broken(mini: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(mini, tmp_path / "broken")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LTX-2 in diffusers' layout: its denoiser, connectors and vocoder are 2.0's."""
    folder = shutil.copytree(MINI, tmp_path_factory.mktemp("old") / "folder")
    torch.manual_seed(0)
    net = LTX2VideoTransformer3DModel(
        in_channels=32,
        out_channels=32,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        vae_scale_factors=[4, 16, 16],
        audio_in_channels=16,
        audio_out_channels=16,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=64,
        rope_type="split",
    )
    text = LTX2TextConnectors(
        caption_channels=64,
        text_proj_in_factor=3,
        video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=16,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=32,
        audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=16,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=32,
        connector_rope_base_seq_len=32,
        rope_type="split",
    )
    vocoder = LTX2Vocoder(
        in_channels=32,
        hidden_channels=16,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3]],
    )
    for part, module in (("transformer", net), ("connectors", text), ("vocoder", vocoder)):
        shutil.rmtree(folder / part)
        module.to(torch.bfloat16).save_pretrained(folder / part)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("LTX2VocoderWithBWE", "LTX2Vocoder"))
    return folder


def modules(pipe: Any) -> dict[str, torch.nn.Module]:
    return {part: m for part, m in pipe.components.items() if isinstance(m, torch.nn.Module)}


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Every parameter and buffer, those that no file holds too, bit for bit and in one type."""
    for kind in ("named_parameters", "named_buffers"):
        wanted = dict(getattr(theirs, kind)())
        got = dict(getattr(ours, kind)())
        assert got.keys() == wanted.keys()
        for name, value in wanted.items():
            assert got[name].dtype == value.dtype, name
            assert got[name].device == value.device, name
            assert torch.equal(got[name], value), name


def told(said: dict[str, Any]) -> dict[str, Any]:
    """A configuration as a class has it: with what it takes where nothing is said."""
    kinds = (
        LTX2VideoTransformer3DModel,
        LTX2TextConnectors,
        AutoencoderKLLTX2Video,
        AutoencoderKLLTX2Audio,
        LTX2Vocoder,
        LTX2VocoderWithBWE,
        LTX2LatentUpsamplerModel,
    )
    kind = next(kind for kind in kinds if kind.__name__ == said["_class_name"])
    with torch.device("meta"):
        full = dict(kind.from_config({k: v for k, v in said.items() if k not in DATA}).config)
    kept: dict[str, Any] = json.loads(json.dumps({k: v for k, v in full.items() if k not in DATA}))
    return kept


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_released_file_becomes_the_folder_s_modules_bit_for_bit(mini: Path, dtype: str) -> None:
    ours = load(find.card(str(mini)), dtype=dtype, device="cpu")
    theirs = load(find.card("mini"), dtype=dtype, device="cpu")
    assert type(ours) is type(theirs)
    assert modules(ours).keys() == modules(theirs).keys()
    for part, module in modules(theirs).items():
        assert type(modules(ours)[part]) is type(module)
        same(modules(ours)[part], module)
    assert ours.scheduler.config == theirs.scheduler.config
    assert ours.tokenizer("a red star").input_ids == theirs.tokenizer("a red star").input_ids


@pytest.mark.parametrize("part", originals.PARTS)
def test_configurations_are_those_of_the_folder(mini: Path, part: str) -> None:
    assert told(config(mini / part, "mini")) == told(config(MINI / part, "mini"))


def test_a_released_model_makes_the_folder_s_pictures_and_wears_its_adapters(
    mini: Path, loom: Loom
) -> None:
    other = Loom.load(str(mini), dtype="float32")
    other.adapters.add("neon", MINI / "adapters" / "neon")
    for loras in ((), (Lora("neon", 0.7),)):
        request = Request("a red star", 3, loras, canvas=Canvas(64, 64), sampling=Sampling(2, 3.0))
        assert torch.equal(other.latents([request])[0], loom.latents([request])[0])


def test_a_tiny_ltx_2_becomes_the_folder_s_modules(old: Path, tmp_path: Path) -> None:
    single = originals.write(old, tmp_path / "released", "ltx-2-19b-dev.safetensors")
    ours = load(find.card(str(single)), dtype="bfloat16", device="cpu")
    theirs = load(find.card(str(old)), dtype="bfloat16", device="cpu")
    for part, module in modules(theirs).items():
        same(modules(ours)[part], module)
    for part in originals.PARTS:
        assert told(config(single / part, "old")) == told(config(old / part, "old"))
    assert version(config(single / "transformer", "old")) == "2.0"


def test_the_card_is_the_folder_s(mini: Path) -> None:
    card, wanted = find.card(str(mini)), find.card("mini")
    assert (card.grid, card.defaults, card.family) == (wanted.grid, wanted.defaults, wanted.family)
    assert find.name_table(card) == find.name_table(wanted)
    assert card.adapters == {}
    assert card.upsampler is None


def test_weights_by_site_are_mapped_from_the_one_file(mini: Path) -> None:
    for part in ("transformer", "connectors", "vae"):
        ours, theirs = Checkpoint(mini / part, "mini"), Checkpoint(MINI / part, "mini")
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[site], theirs[site]) for site in theirs)
    assert {place.file for place in held(mini / "vae", "mini").values()} == {mini / FILE}


def test_the_version_is_told_by_the_file(broken: Path) -> None:
    before = find.card(str(broken)).version
    assert before == find.card(str(broken)).version
    with (broken / FILE).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert find.card(str(broken)).version != before


def test_what_is_said_of_a_transformer_tells_its_version(mini: Path) -> None:
    assert version(config(MINI / "transformer", "mini")) == "2.3"
    assert version(config(mini / "transformer", "mini")) == "2.3"
    assert version({}) == "2.0"


def put(key: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({key: value})


def drop(key: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[key]

    return change


NET = "model.diffusion_model."


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            drop(f"{NET}transformer_blocks.3.ff.net.2.weight"),
            r"lacks transformer_blocks.3.ff",
        ),
        (drop(f"{NET}adaln_single.linear.bias"), "lacks time_embed.linear.bias"),
        (drop(f"{NET}proj_out.weight"), "lacks proj_out.weight"),
        (drop("vae.per_channel_statistics.mean-of-means"), "lacks latents_mean"),
        (
            drop("vae.encoder.down_blocks.4.res_blocks.0.conv1.conv.bias"),
            "lacks encoder.mid",
        ),
        (drop("audio_vae.decoder.conv_in.conv.bias"), "lacks decoder.conv_in.conv.bias"),
        (drop("vocoder.mel_stft.mel_basis"), "lacks mel_stft.mel_basis"),
        (drop("text_embedding_projection.audio_aggregate_embed.bias"), "lacks audio_text_proj_in"),
        (put(f"{NET}extra.weight", torch.zeros(2)), rf"no place for {NET}extra.weight"),
        (put("vae.extra", torch.zeros(2)), "no place for vae.extra"),
        (put(f"{NET}proj_in.weight", torch.zeros(2)), rf"no component takes: {NET}\w*proj"),
        (put("extra.weight", torch.zeros(2)), "no component takes: extra.weight"),
        (
            put(f"{NET}transformer_blocks.1.attn1.to_q.bias", torch.zeros(3)),
            r"attn1.to_q.bias is \[3\], transformer_blocks.1.attn1.to_q.bias is \[256\]",
        ),
        (
            put("vocoder.vocoder.conv_pre.bias", torch.zeros(3)),
            r"another shape of vocoder.vocoder.conv_pre.bias is \[3\]",
        ),
    ],
)
def test_a_file_that_is_not_the_model_is_refused_by_name(
    change: Callable[[dict[str, Tensor]], None], says: str, broken: Path
) -> None:
    tensors = load_file(broken / FILE)
    change(tensors)
    said = json.dumps(originals.said(originals.configs(MINI)))
    save_file(tensors, broken / FILE, {"config": said})
    with pytest.raises(ModelError, match=says):
        load(find.card(str(broken)), dtype="bfloat16", device="cpu")


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "[]",
        '{"transformer": 3}',
        '{"vae": {"decoder_blocks": 1}}',
        '{"vae": {"decoder_blocks": []}}',
    ],
)
def test_metadata_that_are_none_are_refused(said: str, broken: Path) -> None:
    save_file(load_file(broken / FILE), broken / FILE, {"config": said})
    with pytest.raises(ModelError, match="metadata"):
        load(find.card(str(broken)), dtype="bfloat16", device="cpu")


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_what_is_missing_beside_the_file_is_named(part: str, broken: Path) -> None:
    shutil.rmtree(broken / part)
    with pytest.raises(ModelError, match=rf"lacks the component {part} \({part}/.*\) in .*{FILE}"):
        find.card(str(broken))


def test_a_part_that_the_file_lacks_is_named(broken: Path) -> None:
    tensors = load_file(broken / FILE)
    kept = {key: value for key, value in tensors.items() if not key.startswith("audio_vae.")}
    save_file(kept, broken / FILE)
    with pytest.raises(ModelError, match="lacks the component audio_vae"):
        find.card(str(broken))


def test_a_folder_with_nothing_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks model_index\.json .* ltx-2\.3-22b-dev"):
        find.card(str(tmp_path))


def test_of_several_checkpoints_the_full_one_is_taken(broken: Path) -> None:
    shutil.copy(broken / FILE, broken / "ltx-2.3-22b-distilled.safetensors")
    found = released.checkpoint(broken, "mini")
    assert found
    assert found.path.name == FILE
    (broken / FILE).rename(broken / "ltx-2.3-22b-distilled-1.1.safetensors")
    with pytest.raises(ModelError, match=r"has 2 checkpoints .* want one"):
        find.card(str(broken))


def test_a_truncated_checkpoint_is_refused_by_name(broken: Path) -> None:
    content = (broken / FILE).read_bytes()
    (broken / FILE).write_bytes(content[:-10])
    with pytest.raises(ModelError, match=FILE):
        find.card(str(broken))


def upsampler(**changes: Any) -> LTX2LatentUpsamplerModel:
    torch.manual_seed(0)
    sizes = {"in_channels": 32, "mid_channels": 32, "num_blocks_per_stage": 1}
    model: LTX2LatentUpsamplerModel = LTX2LatentUpsamplerModel(**(sizes | changes))
    return model


@pytest.mark.parametrize("rational", [True, False])
def test_an_upsampler_file_is_found_and_loaded(rational: bool, broken: Path) -> None:
    model = upsampler(use_rational_resampler=rational)
    name = "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"
    save_file(model.state_dict(), broken / name)
    card = find.card(str(broken))
    assert find.upsampler(card) == card.upsampler == broken / name
    loaded = load_upsampler(card, load(card, dtype="float32", device="cpu"))
    same(loaded, model)
    latent = torch.randn(1, 32, 2, 2, 2)
    assert torch.equal(loaded(latent), model.eval()(latent))


def test_a_folder_s_upsampler_and_distilled_adapter_are_found() -> None:
    card = find.card("mini")
    assert find.upsampler(card) == MINI / "latent_upsampler"
    assert find.distilled(card) == MINI / "adapters" / "distilled"
    pipe = load(card, dtype="float32", device="cpu")
    model = load_upsampler(card, pipe)
    assert LTX2LatentUpsamplePipeline(vae=pipe.vae, latent_upsampler=model).components


def test_of_several_upsamplers_the_newest_for_the_version_is_taken(broken: Path) -> None:
    for name in ("ltx-2.3-spatial-upscaler-x2-1.0", "ltx-2.3-spatial-upscaler-x2-1.1"):
        save_file(upsampler().state_dict(), broken / f"{name}.safetensors")
    save_file(upsampler().state_dict(), broken / "ltx-2-spatial-upscaler-x2-1.0.safetensors")
    timed = upsampler(spatial_upsample=False, temporal_upsample=True)
    save_file(timed.state_dict(), broken / "ltx-2.3-temporal-upscaler-x2-1.9.safetensors")
    assert find.upsampler(find.card(str(broken))).stem == "ltx-2.3-spatial-upscaler-x2-1.1"
    older = released.upsampler(broken, "mini", "2.0")
    assert older == broken / "ltx-2-spatial-upscaler-x2-1.0.safetensors"


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [
        ({"in_channels": 16}, "up", "takes 16 channels, the latents have 32"),
        ({"rational_spatial_scale": 1.5}, "up", "scales by 1.5, want by 2"),
        ({}, "ltx-2-spatial-upscaler-x2-1.0", "of version 2.0, the model of 2.3"),
    ],
)
def test_an_upsampler_of_another_model_is_refused_with_both(
    changes: dict[str, Any], name: str, says: str, broken: Path
) -> None:
    save_file(upsampler(**changes).state_dict(), broken / f"{name}.safetensors")
    card = find.card(str(broken))
    with pytest.raises(ModelError, match=rf"{name}.safetensors' does not fit .*broken.*{says}"):
        find.upsampler(card)


def test_a_version_in_the_metadata_counts_before_the_name(broken: Path) -> None:
    path = broken / "ltx-2.3-spatial-upscaler-x2-1.0.safetensors"
    save_file(upsampler().state_dict(), path, {"model_version": "2.0.1"})
    with pytest.raises(ModelError, match=r"of version 2\.0"):
        find.upsampler(find.card(str(broken)))


def test_what_is_not_there_is_no_error_until_it_is_needed(mini: Path) -> None:
    card = find.card(str(mini))
    with pytest.raises(ModelError, match=r"no upsampler .* ltx-2\.3-spatial-upscaler-x2-1\.1"):
        find.upsampler(card)
    with pytest.raises(ModelError, match=r"no distilled adapter .*distilled-lora-384"):
        find.distilled(card)


@pytest.mark.parametrize("layout", ["released", "diffusers"])
def test_the_distilled_adapter_is_found_beside_the_checkpoint(
    layout: str, broken: Path, tmp_path: Path
) -> None:
    folder = broken
    if layout == "diffusers":
        folder = shutil.copytree(MINI, tmp_path / "model")
        shutil.rmtree(folder / "adapters" / "distilled")
    file = folder / "ltx-2.3-22b-distilled-lora-384-1.1.safetensors"
    key = "diffusion_model.patchify_proj.lora_{}.weight"
    factors = {key.format("A"): torch.ones(2, 32), key.format("B"): torch.ones(256, 2)}
    save_file(factors, file)
    save_file(factors, folder / "ltx-2.3-22b-distilled-lora-384.safetensors")
    save_file(factors, folder / "some-style-lora.safetensors")
    card = find.card(str(folder))
    assert find.distilled(card) == file
    worn = Loom.load(str(folder)).adapters.get("distilled")
    assert list(worn.sites("transformer")) == ["proj_in"]


@pytest.mark.parametrize("indexed", [True, False])
def test_a_release_is_found_in_the_hub_s_cache_without_torch(
    indexed: bool, mini: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "hub" / "models--somebody--tiny-ltx2"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    snapshot = repo / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(MINI if indexed else mini, snapshot)
    code = (
        "import sys; from loraloom.models import find;"
        "card = find.card('somebody/tiny-ltx2');"
        "print(card.family.name, len(find.name_table(card)), 'torch' in sys.modules)"
    )
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["ltx2", str(len(find.name_table(find.card("mini")))), "False"]
