"""Sound as a value, as long as its video, and as a file."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import av
import numpy as np

from loraloom.errors import MediaError

from .files import replacing

if TYPE_CHECKING:
    from fractions import Fraction
    from pathlib import Path

    from numpy.typing import NDArray

LAYOUTS = {1: "mono", 2: "stereo"}


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """What is heard: ``samples`` is float32 [channels, samples], ``rate`` samples per second.

    One channel, or two: left and right. Full scale is -1 to 1; files hold what is beyond as full
    scale, because vocoders overshoot.

    Raises:
        MediaError: another shape or type, samples that are not finite, or a rate that is none.
    """

    samples: NDArray[np.float32]
    rate: int

    def __post_init__(self) -> None:
        shape, kind = list(self.samples.shape), self.samples.dtype
        if len(shape) != 2 or shape[0] not in LAYOUTS or shape[1] < 1:
            raise MediaError(f"a sound has shape {shape}, want [1 or 2 channels, samples]")
        if kind != np.float32:
            raise MediaError(f"a sound has samples of {kind}, want float32")
        if wrong := int(np.count_nonzero(~np.isfinite(self.samples))):
            raise MediaError(
                f"a sound has {wrong} of {self.samples.size} samples that are not finite, want none"
            )
        if not (isinstance(self.rate, int) and self.rate > 0):
            raise MediaError(
                f"a sound has {self.rate!r} samples per second, want a whole number above 0"
            )

    @property
    def layout(self) -> str:
        """The name of its channels, as PyAV spells it."""
        return LAYOUTS[len(self.samples)]

    def lasting(self, seconds: Fraction) -> Sound:
        """Its beginning, or all of it and then silence, in whole samples: the last ends in time."""
        count = max(1, int(seconds * self.rate))
        kept = self.samples[:, :count]
        return Sound(np.pad(kept, ((0, 0), (0, count - kept.shape[1]))), self.rate)

    def at(self, rate: int) -> Sound:
        """The same at another rate."""
        if rate == self.rate:
            return self
        resampler = av.AudioResampler(format="fltp", rate=rate)
        frames = [*resampler.resample(self.frame()), *resampler.resample(None)]
        if not frames:  # fewer samples than the resampler looks at
            return Sound(self.samples[:, :1], rate)
        return Sound(np.concatenate([frame.to_ndarray() for frame in frames], axis=1), rate)

    def frame(self) -> av.AudioFrame:
        """All of it as one frame of PyAV's that begins at 0."""
        full = np.ascontiguousarray(self.samples.clip(-1, 1))
        frame = av.AudioFrame.from_ndarray(full, format="fltp", layout=self.layout)
        frame.sample_rate, frame.pts = self.rate, 0
        return frame


def save_sound(sound: Sound, path: Path) -> None:
    """Write a WAV of 16 bits.

    Raises:
        MediaError: another suffix, or it cannot be written there.
    """
    if path.suffix.lower() != ".wav":
        raise MediaError(f"{path} cannot hold a sound, want .wav")
    whole = np.rint(sound.samples.clip(-1, 1) * 32767).astype("<i2")
    with replacing(path) as draft, wave.open(str(draft), "wb") as file:
        file.setnchannels(len(whole))
        file.setsampwidth(whole.itemsize)
        file.setframerate(sound.rate)
        file.writeframes(whole.T.tobytes())


def rate_for_aac(rate: int) -> int:
    """The lowest of AAC's rates that loses nothing of this one, or its highest."""
    return min((each for each in _aac_rates() if each >= rate), default=max(_aac_rates()))


@cache
def _aac_rates() -> tuple[int, ...]:
    return tuple(av.Codec("aac", "w").audio_rates)
