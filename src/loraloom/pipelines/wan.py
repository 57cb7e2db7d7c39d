"""Wan 2.2: what its components do in a run; a stage names the expert that denoises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from loraloom.pipelines.denoiser import Piped, Scene, Stream, noise, pack, prompts, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from loraloom.core.request import Canvas, Request
    from loraloom.core.stage import Pass, Stage
    from loraloom.pipelines.denoiser import Call, Latents, Moment
    from loraloom.pipelines.samplers import Streams
    from loraloom.pipelines.sound import Sound

WORDS = 512
"""Tokens of every prompt, filled up: as many as the model was trained with."""


class Wan(Piped):
    """See :class:`~loraloom.pipelines.denoiser.Denoiser`.

    The components are those of diffusers' ``WanPipeline``.
    """

    @torch.no_grad()
    def encode(self, requests: Sequence[Request], passes: frozenset[Pass]) -> Mapping[Pass, Any]:
        """``[rows, WORDS, width]``, zeros behind the words."""
        return {
            name: self.pipe.encode_prompt(
                texts, do_classifier_free_guidance=False, max_sequence_length=WORDS
            )[0]
            for name, texts in prompts(requests, passes).items()
        }

    def originals(self, images: Sequence[Image], canvas: Canvas) -> Latents:
        raise AssertionError(f"no request with an origin is admitted, not {images} on {canvas}")

    @torch.no_grad()
    def enter(self, stage: Stage, call: Call, before: Latents, start: float) -> Scene:
        canvas = stage.canvas(call.canvas)
        shape = self._shape(canvas)
        channels = self.pipe.transformer.config.in_channels
        drawn = torch.cat(noise(call.draws, [(channels, *shape)] * len(call.requests)))
        tokens = pack(drawn.to(self.pipe._execution_device)) * start
        if before:
            mean, deviation = self._normal(before["video"])
            tokens = tokens + pack((before["video"] - mean) / deviation) * (1 - start)
        # where tokens lie follows from the shape alone
        nowhere = tokens.new_empty(len(tokens), 0)
        return Scene({"video": Stream(tokens, nowhere)}, call.text, shape)

    def size(self, canvas: Canvas) -> tuple[int, int]:
        _, height, width = self._shape(canvas)
        return height, width

    def counts(self, scene: Scene) -> Sequence[int]:
        rows, tokens, _ = scene.streams["video"].tokens.shape
        return [tokens] * rows

    @torch.no_grad()
    def predict(self, scene: Scene, tokens: Streams, at: Moment) -> Mapping[Pass, Streams]:
        """The passes are one call, in the order that layers tell rows apart by."""
        told: list[Pass] = [name for name in ("negative", "prompt") if name in at.passes]
        times = len(told)
        component = at.stage.component or "transformer"
        transformer = getattr(self.pipe, component)
        text = torch.cat([scene.text[name] for name in told]).to(transformer.dtype)
        made = transformer(
            hidden_states=unpack(tokens["video"], scene.shape)
            .repeat(times, 1, 1, 1, 1)
            .to(transformer.dtype),
            timestep=at.time.repeat(times),
            encoder_hidden_states=text,
            return_dict=False,
        )[0]
        velocities = pack(made.float()).chunk(times)
        return {name: {"video": each} for name, each in zip(told, velocities, strict=True)}

    def leave(self, scene: Scene, tokens: Streams) -> Latents:
        mean, deviation = self._normal(tokens["video"])
        return {"video": unpack(tokens["video"], scene.shape) * deviation + mean}

    def enlarge(self, before: Latents, to: tuple[int, int]) -> Latents:
        raise AssertionError(f"stages of one size alone are admitted, not {to} after {before}")

    @torch.no_grad()
    def frames(self, video: Tensor) -> tuple[Image, ...]:
        """One at a time: the pixels of a request do not depend on the batch that it ran in."""
        vae = self.pipe.vae
        made = vae.decode(video[None].to(vae.dtype), return_dict=False)[0]
        return tuple(self.pipe.video_processor.postprocess_video(made, output_type="pil")[0])

    def sound(self, audio: Tensor) -> Sound:
        raise AssertionError(f"no request with sound is admitted, not {audio.shape}")

    def _shape(self, canvas: Canvas) -> tuple[int, int, int]:
        vae = self.pipe.vae.config
        pixel, frame = vae.scale_factor_spatial, vae.scale_factor_temporal
        return (canvas.frames - 1) // frame + 1, canvas.height // pixel, canvas.width // pixel

    def _normal(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of latents by channel."""
        vae = self.pipe.vae.config
        mean, deviation = (
            torch.tensor(each).view(1, -1, 1, 1, 1).to(like)
            for each in (vae.latents_mean, vae.latents_std)
        )
        return mean, deviation
