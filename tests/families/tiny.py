"""Pipelines of real classes with tiny random weights, one a family."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from diffusers import (
    AnimateDiffPipeline,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    MotionAdapter,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from .family import LENGTH, NEGATIVE, PROMPTS, WIDTH, Family, Options, clip, prompts, t5, tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def flux(*, guided: bool = True) -> Family:
    """FLUX.1-dev, or FLUX.1-schnell, which has no embedding of guidance."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guided,
        axes_dims_rope=(4, 4, 8),
    )
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=CLIPTextModel(clip()),
        tokenizer=tokenizer(),
        text_encoder_2=T5EncoderModel(T5Config(**t5())),
        tokenizer_2=tokenizer(),
        transformer=transformer,
    )
    true = {"negative_prompt": NEGATIVE, "true_cfg_scale": 3.0}
    ways: dict[str, Options] = {"none": {}, "two calls": true}
    if guided:
        ways = {"embedded": {"guidance_scale": 3.5}, "embedded and two calls": true}
    ask = prompts(height=32, width=32, max_sequence_length=LENGTH)
    return Family(pipe, ("transformer",), ask, ways)


def schnell() -> Family:
    return flux(guided=False)


def flux2() -> Family:
    """FLUX.2-dev, asked by embeddings; one modulation is shared by all blocks."""
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
    )
    pipe = Flux2Pipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, transformer)
    embeds = torch.randn(len(PROMPTS), LENGTH, WIDTH)

    def ask(requests: Sequence[int]) -> Options:
        return {"prompt_embeds": embeds[list(requests)], "height": 32, "width": 32}

    return Family(pipe, ("transformer",), ask, {"embedded": {"guidance_scale": 4.0}})


def qwen_image(*, zero_cond_t: bool = False, lengths: Sequence[int] = (LENGTH,) * 3) -> Family:
    """Qwen-Image, asked by embeddings: its text encoder is a whole vision-language model."""
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
        zero_cond_t=zero_cond_t,
    )
    pipe = QwenImagePipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, transformer)
    embeds = torch.randn(2, len(PROMPTS), LENGTH, WIDTH)
    mask = (torch.arange(LENGTH) < torch.tensor(lengths)[:, None]).long()

    def ask(requests: Sequence[int]) -> Options:
        rows = list(requests)
        return {
            "prompt_embeds": embeds[0, rows],
            "prompt_embeds_mask": mask[rows],
            "negative_prompt_embeds": embeds[1, rows],
            "negative_prompt_embeds_mask": mask[rows],
            "height": 32,
            "width": 32,
        }

    ways: dict[str, Options] = {
        "two calls": {"true_cfg_scale": 3.0},
        "none": {"negative_prompt_embeds": None, "negative_prompt_embeds_mask": None},
    }
    return Family(pipe, ("transformer",), ask, ways)


def qwen_image_unequal() -> Family:
    """Prompts of unequal lengths; diffusers gives samples of one prompt the masks of others."""
    return replace(qwen_image(lengths=(4, LENGTH, 3)), each=(1,))


def qwen_image_edit() -> Family:
    """The transformer of Qwen-Image-Edit-2511: every row is modulated at two times.

    diffusers describes its images once a prompt, so that it takes one sample of each.
    """
    return replace(qwen_image(zero_cond_t=True), each=(1,))


def sd3() -> Family:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=None,
        text_encoder=CLIPTextModelWithProjection(clip()),
        tokenizer=tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip()),
        tokenizer_2=tokenizer(),
        text_encoder_3=T5EncoderModel(T5Config(**t5(2 * WIDTH))),
        tokenizer_3=tokenizer(),
    )
    ask = prompts(height=32, width=32, max_sequence_length=LENGTH)
    skipping = {"skip_layer_guidance_start": -1.0, "skip_layer_guidance_stop": 1.0}
    ways: dict[str, Options] = {
        "concatenated": {"guidance_scale": 4.0, "negative_prompt": NEGATIVE},
        "and a call that skips": {"guidance_scale": 4.0, "skip_guidance_layers": [0], **skipping},
        "none": {"guidance_scale": 1.0},
    }
    return Family(pipe, ("transformer",), ask, ways)


