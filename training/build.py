"""Build every component of `mini` from its configuration: a loadable folder of random weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel, LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaTokenizer,
    SiglipVisionConfig,
)

from training import configs
from training.scenes import WORDS

LORA_TARGETS = (
    r"transformer_blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)"
    r"|attn2\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"
)
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")


def tokenizer() -> GemmaTokenizer:
    """One token per word of the grammar, with or without a space before it.

    Byte-pair merges that only ever extend a word from its left end cannot cross words.
    """
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [*"abcdefghijklmnopqrstuvwxyz", "▁"]
    merges: list[tuple[str, str]] = []
    for word in [*(f"▁{w}" for w in WORDS), *WORDS]:
        for end in range(1, len(word)):
            pair = (word[:end], word[end])
            if pair not in merges:
                merges.append(pair)
                tokens.append(word[: end + 1])
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    made = GemmaTokenizer(
        vocab=vocab, merges=merges, model_max_length=configs.TEXT_TOKENS, add_bos_token=True
    )
    made.padding_side = "left"
    return made


def text_encoder(words: GemmaTokenizer) -> Gemma3ForConditionalGeneration:
    """Frozen and random: distinct hidden states per word are all the connectors need."""
    size = len(words)
    text = Gemma3TextConfig(
        vocab_size=size,
        hidden_size=configs.TEXT_WIDTH,
        intermediate_size=2 * configs.TEXT_WIDTH,
        num_hidden_layers=configs.TEXT_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=1024,
        max_position_embeddings=1024,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.125,
    )
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=32,
        patch_size=16,
    )
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    config.image_token_index = config.image_token_id = 4
    model = Gemma3ForConditionalGeneration(config)
    table = model.get_input_embeddings().weight.data
    vocab = words.get_vocab()
    for word in WORDS:
        table[vocab[word]] = table[vocab[f"▁{word}"]]
    return model.eval()


def initialise(transformer: LTX2VideoTransformer3DModel) -> None:
    """Residual branches open a little and the output is zero; sound never reaches the picture."""
    for name, parameter in transformer.named_parameters():
        if name.endswith("scale_shift_table"):
            parameter.data.zero_()
            if name.startswith("transformer_blocks") and parameter.shape[0] in (6, 9):
                parameter.data[2::3] = 0.3
        if name.startswith(("proj_out", "audio_proj_out")):
            parameter.data.zero_()
        if "audio_to_video_attn.to_out" in name or "video_to_audio_attn.to_out" in name:
            parameter.data.zero_()


def hush(vocoder: LTX2VocoderWithBWE) -> None:
    """An untrained vocoder is loud noise; make it a whisper, about -68 dB."""
    vocoder.vocoder.conv_out.weight.data.mul_(0.002)
    vocoder.bwe_generator.conv_out.weight.data.mul_(0.0005)


def pipeline() -> LTX2Pipeline:
    torch.manual_seed(configs.SEED)
    words = tokenizer()
    transformer = LTX2VideoTransformer3DModel(**configs.TRANSFORMER)
    initialise(transformer)
    vocoder = LTX2VocoderWithBWE(**configs.VOCODER)
    hush(vocoder)
    return LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**configs.SCHEDULER),
        vae=AutoencoderKLLTX2Video(**configs.VAE),
        audio_vae=AutoencoderKLLTX2Audio(**configs.AUDIO_VAE),
        text_encoder=text_encoder(words),
        tokenizer=words,
        connectors=LTX2TextConnectors(**configs.CONNECTORS),
        transformer=transformer,
        vocoder=vocoder,
    )


def upsampler() -> LTX2LatentUpsamplerModel:
    return LTX2LatentUpsamplerModel(**configs.UPSAMPLER)


def lora_config() -> LoraConfig:
    return LoraConfig(
        r=configs.ADAPTER_RANK, lora_alpha=configs.ADAPTER_RANK, target_modules=LORA_TARGETS
    )


def save_adapter(model: torch.nn.Module, folder: Path, trigger: str, description: str) -> None:
    """Write a peft model's adapter in peft's layout, bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in get_peft_model_state_dict(model).items()
    }
    notes = {"format": "pt", "trigger": trigger, "description": description}
    save_file(tensors, folder / "adapter_model.safetensors", metadata=notes)
    settings: Any = model.peft_config
    config = settings["default"].to_dict()
    config |= {"base_model_name_or_path": "mini", "inference_mode": True}
    text = json.dumps(config, indent=2, default=sorted)
    (folder / "adapter_config.json").write_text(text + "\n")


def random_adapters(folder: Path, transformer: LTX2VideoTransformer3DModel) -> None:
    for name in configs.ADAPTERS:
        model = get_peft_model(transformer, lora_config())
        save_adapter(model, folder / "adapters" / name, "", f"untrained {name}")
        transformer = model.unload()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=configs.WEIGHTS)
    folder = parser.parse_args().folder
    pipe = pipeline()
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.to(torch.bfloat16)
    pipe.save_pretrained(folder)
    upsampler().to(torch.bfloat16).save_pretrained(folder / "latent_upsampler")
    random_adapters(folder, pipe.transformer)
    (folder / "loraloom.json").write_text(json.dumps(configs.RECOMMENDED, indent=2) + "\n")


if __name__ == "__main__":
    main()
