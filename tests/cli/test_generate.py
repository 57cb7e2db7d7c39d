"""What `loraloom generate` makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import pytest
from PIL import Image

from loraloom.core.request import Sampling
from loraloom.core.stage import asked as asked_for
from loraloom.models import find
from loraloom.pipelines import media

from .console import SMALL, STAR, made, names, refused


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_a_picture_says_what_it_wears_and_is_made_again_from_itself(
    tmp_path: Path, files: Path, suffix: str
) -> None:
    first, again = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    one = f"one={files / 'one.safetensors'}"
    said = made(STAR, "-o", first, "--lora", f"{one}:0.5", "--seed", "3", *SMALL).stdout
    provenance = media.read_provenance(first)
    worn = provenance.worn[0]
    assert (worn.name, worn.strength, worn.sites) == ("one", 0.5, 7)
    assert f"wears one@{worn.digest[:12]} at 0.5 on 7 sites (live)" in said
    assert str(first) in said
    assert provenance.asked.seed == 3
    assert media.load_image(first).size == (64, 64)
    made("--like", first, "-o", again, "--lora", one)
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.usefixtures("once")
def test_an_adapter_changes_the_picture(tmp_path: Path, files: Path) -> None:
    pictures = []
    for index, lora in enumerate(((), ("--lora", f"one={files / 'one.safetensors'}"))):
        path = tmp_path / f"{index}.png"
        said = made(STAR, "-o", path, *lora, *SMALL).stdout
        assert ("wears nothing" in said) == (not lora)
        pictures.append(media.load_image(path).tobytes())
    assert pictures[0] != pictures[1]


@pytest.mark.usefixtures("once")
def test_several_prompts_are_one_batch_with_seeds_that_count_up(
    tmp_path: Path, files: Path
) -> None:
    loras = [f"{name}={files / name}.safetensors:{s}" for name, s in (("one", 0.5), ("two", -1))]
    prompts = (STAR, "a small blue heart on a white background")
    made(
        *prompts, "-o", tmp_path / "a.png", "--lora", loras[0], "--lora", loras[1], "--seed", "5",
        "--negative", "blue", "--guidance", "2", "--policy", "fused", *SMALL,
    )  # fmt: skip
    assert names(tmp_path) == ["a-1.png", "a-2.png"]
    for index, prompt in enumerate(prompts):
        provenance = media.read_provenance(tmp_path / f"a-{index + 1}.png")
        assert provenance.asked.prompt == prompt
        assert provenance.asked.seed == 5 + index
        assert provenance.asked.negative_prompt == "blue"
        assert provenance.asked.stages[0].guidance.video.cfg == 2.0
        assert provenance.policy == "fused"
        assert {(worn.name, worn.strength) for worn in provenance.worn} == {
            ("one", 0.5),
            ("two", -1.0),
        }


@pytest.mark.usefixtures("once")
def test_a_video_from_its_first_and_last_image_is_made_again_from_itself(tmp_path: Path) -> None:
    ends = [tmp_path / "first.png", tmp_path / "last.png"]
    for colour, path in zip(("red", "blue"), ends, strict=True):
        Image.new("RGB", (64, 64), colour).save(path)
    images = [word for path in ends for word in ("--image", path)]
    first, again = tmp_path / "a.mp4", tmp_path / "b.mp4"
    assert made(STAR, "-o", first, "--frames", "5", *images, *SMALL).stderr == ""
    asked = media.read_provenance(first).asked
    assert asked.canvas == replace(find.card("mini").defaults.video, width=64, height=64, frames=5)
    assert [shown.frame for shown in asked.images] == [0, -1]
    assert [shown.digest for shown in asked.images] == [
        media.digest_of_image(media.load_image(path)) for path in ends
    ]
    assert "give as many with --image" in refused("generate", "--like", first, "-o", again)
    made("--like", first, "-o", again, *images)
    assert first.read_bytes() == again.read_bytes()
    swapped = made("--like", first, "-o", again, *images[2:], *images[:2])
    assert "loraloom: note: an image of --image is not the one" in swapped.stderr
    assert first.read_bytes() != again.read_bytes()


@pytest.mark.usefixtures("once")
def test_options_override_the_remade_file(tmp_path: Path, files: Path) -> None:
    one, two = (f"{name}={files / name}.safetensors" for name in ("one", "two"))
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    made(STAR, "-o", first, "--lora", f"{one}:0.5", "--seed", "3", "--policy", "fused", *SMALL)
    made("--like", first, "-o", again, "--lora", f"{one}:0.25", "--lora", two, "--seed", "4")
    before, after = media.read_provenance(first), media.read_provenance(again)
    assert after.asked == replace(before.asked, seed=4)
    assert after.policy == "fused"
    assert {(worn.name, worn.strength) for worn in after.worn} == {("one", 0.25), ("two", 1.0)}
    made("another prompt", "--like", first, "-o", again, "--lora", "one:0", "--steps", "3")
    after = media.read_provenance(again)
    assert after.asked.prompt == "another prompt"
    assert after.asked.stages == asked_for(before.asked.stages, Sampling(steps=3))
    assert after.worn == ()


@pytest.mark.usefixtures("once")
def test_the_pieces_of_a_file_that_fits_in_part_are_worn_if_that_is_allowed(
    tmp_path: Path, files: Path
) -> None:
    odd = ("--lora", f"odd={files / 'odd.safetensors'}", "-o", tmp_path / "a.png", *SMALL)
    assert "transformer_blocks.77.attn1.to_q" in refused("generate", STAR, *odd)
    told = made(STAR, *odd, "--allow-partial", "--alpha", "2").stderr
    assert "keys used, 7 of 248 layers matched" in told
    assert "no layer of this name: 2 keys: 'transformer.transformer_blocks.77" in told
    assert media.read_provenance(tmp_path / "a.png").worn[0].sites == 7


@pytest.mark.usefixtures("once")
def test_alpha_is_part_of_what_an_adapter_is(tmp_path: Path, files: Path) -> None:
    lora = ("--lora", f"one={files / 'one.safetensors'}")
    digests = set()
    for index, alpha in enumerate(((), ("--alpha", "2"), ("--alpha", "8"))):
        path = tmp_path / f"{index}.png"
        made(STAR, "-o", path, *lora, *alpha, *SMALL)
        digests.add(media.read_provenance(path).worn[0].digest)
    assert len(digests) == 3


def streams(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return sorted(stream.type for stream in container.streams)


def stills(folder: Path, *colours: str) -> list[Path]:
    paths = [folder / f"{colour}.png" for colour in colours]
    for colour, path in zip(colours, paths, strict=True):
        Image.new("RGB", (64, 64), colour).save(path)
    return paths


@pytest.mark.usefixtures("once")
def test_a_pipeline_is_chosen_by_name_and_its_adapter_is_worn_in_its_stage(tmp_path: Path) -> None:
    said = made(STAR, "-o", tmp_path / "a.png", "--pipeline", "two-stage", *SMALL).stdout
    provenance = media.read_provenance(tmp_path / "a.png")
    wanted = find.card("mini").defaults.pipeline("two-stage")
    assert provenance.asked.stages == asked_for(wanted, Sampling(steps=2))
    assert media.load_image(tmp_path / "a.png").size == (64, 64)
    (worn,) = provenance.worn
    assert (worn.name, worn.strength, worn.stages) == ("distilled", 1.0, (0.0, 1.0))
    assert f"wears distilled@{worn.digest[:12]} at 0, 1 by stage on 60 sites (live)" in said
    assert "Stage refine: 3 steps, 64x64, euler" in provenance.describe()


@pytest.mark.usefixtures("once")
def test_a_video_in_two_stages_is_made_again_from_itself(tmp_path: Path, files: Path) -> None:
    red, blue = stills(tmp_path, "red", "blue")
    one = f"one={files / 'one.safetensors'}"
    images = ("--image", red, "--image", f"{blue}@4:0.5")
    first, again = tmp_path / "a.mp4", tmp_path / "b.mp4"
    made(
        STAR, "-o", first, "--pipeline", "two-stage", "--frames", "9", "--seed", "7", *images,
        "--lora", f"{one}:0.8,0.4", "--lora", "neon:0.5@0-0.5", "--lora", "distilled:0.25,0.5",
        *SMALL,
    )  # fmt: skip
    provenance = media.read_provenance(first)
    assert {each.name: each.stages for each in provenance.worn} == {
        "one": (0.8, 0.4),
        "neon": (),
        "distilled": (0.25, 0.5),
    }
    shown = [(image.frame, image.strength) for image in provenance.asked.images]
    assert shown == [(0, 1.0), (4, 0.5)]
    made("--like", first, "-o", again, "--lora", one, "--image", red, "--image", blue)
    assert first.read_bytes() == again.read_bytes()
    made("--like", first, "-o", again, "--lora", f"{one}:0.8,0.5", *images)
    assert first.read_bytes() != again.read_bytes()
    (worn,) = [each for each in media.read_provenance(again).worn if each.name == "one"]
    assert worn.stages == (0.8, 0.5)


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("policy", ["live", "fused", "auto"])
def test_what_a_stage_brings_is_worn_again_and_goes_with_another_pipeline(
    tmp_path: Path, policy: str
) -> None:
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    two = ("--pipeline", "two-stage", "--policy", policy)
    made(STAR, "-o", first, *two, "--lora", "neon:0.5", *SMALL)
    made("--like", first, "-o", again)
    assert first.read_bytes() == again.read_bytes()
    made("--like", first, "-o", again, "--pipeline", "one-stage", "--steps", "2")
    provenance = media.read_provenance(again)
    assert [(each.name, each.strength) for each in provenance.worn] == [("neon", 0.5)]
    assert [stage.name for stage in provenance.asked.stages] == ["base"]


@pytest.mark.usefixtures("once")
def test_a_video_has_sound_unless_none_is_wanted(tmp_path: Path) -> None:
    quiet, loud, usual = (tmp_path / f"{name}.mp4" for name in ("quiet", "loud", "usual"))
    for path, words in ((quiet, ["--no-audio"]), (loud, ["--audio"]), (usual, [])):
        made(STAR, "-o", path, "--frames", "9", *words, *SMALL)
        assert media.read_provenance(path).asked.audio == (path is not quiet)
    assert streams(quiet) == ["video"]
    assert streams(loud) == streams(usual) == ["audio", "video"]
    for first in (quiet, loud):
        made("--like", first, "-o", tmp_path / "again.mp4")
        assert first.read_bytes() == (tmp_path / "again.mp4").read_bytes()
    made("--like", loud, "-o", tmp_path / "again.mp4", "--no-audio")
    assert streams(tmp_path / "again.mp4") == ["video"]


@pytest.mark.usefixtures("once")
def test_an_image_stands_at_its_frame_with_its_strength(tmp_path: Path) -> None:
    (red,) = stills(tmp_path, "red")
    odd = tmp_path / "a@3"
    odd.write_bytes(red.read_bytes())
    said: dict[str, tuple[int, float]] = {
        f"{red}@8:0.5": (8, 0.5),
        f"{red}@-1": (-1, 1.0),
        str(red): (0, 1.0),
        str(odd): (0, 1.0),
    }
    for words, place in said.items():
        path = tmp_path / "a.mp4"
        made(STAR, "-o", path, "--frames", "9", "--image", words, "--no-audio", *SMALL)
        (image,) = media.read_provenance(path).asked.images
        assert (image.frame, image.strength) == place
        assert image.digest == media.digest_of_image(media.load_image(red))


@pytest.mark.usefixtures("once")
def test_what_a_stage_brings_is_taken_off_at_0_and_stays_off(tmp_path: Path) -> None:
    off, again, on = (tmp_path / f"{name}.png" for name in ("off", "again", "on"))
    two = ("--pipeline", "two-stage", *SMALL)
    said = made(STAR, "-o", off, "--lora", "distilled:0", *two).stdout
    assert "has distilled@" in said
    assert "taken off" in said
    assert "wears" not in said
    made("--like", off, "-o", again)
    assert off.read_bytes() == again.read_bytes()
    made(STAR, "-o", on, *two)
    assert off.read_bytes() != on.read_bytes()