def sdxl() -> Family:
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=WIDTH + 6 * 8,
        cross_attention_dim=2 * WIDTH,
    )
    pipe = StableDiffusionXLPipeline(
        vae=None,
        text_encoder=CLIPTextModel(clip()),
        text_encoder_2=CLIPTextModelWithProjection(clip()),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )
    ways: dict[str, Options] = {
        "concatenated": {"guidance_scale": 5.0},
        "none": {"guidance_scale": 1.0},
    }
    return Family(
        pipe,
        ("unet",),
        prompts(height=64, width=64),
        ways,
        encoders=("text_encoder", "text_encoder_2"),
        shared=".*position_embedding",
    )


def animatediff() -> Family:
    """Stable Diffusion 1.5 that moves: frames, then pixels, are flattened into the batch.

    diffusers draws the noise of one sample a prompt.
    """
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
    )
    motion = MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
    )
    pipe = AnimateDiffPipeline(
        vae=None,
        text_encoder=CLIPTextModel(clip()),
        tokenizer=tokenizer(),
        unet=unet,
        motion_adapter=motion,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
    )
    ways: dict[str, Options] = {
        "concatenated": {"guidance_scale": 5.0, "negative_prompt": NEGATIVE},
        "none": {"guidance_scale": 1.0},
    }
    ask = prompts(height=32, width=32, num_frames=5)
    return Family(
        pipe,
        ("unet",),
        ask,
        ways,
        encoders=("text_encoder",),
        each=(1,),
        shared=".*position_embedding",
    )


def wan() -> Family:
    """Wan 2.2: of two steps the first is the one expert's, the second the other's."""
    experts = [
        WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        )
        for _ in range(2)
    ]
    pipe = WanPipeline(
        tokenizer(),
        UMT5EncoderModel(UMT5Config(**t5())),
        None,
        UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=experts[0],
        transformer_2=experts[1],
        boundary_ratio=0.875,
    )
    ask = prompts(height=32, width=32, num_frames=5, max_sequence_length=LENGTH)
    ways: dict[str, Options] = {
        "two calls": {"guidance_scale": 4.0, "guidance_scale_2": 3.0, "negative_prompt": NEGATIVE},
        "none": {"guidance_scale": 1.0},
    }
    return Family(pipe, ("transformer", "transformer_2"), ask, ways)


def wan_5b() -> Family:
    """Wan 2.2 TI2V: one expert, and a time of its own for every token."""
    family = wan()
    family.pipe.register_to_config(boundary_ratio=None, expand_timesteps=True)
    guided: Options = {"guidance_scale": 4.0, "negative_prompt": NEGATIVE}
    return replace(family, denoisers=("transformer",), guidance={"two calls": guided})


def z_image() -> Family:
    """Z-Image, asked by embeddings: it takes rows as lists and runs their tokens together."""
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[128, 8, 8],
    )
    torch.nn.init.normal_(transformer.cap_pad_token)
    torch.nn.init.normal_(transformer.x_pad_token)
    pipe = ZImagePipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, transformer)
    lengths = (4, 40, 70)  # padded to 32, 64 and 96: a third of their sum is no row's
    embeds = [[torch.randn(length, WIDTH) for length in lengths] for _ in range(2)]

    def ask(requests: Sequence[int]) -> Options:
        positive, negative = ([rows[i] for i in requests] for rows in embeds)
        return {
            "prompt_embeds": positive,
            "negative_prompt_embeds": negative,
            "height": 32,
            "width": 32,
        }

    ways = {"concatenated": {"guidance_scale": 4.0}, "none": {"guidance_scale": 0.0}}
    return Family(pipe, ("transformer",), ask, ways, shared="cap_embedder.*")


FAMILIES: dict[str, Callable[[], Family]] = {
    "flux": flux,
    "flux schnell": schnell,
    "flux 2": flux2,
    "qwen-image": qwen_image,
    "qwen-image, unequal prompts": qwen_image_unequal,
    "qwen-image-edit": qwen_image_edit,
    "sd3": sd3,
    "sdxl": sdxl,
    "animatediff": animatediff,
    "wan 2.2": wan,
    "wan 2.2 5b": wan_5b,
    "z-image": z_image,
}


def finished(family: Family) -> Family:
    """``family`` in evaluation mode and without progress bars."""
    family.pipe.set_progress_bar_config(disable=True)
    for part in family.pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(requires_grad=False)
    return family


def build(name: str) -> Family:
    """The family of that name; equal weights whenever it is built."""
    torch.manual_seed(0)
    return finished(FAMILIES[name]())
