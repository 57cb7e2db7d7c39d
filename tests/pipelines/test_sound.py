"""Videos with sound: as long as what is seen, at its time, and the same bytes every time."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from loraloom.errors import MediaError
from loraloom.pipelines import media
from loraloom.pipelines.media import Sound

from .test_media import MADE, film, names

LEVEL = 0.5


def sine(pitch: float, rate: int, seconds: float = 1.0) -> NDArray[np.float32]:
    times = np.arange(round(seconds * rate)) / rate
    return (LEVEL * np.sin(2 * np.pi * pitch * times)).astype(np.float32)


def tone(rate: int = 24000, seconds: float = 1.0, pitches: tuple[float, ...] = (440,)) -> Sound:
    return Sound(np.stack([sine(pitch, rate, seconds) for pitch in pitches]), rate)


def heard(path: Path) -> Sound:
    """What a player decodes, from 0 to the end that the file declares."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.duration is not None
        assert stream.time_base == Fraction(1, stream.rate)
        frames = list(container.decode(stream))
        assert frames[0].pts == 0
        samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
        return Sound(samples[:, : stream.duration], stream.rate)


def pitch_of(samples: NDArray[np.float32], rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax()) * rate / len(samples)


def decibels(samples: NDArray[np.float32]) -> float:
    """The level, relative to the sine that the tests write."""
    return float(20 * np.log10(np.sqrt(np.mean(samples**2) + 1e-20) / (LEVEL / np.sqrt(2))))


@pytest.mark.parametrize("rate", [16000, 24000, 48000])
@pytest.mark.parametrize("pitches", [(440,), (440, 880)])
def test_what_is_heard_is_what_was_written(
    tmp_path: Path, rate: int, pitches: tuple[float, ...]
) -> None:
    path = tmp_path / "a.mp4"
    media.save_video(film(24), path, 24.0, MADE, tone(rate, pitches=pitches))
    sound = heard(path)
    assert sound.rate == rate
    assert len(sound.samples) == len(pitches)
    for samples, pitch in zip(sound.samples, pitches, strict=True):
        assert abs(pitch_of(samples, rate) - pitch) < 1.5
        assert abs(decibels(samples)) < 1
    assert media.read_provenance(path) == MADE


@pytest.mark.parametrize("rate", [7000, 22000, 50000, 192000])
def test_a_rate_that_aac_does_not_take_keeps_its_pitch_and_its_length(
    tmp_path: Path, rate: int
) -> None:
    path = tmp_path / "a.mp4"
    media.save_video(film(24), path, 24.0, None, tone(rate, pitches=(440, 880)))
    sound = heard(path)
    assert sound.rate != rate
    assert abs(tone(rate).at(sound.rate).samples.shape[1] - sound.rate) <= 1
    assert sound.samples.shape == (2, sound.rate)
    for samples, pitch in zip(sound.samples, (440, 880), strict=True):
        assert abs(pitch_of(samples, sound.rate) - pitch) < 1.5
        assert abs(decibels(samples)) < 1


@pytest.mark.parametrize("seconds", [0.3, 0.999, 1.0, 7.0])
@pytest.mark.parametrize(("count", "rate"), [(24, 24.0), (9, 30000 / 1001), (1, 24.0), (17, 25.0)])
def test_sound_lasts_as_long_as_its_video(
    tmp_path: Path, seconds: float, count: int, rate: float
) -> None:
    """Within a sample; the video is as long, and its frames as exact, as without sound."""
    path = tmp_path / "a.mp4"
    media.save_video(film(count), path, rate, None, tone(seconds=seconds))
    speed = Fraction(rate).limit_denominator(1001)
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.average_rate == speed
        assert video.start_time == audio.start_time == 0
        assert video.duration is not None
        assert audio.duration is not None
        assert video.time_base is not None
        assert video.duration * video.time_base == count / speed
        assert 0 <= count / speed - Fraction(audio.duration, audio.rate) < Fraction(1, audio.rate)
        times = [frame.pts * frame.time_base for frame in container.decode(video)]
    assert times == [index / speed for index in range(count)]


def test_short_sound_is_followed_by_silence(tmp_path: Path) -> None:
    media.save_video(film(24), tmp_path / "a.mp4", 24.0, None, tone(seconds=0.5))
    samples = heard(tmp_path / "a.mp4").samples[0]
    assert abs(decibels(samples[:11000])) < 1
    assert decibels(samples[14000:]) < -60


def test_long_sound_is_cut_at_its_end(tmp_path: Path) -> None:
    loud_later = Sound(np.concatenate([0 * sine(440, 24000), sine(440, 24000)])[None], 24000)
    media.save_video(film(24), tmp_path / "a.mp4", 24.0, None, loud_later)
    assert decibels(heard(tmp_path / "a.mp4").samples[0, :22000]) < -60


