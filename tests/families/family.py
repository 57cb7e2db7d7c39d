"""One pipeline that wears adapters and how it is asked; tokenizers and text encoders for all."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Options = dict[str, Any]

PROMPTS = ["a red circle", "a small green star on the plain", "two boats"]
NEGATIVE = "a blurry star"
WORDS = sorted({word for prompt in [*PROMPTS, NEGATIVE] for word in prompt.split()})
VOCABULARY = ["<pad>", "<unk>", "<end>", *WORDS]
LENGTH = 8
"""Tokens of every prompt, padded."""
WIDTH = 16
"""Of every text encoder."""


@dataclass(frozen=True, slots=True)
class Family:
    """A pipeline, its components that wear adapters, and how it is asked.

    Attributes:
        denoisers: components that are called with the samples of a batch.
        ask: the options that carry the prompts of the requests of the given numbers.
        guidance: further options, by the name of a way to guide.
        encoders: components that are called with the prompts, before samples are made of them.
        each: the numbers of samples of a prompt that the pipeline itself gets right.
        shared: sites whose entries belong to no row or to rows that cannot be told, a pattern.
    """

    pipe: Any
    denoisers: tuple[str, ...]
    ask: Callable[[Sequence[int]], Options]
    guidance: Mapping[str, Options]
    encoders: tuple[str, ...] = ()
    each: tuple[int, ...] = (1, 2)
    shared: str = "(?!)"

    @property
    def components(self) -> tuple[str, ...]:
        return self.denoisers + self.encoders

    def latents(self, requests: Sequence[int], guidance: str, each: int = 1) -> torch.Tensor:
        """``each`` samples of every request, neighbours, every one with noise of its own."""
        seeds = [10 * request + sample for request in requests for sample in range(each)]
        asked = inspect.signature(self.pipe.__call__).parameters
        kind = "videos" if "num_videos_per_prompt" in asked else "images"
        options = {**self.ask(requests), **self.guidance[guidance]}
        if isinstance(options.get("negative_prompt"), str):
            options["negative_prompt"] = [options["negative_prompt"]] * len(requests)
        result: torch.Tensor = self.pipe(
            **options,
            **{f"num_{kind}_per_prompt": each},
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=2,
            output_type="latent",
            return_dict=False,
        )[0]
        return result


def tokenizer() -> PreTrainedTokenizerFast:
    """Words of the prompts, each one token, and an end."""
    words = {word: i for i, word in enumerate(VOCABULARY)}
    split = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    split.pre_tokenizer = pre_tokenizers.Whitespace()
    split.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", words["<end>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=split,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        model_max_length=LENGTH,
    )


def clip() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=None,
        eos_token_id=VOCABULARY.index("<end>"),
        pad_token_id=0,
    )


def t5(width: int = WIDTH) -> Options:
    return {
        "vocab_size": len(VOCABULARY),
        "d_model": width,
        "d_kv": 8,
        "d_ff": 2 * width,
        "num_layers": 1,
        "num_heads": 2,
    }


def prompts(**options: Any) -> Callable[[Sequence[int]], Options]:
    """Ask by the texts of the prompts."""
    return lambda requests: {"prompt": [PROMPTS[i] for i in requests], **options}
