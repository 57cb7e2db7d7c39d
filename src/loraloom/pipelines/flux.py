"""FLUX.1: what its components do in a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from PIL import ImageOps
from torch.nn import functional

from loraloom.pipelines.denoiser import Piped, Scene, Stream, noise, prompts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from loraloom.core.request import Canvas, Request
    from loraloom.core.stage import Pass, Stage
    from loraloom.pipelines.denoiser import Call, Latents, Moment
    from loraloom.pipelines.samplers import Streams
    from loraloom.pipelines.sound import Sound

PATCH = 2
"""Places of the latent picture, in both directions, that are one token."""

WORDS, FEWER_WORDS = 512, 256
"""Tokens of every prompt, filled up: of a model that is told its guidance, and of one that is not
(black-forest-labs/flux, ``load_t5``)."""


class Flux(Piped):
    """See :class:`~loraloom.pipelines.denoiser.Denoiser`. A picture is a video of one frame.

    The components are those of diffusers' ``FluxPipeline``.
    """

    @torch.no_grad()
    def encode(self, requests: Sequence[Request], passes: frozenset[Pass]) -> Mapping[Pass, Any]:
        """States of T5 ``[rows, tokens, width]``, and what CLIP makes of the whole prompt."""
        words = WORDS if self._told else FEWER_WORDS
        longest = min(words, self.pipe.tokenizer_2.model_max_length)
        return {
            name: self.pipe.encode_prompt(texts, max_sequence_length=longest)[:2]
            for name, texts in prompts(requests, passes).items()
        }

    @torch.no_grad()
    def originals(self, images: Sequence[Image], canvas: Canvas) -> Latents:
        sides = (canvas.width, canvas.height)
        fitting = [ImageOps.fit(image.convert("RGB"), sides) for image in images]
        shown = [self.pipe.image_processor.preprocess(each) for each in fitting]
        device = self.pipe._execution_device
        return {"video": torch.cat([self._encoded(x.to(device)) for x in shown])[:, :, None]}

    @torch.no_grad()
    def enter(self, stage: Stage, call: Call, before: Latents, start: float) -> Scene:
        canvas = stage.canvas(call.canvas)
        height, width = self.size(canvas)
        channels = self.pipe.transformer.config.in_channels // PATCH**2
        drawn = torch.cat(noise(call.draws, [(channels, height, width)] * len(call.requests)))
        tokens = pack(drawn.to(self.pipe._execution_device)) * start
        if before:
            tokens = tokens + pack(self._normalised(before["video"][:, :, 0])) * (1 - start)
        coords = places(height // PATCH, width // PATCH).to(tokens)
        return Scene({"video": Stream(tokens, coords)}, call.text, (1, height, width))

    def size(self, canvas: Canvas) -> tuple[int, int]:
        pixel = self.pipe.vae_scale_factor
        return canvas.height // pixel, canvas.width // pixel

    def counts(self, scene: Scene) -> Sequence[int]:
        rows, tokens, _ = scene.streams["video"].tokens.shape
        return [tokens] * rows

    @torch.no_grad()
    def predict(self, scene: Scene, tokens: Streams, at: Moment) -> Mapping[Pass, Streams]:
        """The passes are one call, in the order that layers tell rows apart by."""
        told: list[Pass] = [name for name in ("negative", "prompt") if name in at.passes]
        times = len(told)
        states, pooled = (torch.cat([scene.text[name][i] for name in told]) for i in range(2))
        embedded = at.stage.guidance.embedded
        scale = 1.0 if embedded is None else embedded
        time = at.time.repeat(times)
        transformer = self.pipe.transformer
        made = transformer(
            hidden_states=tokens["video"].repeat(times, 1, 1).to(transformer.dtype),
            timestep=time.to(transformer.dtype) / 1000,
            guidance=torch.full_like(time, scale) if self._told else None,
            pooled_projections=pooled.to(transformer.dtype),
            encoder_hidden_states=states.to(transformer.dtype),
            txt_ids=states.new_zeros(states.shape[1], 3),
            img_ids=scene.streams["video"].coords.to(states.dtype),
            return_dict=False,
        )[0]
        velocities = made.float().chunk(times)
        return {name: {"video": each} for name, each in zip(told, velocities, strict=True)}

    def leave(self, scene: Scene, tokens: Streams) -> Latents:
        vae = self.pipe.vae.config
        latents = unpack(tokens["video"], scene.shape[1], scene.shape[2])
        return {"video": (latents / vae.scaling_factor + vae.shift_factor)[:, :, None]}

    @torch.no_grad()
    def enlarge(self, before: Latents, to: tuple[int, int]) -> Latents:
        """As pixels, one picture at a time."""
        size = [side * self.pipe.vae_scale_factor for side in to]
        rows = [self._enlarged(each[None, :, 0], size) for each in before["video"]]
        return {"video": torch.cat(rows)[:, :, None].float()}

    @torch.no_grad()
    def frames(self, video: Tensor) -> tuple[Image, ...]:
        """One at a time: the pixels of a request do not depend on the batch that it ran in."""
        made = self._decoded(video[None, :, 0])
        return tuple(self.pipe.image_processor.postprocess(made, output_type="pil"))

    def sound(self, audio: Tensor) -> Sound:
        raise AssertionError(f"no request with sound is admitted, not {audio.shape}")

    @property
    def _told(self) -> bool:
        """Whether the transformer is told a scale of guidance."""
        return bool(self.pipe.transformer.config.guidance_embeds)

    def _decoded(self, latents: Tensor) -> Tensor:
        """``[rows, 3, height, width]``, in -1..1 but for what overshoots."""
        vae = self.pipe.vae
        made: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return made

    def _enlarged(self, latents: Tensor, size: list[int]) -> Tensor:
        pixels = self._decoded(latents).float().clamp(-1, 1)
        pixels = functional.interpolate(pixels, size, mode="bicubic", align_corners=False)
        return self._encoded(pixels.clamp(-1, 1))

    def _encoded(self, pixels: Tensor) -> Tensor:
        """``[rows, channels, height, width]`` of pixels in -1..1, the most likely latents."""
        vae = self.pipe.vae
        made: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
        return made.float()

    def _normalised(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae.config
        made: Tensor = (latents - vae.shift_factor) * vae.scaling_factor
        return made


def pack(latents: Tensor) -> Tensor:
    """``[rows, channels, height, width]`` as tokens ``[rows, tokens, channels * 4]``."""
    return functional.pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The other way."""
    patches = tokens.transpose(1, 2)
    latents = patches.reshape(*patches.shape[:2], height // PATCH, width // PATCH)
    return functional.pixel_shuffle(latents, PATCH)


def places(height: int, width: int) -> Tensor:
    """``[tokens, 3]``: where each lies, 0, row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
