"""Flow matching on encoded clips: batches, conditions and the loss, as the pipelines sample."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from torch import Tensor, nn
from transformers import AutoTokenizer, Gemma3ForConditionalGeneration

from training import configs
from training.latents import KEY_FRAMES, Shelf
from training.scenes import Scene

Caption = Callable[[tuple[Scene, Scene], random.Random], str]


@dataclass(frozen=True, slots=True)
class Text:
    states: Tensor  # [B, 32, width * layers]
    mask: Tensor  # [B, 32]


class TextCache:
    """Hidden states of the frozen text encoder, computed once per caption."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self.tokenizer.padding_side = "left"
        self.encoder = Gemma3ForConditionalGeneration.from_pretrained(
            folder / "text_encoder", dtype=torch.bfloat16
        ).eval()
        self.known: dict[str, Text] = {}

    @torch.no_grad()
    def read(self, captions: list[str]) -> Text:
        new = [c for c in dict.fromkeys(captions) if c not in self.known]
        for at in range(0, len(new), 64):
            part = new[at : at + 64]
            ids = self.tokenizer(
                part, padding="max_length", max_length=configs.TEXT_TOKENS, return_tensors="pt"
            )
            states = self.encoder(
                input_ids=ids.input_ids,
                attention_mask=ids.attention_mask,
                output_hidden_states=True,
            ).hidden_states
            packed = torch.stack(states, dim=-1).flatten(2, 3).bfloat16()
            for caption, one, mask in zip(part, packed, ids.attention_mask, strict=True):
                self.known[caption] = Text(one.clone(), mask.clone())
        found = [self.known[c] for c in captions]
        return Text(torch.stack([f.states for f in found]), torch.stack([f.mask for f in found]))


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward sees; `clean` tokens carry conditions and no loss."""

    x0: Tensor  # [B, S, C]
    start: Tensor  # [B, S, C]: what is mixed with noise, x0 except where a stage begins elsewhere
    clean: Tensor  # [S] bool
    coords: Tensor  # [1, 3, S, 2]
    text: Text


def pack(latents: Tensor) -> Tensor:
    """[B, C, T, h, w] to tokens [B, T*h*w, C]."""
    return latents.flatten(2).mT.contiguous()


def grid_coords(model: LTX2VideoTransformer3DModel, latents: Tensor, fps: float) -> Tensor:
    frames, height, width = latents.shape[-3:]
    return model.rope.prepare_video_coords(1, frames, height, width, latents.device, fps=fps)


def key_coords(model: LTX2VideoTransformer3DModel, key: Tensor, pixel: int, fps: float) -> Tensor:
    """Coordinates of an appended single frame: one pixel frame long, at `pixel`."""
    coords = grid_coords(model, key, fps)
    coords[:, 0, :, 0], coords[:, 0, :, 1] = pixel / fps, (pixel + 1) / fps
    return coords


def with_key(model: LTX2VideoTransformer3DModel, batch: Batch, key: Tensor, pixel: int) -> Batch:
    """Append the single frame `key` [B, C, 1, h, w] as clean tokens at pixel frame `pixel`."""
    tokens = pack(key)
    return replace(
        batch,
        x0=torch.cat((batch.x0, tokens), 1),
        start=torch.cat((batch.start, tokens), 1),
        clean=torch.cat((batch.clean, torch.ones(tokens.shape[1], dtype=torch.bool))),
        coords=torch.cat((batch.coords, key_coords(model, key, pixel, configs.FRAME_RATE)), 2),
    )


def with_first(batch: Batch, tokens: int) -> Batch:
    clean = batch.clean.clone()
    clean[:tokens] = True
    return replace(batch, clean=clean)


def draw_batch(
    model: LTX2VideoTransformer3DModel, shelf: Shelf, picked: list[int], text: Text
) -> Batch:
    latents = shelf.latents[picked]
    tokens = pack(latents)
    return Batch(
        x0=tokens,
        start=tokens,
        clean=torch.zeros(tokens.shape[1], dtype=torch.bool),
        coords=grid_coords(model, latents, configs.FRAME_RATE),
        text=text,
    )


def condition(
    model: LTX2VideoTransformer3DModel,
    batch: Batch,
    shelf: Shelf,
    picked: list[int],
    rng: random.Random,
) -> Batch:
    """Sometimes give the first frame, sometimes a keyframe, sometimes both."""
    chance = rng.random()
    if shelf.keys is None or chance > 0.4:
        return batch
    if chance < 0.3:
        batch = with_first(batch, shelf.latents[0, 0, 0].numel())
    if chance > 0.15:
        which = rng.randrange(len(KEY_FRAMES))
        batch = with_key(model, batch, shelf.keys[picked, which], KEY_FRAMES[which])
    return batch


def sigmas(count: int, shift: float) -> Tensor:
    """Logit-normal around the sampling shift with a uniform eighth."""
    drawn = torch.sigmoid(torch.randn(count) + shift)
    return torch.where(torch.rand(count) < 0.125, torch.rand(count), drawn)


class Denoiser(nn.Module):
    """Connectors and transformer as one function of text, noisy tokens and noise level."""

    def __init__(
        self, transformer: LTX2VideoTransformer3DModel, connectors: LTX2TextConnectors
    ) -> None:
        super().__init__()
        self.transformer, self.connectors = transformer, connectors

    def forward(self, noisy: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        count = len(noisy)
        video, audio, _ = self.connectors(batch.text.states, batch.text.mask)
        time = (sigma * 1000)[:, None]
        if batch.coords[0, 0].max() > 1 / configs.FRAME_RATE:  # one compiled shape for all clips
            time = time * (~batch.clean).float()[None]
        silent = torch.zeros(count, 1, configs.TRANSFORMER["audio_in_channels"]).to(noisy)
        return self.transformer(
            hidden_states=noisy,
            audio_hidden_states=silent,
            encoder_hidden_states=video,
            audio_encoder_hidden_states=audio,
            timestep=time,
            audio_timestep=sigma * 1000,
            sigma=sigma * 1000,
            num_frames=1,
            height=1,
            width=1,
            audio_num_frames=1,
            video_coords=batch.coords.expand(count, -1, -1, -1),
            isolate_modalities=True,
            use_cross_timestep=True,
            return_dict=False,
        )[0]


def loss_of(denoiser: nn.Module, batch: Batch, sigma: Tensor) -> Tensor:
    """Mean squared velocity error over the tokens that are not given."""
    s = sigma[:, None, None]
    x0 = batch.x0.float()
    mixed = (1 - s) * batch.start.float() + s * torch.randn_like(x0)
    noisy = torch.where(batch.clean[None, :, None], x0, mixed)
    # Where a stage starts from other latents, the velocity that lands on x0 is still the target.
    target = ((noisy - x0) / s.clamp(min=1e-3))[:, ~batch.clean]
    made = denoiser(noisy.bfloat16(), sigma, batch)[:, ~batch.clean].float()
    return (made - target).square().mean()