@pytest.mark.parametrize("rate", [16000, 44100, 50000])
def test_a_click_is_heard_at_its_time(tmp_path: Path, rate: int) -> None:
    """Within a millisecond: the encoder's own beginning is not heard."""
    click = np.zeros((1, rate), np.float32)
    click[0, rate // 2] = 1
    media.save_video(film(24), tmp_path / "a.mp4", 24.0, None, Sound(click, rate))
    sound = heard(tmp_path / "a.mp4")
    assert abs(np.abs(sound.samples[0]).argmax() / sound.rate - 0.5) < 0.001


def test_sound_beyond_full_scale_is_clipped(tmp_path: Path) -> None:
    loud = Sound(4 * tone().samples, 24000)
    media.save_video(film(24), tmp_path / "a.mp4", 24.0, None, loud)
    media.save_video(
        film(24), tmp_path / "b.mp4", 24.0, None, Sound(loud.samples.clip(-1, 1), 24000)
    )
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert loud.samples.max() > 1


def test_the_same_sound_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        media.save_video(film(), tmp_path / f"{name}.mp4", 16.0, MADE, tone(pitches=(440, 880)))
        media.save_sound(tone(), tmp_path / f"{name}.wav")
    for suffix in ("mp4", "wav"):
        first, second = (tmp_path / f"{name}.{suffix}" for name in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_pictures_are_the_same_with_and_without_sound(tmp_path: Path) -> None:
    shown = []
    for sound in (None, tone()):
        media.save_video(film(), tmp_path / "a.mp4", 16.0, MADE, sound)
        with av.open(str(tmp_path / "a.mp4")) as container:
            shown.append([bytes(packet) for packet in container.demux(video=0)])
    assert shown[0] == shown[1]


def test_a_video_with_sound_plays_before_it_is_loaded(tmp_path: Path) -> None:
    """Sound and pictures lie in the file in the order of their times."""
    path = tmp_path / "a.mp4"
    media.save_video(film(20), path, 0.5, MADE, tone(seconds=40))
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        packets.sort(key=lambda packet: packet.pos)
        times = [packet.dts * packet.time_base for packet in packets]
        assert {packet.stream.type for packet in packets} == {"video", "audio"}
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("samples", "rate", "said"),
    [
        (np.zeros((3, 9), np.float32), 24000, r"shape \[3, 9\], want \[1 or 2 channels, samples\]"),
        (np.zeros(9, np.float32), 24000, r"shape \[9\], want"),
        (np.zeros((1, 2, 9), np.float32), 24000, r"shape \[1, 2, 9\], want"),
        (np.zeros((2, 0), np.float32), 24000, r"shape \[2, 0\], want"),
        (np.zeros((0, 9), np.float32), 24000, r"shape \[0, 9\], want"),
        (np.zeros((2, 9)), 24000, "samples of float64, want float32"),
        (np.zeros((2, 9), np.int16), 24000, "samples of int16, want float32"),
        (
            np.array([[0, np.nan, np.inf]], np.float32),
            24000,
            "2 of 3 samples that are not finite, want none",
        ),
        (np.zeros((2, 9), np.float32), 0, "0 samples per second, want a whole number above 0"),
        (np.zeros((2, 9), np.float32), -24000, "-24000 samples per second"),
        (np.zeros((2, 9), np.float32), 24000.5, "24000.5 samples per second"),
        (np.zeros((2, 9), np.float32), float("nan"), "nan samples per second"),
    ],
)
def test_what_is_no_sound_leaves_no_file(
    tmp_path: Path, samples: NDArray[np.float32], rate: int, said: str
) -> None:
    with pytest.raises(MediaError, match=said):
        media.save_video(film(), tmp_path / "a.mp4", 16.0, MADE, Sound(samples, rate))
    assert names(tmp_path) == []


def test_a_video_shorter_than_a_sample_holds_one(tmp_path: Path) -> None:
    media.save_video(film(1), tmp_path / "a.mp4", 90000.0, MADE, tone())
    assert heard(tmp_path / "a.mp4").samples.shape == (1, 1)


@pytest.mark.parametrize("pitches", [(440,), (440, 880)])
def test_a_wav_holds_every_sample_within_a_step_of_16_bits(
    tmp_path: Path, pitches: tuple[float, ...]
) -> None:
    sound = Sound(2.5 * tone(pitches=pitches).samples, 24000)
    media.save_sound(sound, tmp_path / "a.WAV")
    with wave.open(str(tmp_path / "a.WAV"), "rb") as file:
        assert (file.getnchannels(), file.getframerate()) == (len(pitches), 24000)
        read = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    held = read.reshape(-1, len(pitches)).T / 32767
    assert np.abs(held - sound.samples.clip(-1, 1)).max() <= 0.5 / 32767 + 1e-7


@pytest.mark.parametrize(
    ("name", "said"), [("a.mp4", "cannot hold a sound, want .wav"), ("no/a.wav", "not a folder")]
)
def test_sound_goes_only_where_a_wav_can_be(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(MediaError, match=said):
        media.save_sound(tone(), tmp_path / name)
    assert names(tmp_path) == []
