"""What the releases are, told by their names and shapes alone: no metadata, no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder, LTX2VocoderWithBWE

from loraloom.formats.header import Header, TensorInfo
from loraloom.models.ltx2 import released
from loraloom.models.ltx2.configs import version
from loraloom.models.ltx2.names import names

from .originals import original

# as scripts/convert_ltx2_to_diffusers.py of huggingface/diffusers has them, where they are not
# what the classes take by themselves
DENOISER = {"rope_type": "split"}
CONNECTORS = {"rope_type": "split"}
CODER = {
    "decoder_causal": False,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
RELEASES: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {
    "2.0": {
        "transformer": (LTX2VideoTransformer3DModel, DENOISER),
        "connectors": (LTX2TextConnectors, CONNECTORS),
        "vae": (AutoencoderKLLTX2Video, CODER),
        "audio_vae": (AutoencoderKLLTX2Audio, {}),
        "vocoder": (LTX2Vocoder, {}),
    },
    "2.3": {
        "transformer": (
            LTX2VideoTransformer3DModel,
            {
                **DENOISER,
                "gated_attn": True,
                "cross_attn_mod": True,
                "audio_gated_attn": True,
                "audio_cross_attn_mod": True,
                "use_prompt_embeddings": False,
                "perturbed_attn": True,
            },
        ),
        "connectors": (
            LTX2TextConnectors,
            {
                **CONNECTORS,
                "video_connector_num_attention_heads": 32,
                "video_connector_num_layers": 8,
                "video_gated_attn": True,
                "audio_connector_num_attention_heads": 32,
                "audio_connector_attention_head_dim": 64,
                "audio_connector_num_layers": 8,
                "audio_gated_attn": True,
                "per_modality_projections": True,
                "proj_bias": True,
            },
        ),
        "vae": (
            AutoencoderKLLTX2Video,
            {
                **CODER,
                "block_out_channels": (256, 512, 1024, 1024),
                "decoder_block_out_channels": (256, 512, 512, 1024),
                "layers_per_block": (4, 6, 4, 2, 2),
                "decoder_layers_per_block": (4, 6, 4, 2, 2),
                "decoder_spatio_temporal_scaling": (True,) * 4,
                "decoder_inject_noise": (False,) * 5,
                "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
                "upsample_residual": (False,) * 4,
                "upsample_factor": (2, 2, 1, 2),
                "decoder_spatial_padding_mode": "zeros",
            },
        ),
        "audio_vae": (AutoencoderKLLTX2Audio, {}),
        "vocoder": (LTX2VocoderWithBWE, {}),
    },
}


def plain(config: Any) -> dict[str, Any]:
    own = {key: value for key, value in dict(config).items() if not key.startswith("_")}
    kept: dict[str, Any] = json.loads(json.dumps(own))
    return kept


@pytest.mark.parametrize("release", ["2.0", "2.3"])
def test_a_release_is_known_by_its_shapes(release: str) -> None:
    modules = {}
    tensors = {}
    for part, (kind, said) in RELEASES[release].items():
        with torch.device("meta"):
            modules[part] = kind(**said)
        for name, value in modules[part].state_dict().items():
            key = original(part, name, 4)
            tensors[key] = TensorInfo("BF16", tuple(value.shape), 0, 2 * value.numel())
    header = Header(Path("release.safetensors"), tensors, {}, 0)
    assert released.strangers(header) == []
    assert released.parts(header) == {*modules, "scheduler"}
    for part, module in modules.items():
        config = released.config(header, part)
        assert config["_class_name"] == type(module).__name__
        with torch.device("meta"):
            ours = type(module).from_config({k: v for k, v in config.items() if k[0] != "_"})
        assert plain(ours.config) == plain(module.config), part
        spelled = names(header.tensors, part)
        assert spelled.keys() == module.state_dict().keys()
    assert version(released.config(header, "transformer")) == release
