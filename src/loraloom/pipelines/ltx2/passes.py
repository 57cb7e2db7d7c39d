"""The passes of one step through LTX-2's transformer."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from .tokens import VideoStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from loraloom.core.stage import Modality, Pass
    from loraloom.pipelines.denoiser import Moment, Scene
    from loraloom.pipelines.samplers import Streams


def predict(transformer: Any, scene: Scene, tokens: Streams, at: Moment) -> dict[Pass, Streams]:
    """By pass, the velocities of video and sound, float32.

    The prompt and the negative one are one call, in the order that layers tell rows apart by; a
    pass that changes what the blocks do is a call of its own.
    """
    told = [name for name in ("negative", "prompt") if name in at.passes]
    found = _call(transformer, scene, tokens, at, told)
    rows = len(tokens["video"])
    made: dict[Pass, Streams] = {
        name: {mode: out[i * rows : (i + 1) * rows] for mode, out in found.items()}
        for i, name in enumerate(told)
    }
    for name in ("perturbed", "isolated"):
        if name in at.passes:
            made[name] = _call(transformer, scene, tokens, at, [name])
    return made


def _call(
    transformer: Any, scene: Scene, tokens: Streams, at: Moment, passes: Sequence[Pass]
) -> dict[Modality, Tensor]:
    """The velocities for these passes, one batch after the other."""
    times = len(passes)
    stacked = [scene.text[name if name in scene.text else "prompt"] for name in passes]
    video, audio, mask = (torch.cat(parts) for parts in zip(*stacked, strict=True))
    dtype = video.dtype
    silent = "audio" not in tokens
    sound = _silence(transformer, tokens["video"]) if silent else tokens["audio"]
    coords = {name: torch.cat([each.coords] * times) for name, each in scene.streams.items()}
    moment = torch.cat([at.time] * times)
    with _unseen(transformer, scene.streams["video"].real, times):
        seen, heard = transformer(
            hidden_states=torch.cat([tokens["video"]] * times).to(dtype),
            audio_hidden_states=torch.cat([sound] * times).to(dtype),
            encoder_hidden_states=video,
            audio_encoder_hidden_states=audio,
            timestep=_times(scene, at.time).repeat(times, 1),
            audio_timestep=moment,
            sigma=moment,
            audio_sigma=moment,
            encoder_attention_mask=mask,
            audio_encoder_attention_mask=mask,
            video_coords=coords["video"],
            audio_coords=moment.new_zeros(len(moment), 1, 1, 2) if silent else coords["audio"],
            isolate_modalities=silent or passes == ["isolated"],
            spatio_temporal_guidance_blocks=_blocks(at, passes),
            use_cross_timestep=bool(transformer.config.cross_attn_mod),
            video_self_attention_mask=_attention(scene, times),
            return_dict=False,
        )
    made: dict[Modality, Tensor] = {"video": seen.float()}
    return made if silent else {**made, "audio": heard.float()}


def _blocks(at: Moment, passes: Sequence[Pass]) -> list[int] | None:
    return list(at.stage.guidance.blocks) if passes == ["perturbed"] else None


def _times(scene: Scene, time: Tensor) -> Tensor:
    """``[rows, tokens]``, or ``[rows, 1]`` where all tokens are at one time."""
    mask = scene.streams["video"].mask
    return time[:, None] if mask is None else time[:, None] * (1 - mask[..., 0])


def _silence(transformer: Any, video: Tensor) -> Tensor:
    """One token, the least that the transformer takes for sound; no video sees it."""
    return video.new_zeros(len(video), 1, transformer.config.audio_in_channels)


def _attention(scene: Scene, times: int) -> Tensor | None:
    """``[rows, 1 or tokens, tokens]``: 1 where a token of the video sees another."""
    video = scene.streams["video"]
    assert isinstance(video, VideoStream)
    return None if video.sight is None else video.sight.repeat(times, 1, 1)


@contextmanager
def _unseen(transformer: Any, real: Tensor | None, times: int) -> Iterator[None]:
    """Keep the sound from seeing tokens that only fill up a row.

    The blocks take a mask for that; the transformer gives them none.
    """
    if real is None:
        yield
        return
    bias = (real.mT.repeat(times, 1, 1) - 1) * 10000.0

    def masked(_module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        return args, {**kwargs, "attention_mask": bias.to(kwargs["encoder_hidden_states"])}

    with ExitStack() as hooks:
        for block in transformer.transformer_blocks:
            hook = block.video_to_audio_attn.register_forward_pre_hook(masked, with_kwargs=True)
            hooks.callback(hook.remove)
        yield
