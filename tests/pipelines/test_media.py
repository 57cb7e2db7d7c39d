"""Files that say how they were made, whole or not at all."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from loraloom.core.provenance import Asked, Provenance, Shown, Versions, Worn
from loraloom.core.request import Canvas, Condition, Lora, Request
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.errors import MediaError
from loraloom.pipelines import media, video
from loraloom.pipelines.sheet import Strip, Tile, contact_sheet

MADE = Provenance(
    model="mini",
    model_version="0f" * 32,
    asked=Asked(
        prompt='a "large" red star, ☃ é\nsecond line',
        negative_prompt="blur",
        seed=2**53 + 1,
        canvas=Canvas(64, 48, frames=9, rate=16.0),
        stages=(
            Stage(
                "base", Sigmas(4), 0.5, guidance=Guidance(Guides(cfg=3.5)), wears=(Lora("d", 0.5),)
            ),
            Stage("refine", Sigmas(given=(0.9, 0.4)), solver="res2s"),
        ),
        audio=True,
        images=(Shown("cd" * 32, frame=-1, strength=0.75),),
    ),
    worn=(Worn("neon", "ab" * 32, 0.1, 60), Worn("sketch", "cd" * 32, -1.5, 12, stages=(0.5, 1.0))),
    policy="fused",
    versions=Versions("0.1.0", "2.13.0+cpu", "0.42.1"),
)


def picture(index: int = 0, size: tuple[int, int] = (64, 48)) -> Image.Image:
    image = Image.new("RGB", size, (230, 25, 30))
    image.paste((25, 60, 230), (4 + index, 8, 28 + index, 40))
    return image


def film(count: int = 9) -> list[Image.Image]:
    return [picture(index) for index in range(count)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_provenance_survives_its_json() -> None:
    assert Provenance.from_json(MADE.to_json()) == MADE


def test_the_json_of_a_provenance_is_one_line_of_ascii() -> None:
    text = MADE.to_json()
    assert text.isascii()
    assert "\n" not in text


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ("", "policy"),
        ("asked", "stages"),
        ("asked/canvas", "width"),
        ("asked/stages/0", "sigmas"),
        ("worn/0", "digest"),
        ("versions", "torch"),
    ],
)
def test_a_missing_field_and_an_unknown_one_are_errors(where: str, field: str) -> None:
    for change, said in (
        ("drop", f"has no field {field!r}"),
        ("add", "unknown field 'surplus'"),
    ):
        data = json.loads(MADE.to_json())
        inner = data
        for step in filter(None, where.split("/")):
            inner = inner[int(step) if step.isdigit() else step]
        if change == "drop":
            inner.pop(field)
        else:
            inner["surplus"] = 1
        with pytest.raises(MediaError, match=said):
            Provenance.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("seed", "7", "provenance.asked.seed is '7', want int"),
        ("seed", True, "provenance.asked.seed is True, want int"),
        ("seed", 1.5, "provenance.asked.seed is 1.5, want int"),
        ("prompt", None, "provenance.asked.prompt is None, want str"),
        ("canvas", [64, 48], "provenance.asked.canvas is list, want an object"),
        ("images", {}, "provenance.asked.images is dict, want a list"),
    ],
)
def test_a_field_of_another_type_is_an_error(field: str, value: object, said: str) -> None:
    data = json.loads(MADE.to_json())
    data["asked"][field] = value
    with pytest.raises(MediaError) as caught:
        Provenance.from_json(json.dumps(data))
    assert str(caught.value) == said


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "[" * 100_000, '{"a": NaN}'])
def test_what_is_no_provenance_is_an_error(text: str) -> None:
    with pytest.raises(MediaError):
        Provenance.from_json(text)


def test_an_unknown_policy_is_an_error() -> None:
    text = MADE.to_json().replace('"policy": "fused"', '"policy": "molten"')
    with pytest.raises(MediaError, match="policy is 'molten', want one of live, fused"):
        Provenance.from_json(text)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".PNG"])
def test_a_picture_keeps_its_pixels_and_how_it_was_made(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    media.save_image(picture(), path, MADE)
    assert media.read_provenance(path) == MADE
    assert media.load_image(path).tobytes() == picture().tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
@pytest.mark.parametrize("quality", [0, 60, 100])
def test_a_lossy_picture_is_near_and_says_how_it_was_made(
    tmp_path: Path, suffix: str, quality: int
) -> None:
    path = tmp_path / f"a{suffix}"
    media.save_image(picture(), path, MADE, quality)
    assert media.read_provenance(path) == MADE
    shown = np.asarray(media.load_image(path)).astype(int)
    apart = np.abs(shown - np.asarray(picture()).astype(int))
    assert apart.max() > 0
    assert apart.mean() <= {0: 40, 60: 6, 100: 4}[quality]


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_more_quality_takes_more_bytes_and_is_nearer(tmp_path: Path, suffix: str) -> None:
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    sizes, losses = [], []
    for quality in (10, 50, 90):
        path = tmp_path / f"{quality}{suffix}"
        media.save_image(image, path, MADE, quality)
        sizes.append(path.stat().st_size)
        shown = np.asarray(media.load_image(path)).astype(int)
        losses.append(np.abs(shown - np.asarray(image).astype(int)).mean())
    assert sizes == sorted(set(sizes))
    assert losses == sorted(set(losses), reverse=True)


def test_a_jpeg_without_quality_is_almost_the_picture(tmp_path: Path) -> None:
    media.save_image(picture(), tmp_path / "a.jpg", MADE)
    shown = np.asarray(media.load_image(tmp_path / "a.jpg")).astype(int)
    assert np.abs(shown - np.asarray(picture()).astype(int)).mean() <= 1


@pytest.mark.parametrize("length", [60_000, 66_000, 200_000])
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_how_a_picture_was_made_may_be_of_any_length(
    tmp_path: Path, length: int, suffix: str
) -> None:
    """One comment or EXIF block of a JPEG holds 64 KiB."""
    made = replace(MADE, asked=replace(MADE.asked, prompt="☃" * (length // 6) + "end"))
    media.save_image(picture(), tmp_path / f"a{suffix}", made)
    assert media.read_provenance(tmp_path / f"a{suffix}") == made


def test_a_png_says_to_people_how_it_was_made(tmp_path: Path) -> None:
    media.save_image(picture(), tmp_path / "a.png", MADE)
    with Image.open(tmp_path / "a.png") as image:
        text = image.info["parameters"]
    assert "second line" in text
    assert "Seed: 9007199254740993, Size: 64x48, 9 frames" in text
    assert "Stage base: 4 steps, guidance 3.5, 32x24, euler" in text
    assert "Stage refine: 2 steps, 64x48, res2s" in text
    assert "Adapters (fused): neon@abababababab at 0.1 on 60 sites; sketch@cdcdcdcdcdcd" in text
    assert "at -0.75, -1.5 by stage on 12 sites" in text


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg", ".mp4"])
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        if suffix == ".mp4":
            media.save_video(film(), path, 16.0, MADE)
        else:
            media.save_image(picture(), path, MADE)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("rate", "exact"),
    [(16.0, Fraction(16)), (24.0, Fraction(24)), (30000 / 1001, Fraction(30000, 1001))],
)
@pytest.mark.parametrize("count", [2, 9])
def test_a_video_has_its_frames_at_their_exact_times(
    tmp_path: Path, rate: float, exact: Fraction, count: int
) -> None:
    path = tmp_path / "a.mp4"
    media.save_video(film(count), path, rate, MADE)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == exact
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == count / exact
        times = [frame.pts * frame.time_base for frame in container.decode(stream)]
    assert times == [index / exact for index in range(count)]
    assert media.read_provenance(path) == MADE


def test_a_video_shows_what_its_frames_show(tmp_path: Path) -> None:
    """Flat areas within 3 of 255: the matrix and the range that are written are those declared."""
    path = tmp_path / "a.mp4"
    media.save_video(film(), path, 16.0, None)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.colorspace == 1  # BT.709
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    for index, frame in enumerate(shown):
        apart = np.abs(frame.astype(int) - np.asarray(picture(index)).astype(int))
        assert apart[14:34, 8 + index : 24 + index].max() <= 3
        assert apart[:, 48:].max() <= 3


def test_a_video_plays_before_it_is_loaded(tmp_path: Path) -> None:
    media.save_video(film(), tmp_path / "a.mp4", 16.0, MADE)
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(
    ("frames", "rate", "said"),
    [
        ([], 16.0, "no frames"),
        ([picture(), picture(size=(32, 48))], 16.0, "frames of 2 sizes"),
        ([picture(size=(63, 48))], 16.0, "63x48, an MP4 wants even sizes"),
        ([picture()], float("nan"), "is nan frames per second"),
        ([picture()], 0.0, "is 0.0 frames per second"),
    ],
)
def test_frames_that_are_no_video_leave_no_file(
    tmp_path: Path, frames: list[Image.Image], rate: float, said: str
) -> None:
    with pytest.raises(MediaError, match=said):
        media.save_video(frames, tmp_path / "a.mp4", rate, MADE)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kept", [False, True])
def test_a_failure_while_writing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    path = tmp_path / "a.mp4"
    if kept:
        path.write_bytes(b"before")
    encode = video._encodable
    seen = itertools.count()

    def full(*args: object) -> av.VideoFrame:
        if next(seen) == 5:
            raise OSError(28, "No space left on device")
        return encode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(video, "_encodable", full)
    with pytest.raises(MediaError, match=r"a\.mp4 cannot be written: No space left on device"):
        media.save_video(film(), path, 16.0, MADE)
    assert names(tmp_path) == (["a.mp4"] if kept else [])
    assert not kept or path.read_bytes() == b"before"


def test_a_defect_of_ours_leaves_no_file_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Provenance, "to_json", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        media.save_image(picture(), tmp_path / "a.png", MADE)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("a.gif", "picture", "ends in '.gif', want one of .png, .webp, .jpg, .jpeg, .mp4"),
        ("a", "picture", "ends in '', want"),
        ("a.png", "video", "cannot hold a video, want .mp4"),
        ("a.mp4", "picture", "cannot hold a picture, want .png or .webp or .jpg"),
        ("none/a.png", "picture", "none is not a folder"),
        ("file/a.png", "picture", "file is not a folder"),
        ("folder.png", "picture", "it is a folder"),
        ("x" * 300 + ".png", "picture", "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_known_beforehand(
    tmp_path: Path, name: str, kind: media.Kind, said: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(MediaError) as caught:
        media.check_target(tmp_path / name, kind)
    assert said in str(caught.value)
    assert names(tmp_path) == ["file", "folder.png"]


def test_a_folder_without_permission_is_known_beforehand(tmp_path: Path) -> None:
    """Root may write to any folder, but not even root to those that the kernel makes up."""
    tmp_path.chmod(0o500)
    folder = Path("/proc") if os.geteuid() == 0 else tmp_path
    with pytest.raises(MediaError, match=r"a\.png cannot be written"):
        media.check_target(folder / "a.png", "picture")
    tmp_path.chmod(0o700)


def test_looking_whether_a_file_can_be_written_does_not_touch_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    media.check_target(path, "picture")
    assert names(tmp_path) == []
    path.write_bytes(b"before")
    media.check_target(path, "picture")
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["a.png"]


def test_files_that_do_not_say_how_they_were_made_are_errors(tmp_path: Path) -> None:
    media.save_sheet(picture(), tmp_path / "a.png")
    picture().save(tmp_path / "a.webp")
    media.save_video(film(), tmp_path / "a.mp4", 16.0, None)
    for suffix in ("png", "webp", "mp4"):
        with pytest.raises(MediaError, match="does not say how it was made"):
            media.read_provenance(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["png", "webp", "mp4"])
@pytest.mark.parametrize("content", [b"", b"nothing at all" * 9])
def test_files_that_are_nothing_are_errors(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(MediaError, match="cannot be read"):
        media.read_provenance(path)
    with pytest.raises(MediaError, match="cannot be read as a picture"):
        media.load_image(path)


def test_a_cut_picture_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    media.save_image(picture(), path, MADE)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MediaError, match="cannot be read"):
        media.read_provenance(path)


def test_an_absent_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot be read: No such file"):
        media.read_provenance(tmp_path / "a.png")


@pytest.mark.parametrize(("limit", "count"), [(4, 4), (9, 9), (99, 9)])
def test_a_video_is_read_as_the_frames_that_it_was_made_of(
    tmp_path: Path, limit: int, count: int
) -> None:
    path = tmp_path / "a.mp4"
    media.save_video(film(), path, 30000 / 1001, None)
    frames, rate = media.load_frames(path, limit)
    assert rate == 30000 / 1001
    assert len(frames) == count
    for index, frame in enumerate(frames):
        apart = np.asarray(frame).astype(int) - np.asarray(picture(index)).astype(int)
        assert np.abs(apart)[14:34, 8 + index : 24 + index].max() <= 6


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
@pytest.mark.parametrize("limit", [2, 99])
def test_an_animated_image_is_read_as_its_frames(tmp_path: Path, suffix: str, limit: int) -> None:
    path = tmp_path / f"a.{suffix}"
    first, *others = film(5)
    first.save(path, save_all=True, append_images=others, duration=40, lossless=True)
    frames, rate = media.load_frames(path, limit)
    assert rate == pytest.approx(25)
    assert [frame.tobytes() for frame in frames] == [frame.tobytes() for frame in film(5)[:limit]]


@pytest.mark.parametrize("turned", [90, 180, -90])
def test_frames_are_turned_as_the_camera_says(tmp_path: Path, turned: int) -> None:
    path, copy = tmp_path / "a.mp4", tmp_path / "b.mp4"
    media.save_video(film(), path, 16.0, None)
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(turned)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    upright, frames = (media.load_frames(each, 1)[0] for each in (path, copy))
    assert frames[0].tobytes() == upright[0].rotate(turned, expand=True).tobytes()
    assert frames[0].size == upright[0].rotate(turned, expand=True).size


def test_what_does_not_move_is_no_film(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    picture().save(tmp_path / "a.jpg")
    picture().save(tmp_path / "a.gif", save_all=True, append_images=[picture(1)], duration=0)
    media.save_sound(media.Sound(np.zeros((1, 999), np.float32), 8000), tmp_path / "a.wav")
    for path in tmp_path.iterdir():
        with pytest.raises(MediaError, match="holds no moving picture, want a video"):
            media.load_frames(path, 9)


def test_a_film_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    media.save_video(film(), tmp_path / "a.mp4", 16.0, MADE)
    whole = (tmp_path / "a.mp4").read_bytes()
    for content in (b"", b"nothing at all" * 9, whole[:400], whole[: whole.index(b"mdat") + 8]):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(MediaError, match=r"a\.mp4 (cannot be read|holds no moving picture)"):
            media.load_frames(tmp_path / "a.mp4", 9)
    for path, said in ((tmp_path / "b.mp4", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(MediaError, match=f"cannot be read as a video: {said}"):
            media.load_frames(path, 9)


def test_the_digest_of_an_image_is_of_its_pixels_and_not_of_its_file(tmp_path: Path) -> None:
    for suffix in ("png", "webp"):
        media.save_image(picture(), tmp_path / f"a.{suffix}", MADE)
    digests = {media.digest_of_image(media.load_image(path)) for path in tmp_path.iterdir()}
    assert digests == {media.digest_of_image(picture())}
    assert media.digest_of_image(picture(1)) not in digests
    flat = Image.new("RGB", (2, 3)), Image.new("RGB", (3, 2))
    assert len({media.digest_of_image(image) for image in flat}) == 2


def test_what_was_asked_holds_images_by_digest() -> None:
    asked = MADE.asked
    request = Request(
        asked.prompt,
        asked.seed,
        negative_prompt=asked.negative_prompt,
        canvas=asked.canvas,
        stages=asked.stages,
        audio=True,
        conditions=(Condition(picture(), -1, 0.75),),
    )
    shown = Shown(media.digest_of_image(picture()), -1, 0.75)
    assert media.asked_of(request) == replace(asked, images=(shown,))


def test_a_sheet_shows_every_pixel_enlarged_and_has_an_even_size() -> None:
    rows = [
        Strip("neon", (Tile(picture(0), "0.5"), Tile(picture(1), "a long caption " * 9)), "a note"),
        Strip("a label that is wider than there is room for", (Tile(picture(2)),)),
    ]
    for columns in ((), ("first", "second")):
        sheet = contact_sheet(rows, title="a title " * 40, columns=columns, scale=3)
        assert sheet.width % 2 == sheet.height % 2 == 0
        pixels = np.asarray(sheet)
        for index in range(3):
            wanted = np.asarray(picture(index)).repeat(3, 0).repeat(3, 1)
            assert _holds(pixels, wanted), index


def test_a_sheet_depends_on_its_captions() -> None:
    sheets = [
        contact_sheet([Strip("label", (Tile(picture(), text),))], title="title").tobytes()
        for text in ("one", "two", "one")
    ]
    assert sheets[0] == sheets[2] != sheets[1]


def _holds(pixels: np.ndarray, wanted: np.ndarray) -> bool:
    height, width, _ = wanted.shape
    starts = np.argwhere((pixels == wanted[0, 0]).all(-1))
    return any(
        pixels[y : y + height, x : x + width].shape == wanted.shape
        and (pixels[y : y + height, x : x + width] == wanted).all()
        for y, x in starts
    )
