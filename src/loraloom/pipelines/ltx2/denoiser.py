"""LTX-2 and LTX-2.3: what their components do in a run."""

from __future__ import annotations

from functools import cache as once
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from loraloom.models.load import load_upsampler
from loraloom.pipelines.denoiser import Scene, Stream, noise, prompts, unpack, weighted

from . import sound
from .passes import predict
from .shown import rows
from .space import Space, rate
from .tokens import pixels, stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from loraloom.core.request import Canvas, Request
    from loraloom.core.stage import Modality, Pass, Stage, Stages
    from loraloom.models.card import Card
    from loraloom.pipelines.denoiser import Call, Latents, Moment
    from loraloom.pipelines.samplers import Streams
    from loraloom.pipelines.sound import Sound


class Ltx2:
    """See :class:`~loraloom.pipelines.denoiser.Denoiser`.

    Args:
        card: of the model; where its upsampler lies.
        pipe: diffusers' ``LTX2Pipeline``, whose components these are.
    """

    def __init__(self, card: Card, pipe: Any) -> None:
        self.card = card
        self.pipe = pipe
        self.upsampler = once(partial(load_upsampler, card, pipe))

    @property
    def space(self) -> Space:
        return Space(self.pipe)

    @property
    def scheduler(self) -> Any:
        return self.pipe.scheduler

    @property
    def components(self) -> Mapping[str, nn.Module]:
        upsampler = {"latent_upsampler": self.upsampler()} if self.card.upsampler else {}
        return weighted(self.pipe) | upsampler

    def ready(self, stages: Stages) -> None:
        if stages[0].size != 1:
            self.upsampler()

    @torch.no_grad()
    def encode(self, requests: Sequence[Request], passes: frozenset[Pass]) -> Mapping[Pass, Any]:
        """Hidden states of every layer of the text encoder, and which tokens are words."""
        longest = min(1024, self.pipe.tokenizer.model_max_length)
        return {
            name: self.pipe.encode_prompt(
                texts, do_classifier_free_guidance=False, max_sequence_length=longest
            )[:2]
            for name, texts in prompts(requests, passes).items()
        }

    @torch.no_grad()
    def originals(self, images: Sequence[Image], canvas: Canvas) -> Latents:
        """Each is encoded alone, as everything that does not depend on the batch."""
        shown = [pixels([image], canvas.width, canvas.height) for image in images]
        return {"video": torch.cat([self.space.restored(self.space.encoded(x)) for x in shown])}

    @torch.no_grad()
    def enter(self, stage: Stage, call: Call, before: Latents, start: float) -> Scene:
        canvas = stage.canvas(call.canvas)
        text = self._connected(call.text, stage.guidance.passes)
        shown = rows(self.space, call, stage, before)
        drawn = noise(call.draws, [tuple(row.latents.shape) for row in shown])
        streams: dict[Modality, Stream] = {"video": stream(shown, drawn, start)}
        if call.audio:
            streams["audio"] = self._sound(call, canvas, before, start)
        return Scene(streams, text, self.space.shape(canvas))

    def size(self, canvas: Canvas) -> tuple[int, int]:
        _, height, width = self.space.shape(canvas)
        return height, width

    def counts(self, scene: Scene) -> Sequence[int]:
        video = scene.streams["video"]
        if video.real is None:
            return [video.tokens.shape[1]] * len(video.tokens)
        return [int(row.sum()) for row in video.real]

    @torch.no_grad()
    def predict(self, scene: Scene, tokens: Streams, at: Moment) -> Mapping[Pass, Streams]:
        return predict(self.pipe.transformer, scene, tokens, at)

    def leave(self, scene: Scene, tokens: Streams) -> Latents:
        video = self.space.restored(unpack(tokens["video"], scene.shape))
        if "audio" not in tokens:
            return {"video": video}
        return {"video": video, "audio": sound.unpack(tokens["audio"], self.pipe.audio_vae)}

    @torch.no_grad()
    def enlarge(self, before: Latents, to: tuple[int, int]) -> Latents:
        video = before["video"]
        model = self.upsampler()
        while video.shape[-2:] < torch.Size(to):
            video = model(video.to(model.dtype)).float()
        assert tuple(video.shape[-2:]) == to, "stages were checked against the upsampler"
        return {**before, "video": video}

    @torch.no_grad()
    def frames(self, video: Tensor) -> tuple[Image, ...]:
        """One at a time: the pixels of a request do not depend on the batch that it ran in."""
        vae = self.pipe.vae
        time = torch.zeros(1, device=video.device) if vae.config.timestep_conditioning else None
        made = vae.decode(video[None].to(vae.dtype), time, return_dict=False)[0]
        return tuple(self.pipe.video_processor.postprocess_video(made, output_type="pil")[0])

    def sound(self, audio: Tensor) -> Sound:
        """The wave of one ``[channels, length, bins]`` latent."""
        return sound.heard(audio, self.pipe.audio_vae, self.pipe.vocoder)

    def _connected(self, text: Mapping[Pass, Any], passes: frozenset[Pass]) -> Mapping[Pass, Any]:
        """By pass, what transformer is told of it for video and sound, and a mask of words."""
        names = [name for name in ("negative", "prompt") if name in passes]
        states, words = (torch.cat([text[name][i] for name in names]) for i in range(2))
        side = self.pipe.tokenizer.padding_side
        parts = self.pipe.connectors(states, words, padding_side=side)
        chunks = zip(*(part.chunk(len(names)) for part in parts), strict=True)
        return dict(zip(names, chunks, strict=True))

    def _sound(self, call: Call, canvas: Canvas, before: Latents, start: float) -> Stream:
        pipe, count = self.pipe, len(call.requests)
        vae, device = pipe.audio_vae, pipe._execution_device
        if "audio" in before:
            free = sound.pack(before["audio"], vae)
        else:
            length = sound.length(vae, canvas, rate(canvas))
            free = torch.zeros(count, length, sound.channels(vae), device=device)
        drawn = torch.cat(noise(call.draws, [tuple(free.shape[1:])] * count)).to(free)
        coords = pipe.transformer.audio_rope.prepare_audio_coords(count, free.shape[1], device)
        return Stream(drawn * start + free * (1 - start), coords)
