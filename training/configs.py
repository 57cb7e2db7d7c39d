"""The one place that says how large every component of `mini` is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

Config = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "src" / "loraloom" / "models" / "mini" / "weights"
WORK = Path(tempfile.gettempdir()) / "mini"  # checkpoints and encoded data
IMAGES = ROOT / "docs" / "images"
SEED = 20260120

TEXT_TOKENS = 32
TEXT_WIDTH = 64
TEXT_LAYERS = 2
WIDTH = 256
HEADS = 4
AUDIO_WIDTH = 64
LATENT_CHANNELS = 32
SPATIAL = 16
TEMPORAL = 4
FRAME_RATE = 16.0
ADAPTERS = ("neon", "sketch", "transition", "distilled")
ADAPTER_RANK = 16
STAGE_2_SIGMAS = (0.909375, 0.725, 0.421875)

VAE: Config = {
    "latent_channels": LATENT_CHANNELS,
    "block_out_channels": (64, 64),
    "down_block_types": ("LTX2VideoDownBlock3D",) * 2,
    "decoder_block_out_channels": (64, 128),
    "layers_per_block": (1, 1, 2),
    "decoder_layers_per_block": (3, 1, 1),
    "spatio_temporal_scaling": (True, True),
    "decoder_spatio_temporal_scaling": (True, True),
    "decoder_inject_noise": (False, False, False),
    "downsample_type": ("spatiotemporal", "spatiotemporal"),
    "upsample_type": ("spatiotemporal", "spatiotemporal"),
    "upsample_residual": (True, True),
    "upsample_factor": (1, 2),
    "timestep_conditioning": False,
    "patch_size": 4,
    "encoder_causal": True,
    "decoder_causal": False,
    "encoder_spatial_padding_mode": "zeros",
    "decoder_spatial_padding_mode": "zeros",
    "spatial_compression_ratio": SPATIAL,
    "temporal_compression_ratio": TEMPORAL,
}

TRANSFORMER: Config = {
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "num_attention_heads": HEADS,
    "attention_head_dim": WIDTH // HEADS,
    "cross_attention_dim": WIDTH,
    "vae_scale_factors": (TEMPORAL, SPATIAL, SPATIAL),
    "pos_embed_max_pos": 1,
    "base_height": 128,
    "base_width": 128,
    "gated_attn": True,
    "cross_attn_mod": True,
    "audio_in_channels": 16,
    "audio_out_channels": 16,
    "audio_num_attention_heads": HEADS,
    "audio_attention_head_dim": AUDIO_WIDTH // HEADS,
    "audio_cross_attention_dim": AUDIO_WIDTH,
    "audio_pos_embed_max_pos": 1,
    "audio_gated_attn": True,
    "audio_cross_attn_mod": True,
    "num_layers": 6,
    "caption_channels": TEXT_WIDTH,
    "rope_theta": 16.0,
    "rope_double_precision": True,
    "rope_type": "split",
    "use_prompt_embeddings": False,
    "perturbed_attn": True,
}

CONNECTORS: Config = {
    "caption_channels": TEXT_WIDTH,
    "text_proj_in_factor": TEXT_LAYERS + 1,
    "video_connector_num_attention_heads": HEADS,
    "video_connector_attention_head_dim": WIDTH // HEADS,
    "video_connector_num_layers": 1,
    "video_connector_num_learnable_registers": TEXT_TOKENS,
    "video_gated_attn": True,
    "audio_connector_num_attention_heads": HEADS,
    "audio_connector_attention_head_dim": AUDIO_WIDTH // HEADS,
    "audio_connector_num_layers": 1,
    "audio_connector_num_learnable_registers": TEXT_TOKENS,
    "audio_gated_attn": True,
    "connector_rope_base_seq_len": TEXT_TOKENS,
    "rope_theta": 16.0,
    "rope_double_precision": True,
    "rope_type": "split",
    "per_modality_projections": True,
    "video_hidden_dim": WIDTH,
    "audio_hidden_dim": AUDIO_WIDTH,
    "proj_bias": True,
}

AUDIO_VAE: Config = {
    "base_channels": 16,
    "ch_mult": (1, 2, 2),
    "num_res_blocks": 1,
    "latent_channels": 4,
    "mel_bins": 16,
    "resolution": 16,
    "sample_rate": 16000,
    "mel_hop_length": 160,
}

VOCODER: Config = {
    "in_channels": 32,
    "hidden_channels": 64,
    "upsample_kernel_sizes": [11, 8, 8, 4],
    "upsample_factors": [5, 4, 4, 2],
    "resnet_kernel_sizes": [3],
    "resnet_dilations": [[1, 3]],
    "bwe_in_channels": 32,
    "bwe_hidden_channels": 32,
    "bwe_upsample_kernel_sizes": [12, 11, 16],
    "bwe_upsample_factors": [6, 5, 8],
    "bwe_resnet_kernel_sizes": [3],
    "bwe_resnet_dilations": [[1, 3]],
    "num_mel_channels": 16,
}

UPSAMPLER: Config = {
    "in_channels": LATENT_CHANNELS,
    "mid_channels": 64,
    "num_blocks_per_stage": 1,
    "dims": 3,
    "spatial_upsample": True,
    "temporal_upsample": False,
    "rational_spatial_scale": 2.0,
}

SCHEDULER: Config = {
    "use_dynamic_shifting": True,
    "base_shift": 0.6,
    "max_shift": 1.1,
    "base_image_seq_len": 64,
    "max_image_seq_len": 320,
    "shift_terminal": 0.1,
    "time_shift_type": "exponential",
}

STEPS, CFG = 16, 3.0
BASE: Config = {
    "name": "base",
    "sigmas": {"steps": STEPS},
    "size": 1.0,
    "guidance": {"video": {"cfg": CFG}},
}
REFINE: Config = {
    "name": "refine",
    "sigmas": {"given": list(STAGE_2_SIGMAS)},
    "wears": [{"name": "distilled"}],
}

CLASSIFIER_FREE: Config = {
    "stg_scale": 0.0,
    "modality_scale": 1.0,
    "guidance_rescale": 0.0,
    "audio_guidance_scale": 1.0,
    "audio_stg_scale": 0.0,
    "audio_modality_scale": 1.0,
    "audio_guidance_rescale": 0.0,
    "use_cross_timestep": True,
}
"""How diffusers' pipeline is asked for the same: the video is guided, the sound is not."""

RECOMMENDED: Config = {
    "picture": {"width": 128, "height": 128, "frames": 1, "rate": FRAME_RATE},
    "video": {"width": 128, "height": 128, "frames": 17, "rate": FRAME_RATE},
    "negative_prompt": "",
    "pipelines": {
        "one-stage": [BASE],
        "two-stage": [{**BASE, "size": 0.5}, REFINE],
    },
}
"""What Loraloom asks of the model when a request says nothing: ``loraloom.json``."""
