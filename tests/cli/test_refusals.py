"""What the command line refuses: one sentence, exit code 2, nothing half written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loraloom.core.schedule import Curve
from loraloom.engine.wishes import Wish, parse_wish
from loraloom.errors import InvalidStrengthError
from loraloom.pipelines import media

from .console import SMALL, STAR, made, names, refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("PROMPT -o out/a.gif", "ends in '.gif', want one of .png, .webp, .jpg, .jpeg, .mp4"),
        ("PROMPT -o none/a.png", "none is not a folder"),
        ("PROMPT -o text.txt/a.png", "text.txt is not a folder"),
        ("PROMPT", "Missing option '-o' / '--output'."),
        ("-o out/a.png", "there is no prompt"),
        ("EMPTY -o out/a.png", "a prompt is empty"),
        ("PROMPT EMPTY -o out/a.png", "a prompt is empty"),
        ("PROMPT -o out/a.png --lora neom", "adapter 'neom' is not known; did you mean 'neon'?"),
        ("PROMPT -o out/a.png --lora neom:0", "adapter 'neom' is not known"),
        ("PROMPT -o out/a.png --lora neon:nan", "the strength of 'neon' is nan, want a finite"),
        ("PROMPT -o out/a.png --lora neon:inf", "the strength of 'neon' is inf, want a finite"),
        ("PROMPT -o out/a.png --lora neon:abc", "the strength of 'neon' is 'abc', want a finite"),
        ("PROMPT -o out/a.png --lora neon:", "the strength of 'neon' is '', want a finite"),
        ("PROMPT -o out/a.png --lora :1", "--lora ':1' has no name"),
        ("PROMPT -o out/a.png --lora neon --lora neon:2", "names adapter 'neon' 2 times"),
        ("PROMPT -o out/a.png --lora x=absent.safetensors", "there is no 'absent.safetensors'"),
        ("PROMPT -o out/a.png --lora x=", "there is no ''"),
        ("PROMPT -o out/a.png --lora x=pickle.bin", "is a zip archive, as torch.save writes"),
        ("PROMPT -o out/a.png --lora x=text.txt", "adapter file 'text.txt' announces a header of"),
        ("PROMPT -o out/a.png --alpha 4", "--alpha and --allow-partial are for files"),
        ("PROMPT -o out/a.png --size 64", "--size is '64', want WIDTHxHEIGHT"),
        ("PROMPT -o out/a.png --size 0x64", "--size is '0x64', want WIDTHxHEIGHT"),
        ("PROMPT -o out/a.png --size 64x-64", "--size is '64x-64', want WIDTHxHEIGHT"),
        ("PROMPT -o out/a.png --size 65x64", "width is 65, model 'mini' wants a multiple of 32"),
        ("PROMPT -o out/a.png --frames 9", "out/a.png is a picture, and 9 frames are not"),
        ("PROMPT -o out/a.mp4 --frames 1", "out/a.mp4 is a video, and 1 frames are not"),
        ("PROMPT -o out/a.mp4 --frames 0", "--frames is 0, want 1 or more"),
        ("PROMPT -o out/a.mp4 --frames 10", "frames is 10, model 'mini' wants a multiple of 4"),
        ("PROMPT -o out/a.png --image plain.png", "--image is for videos"),
        ("PROMPT -o out/a.mp4 --image image.png", "cannot be read as a picture: its format is"),
        ("PROMPT -o out/a.mp4 --image none.png", "cannot be read as a picture: No such file"),
        ("PROMPT -o out/a.mp4" + 3 * " --image plain.png", "--image is given 3 times"),
        ("PROMPT -o out/a.png --image plain.png --image plain.png", "--image is for videos"),
        ("PROMPT -o out/a.png --image plain.png@-1", "--image is for videos, and out/a.png is a"),
        ("PROMPT -o out/a.mp4 --image plain.png@40", "at frame 40, the 17 frames are 0 to 16"),
        ("PROMPT -o out/a.mp4 --image plain.png@8:2", "strength of an image is 2.0, want more"),
        ("PROMPT -o out/a.mp4 --image plain.png@8:0", "strength of an image is 0.0, want more"),
        ("PROMPT -o out/a.mp4 --image plain.png@8:.", "is '.', want a finite number"),
        ("PROMPT -o out/a.mp4 --image none.png@8", "none.png cannot be read as a picture"),
        (
            "PROMPT -o out/a.mp4 --image plain.png@5 --image plain.png@7",
            "images are asked for at frames 5 and 7, which are one frame of the latent video",
        ),
        (
            "PROMPT -o out/a.png --pipeline two-stag",
            "pipeline 'two-stag' is not known; did you mean 'two-stage'",
        ),
        (
            "PROMPT -o out/a.png --pipeline two-stage --size 96x64",
            "width of stage 'base' is 48, model 'mini' wants a multiple of 32",
        ),
        ("PROMPT -o out/a.png --lora neon:1,x", "the strength of 'neon' is 'x', want a finite"),
        ("PROMPT -o out/a.png --lora neon:1,", "the strength of 'neon' is '', want a finite"),
        ("PROMPT -o out/a.png --lora neon:1,nan", "the strength of 'neon' is nan, want a finite"),
        (
            "PROMPT -o out/a.png --lora neon:1,2",
            "adapter 'neon' has strengths for 2 stages, there is 1: base",
        ),
        (
            "PROMPT -o out/a.png --pipeline two-stage --lora neon:1,2,3",
            "adapter 'neon' has strengths for 3 stages, there are 2: base, refine",
        ),
        ("PROMPT -o out/a.png --model gpt", "model 'gpt' is no folder"),
        (
            "PROMPT -o out/a.png --model model",
            "lacks the component transformer (transformer/config.json), vae",
        ),
        ("PROMPT -o out/a.png --model out", "lacks model_index.json"),
        ("PROMPT -o out/a.png --policy molten", "Invalid value for '--policy'"),
        ("PROMPT -o out/a.png --steps many", "Invalid value for '--steps'"),
        ("PROMPT -o out/a.png --steps 0", "the number of steps of stage 'base' is 0"),
        ("PROMPT -o out/a.png --seed -1", "the seed is -1"),
        ("PROMPT -o out/a.png --guidance nan", "guidance is nan"),
        ("PROMPT -o out/a.png --colour red", "No such option: --colour"),
        ("--like plain.png -o out/a.png", "plain.png does not say how it was made"),
        ("--like image.png -o out/a.png", "image.png cannot be read"),
        ("--like none.png -o out/a.png", "none.png cannot be read: No such file"),
    ],
)
@pytest.mark.usefixtures("once")
def test_bad_input_is_refused_with_one_sentence_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    monkeypatch.chdir(folder)
    given = [{"PROMPT": STAR, "EMPTY": " "}.get(word, word) for word in words.split()]
    assert said in refused("generate", *given)
    assert names(folder / "out") == []


@pytest.mark.usefixtures("once")
def test_a_remade_file_wants_the_same_adapters_and_model(tmp_path: Path, files: Path) -> None:
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    made(STAR, "-o", first, "--lora", f"one={files / 'one.safetensors'}", *SMALL)
    provenance = media.read_provenance(first)
    digest = provenance.worn[0].digest
    like = ("generate", "--like", first, "-o", again)
    assert "give it with --lora one=PATH" in refused(*like)
    other = refused(*like, "--lora", f"one={files / 'two.safetensors'}")
    assert f"the file was made with {digest}" in other
    assert other.count(digest) == 1
    picture = media.load_image(first)
    media.save_image(picture, first, replace(provenance, worn=(), model_version="0" * 64))
    assert "the file was made with 000000000000; give --model" in refused(*like)
    made("--like", first, "-o", again, "--model", "mini")
    versions = replace(provenance.versions, torch="1.0")
    media.save_image(picture, first, replace(provenance, worn=(), versions=versions))
    assert "made with loraloom 0.1.0, torch 1.0" in made("--like", first, "-o", again).stderr
    assert "a picture, and 5 frames are not" in refused(*like, "--frames", "5")
    assert "a video, and 1 frames are not" in refused(*like[:-1], tmp_path / "b.mp4")


def test_what_follows_the_last_colon_is_a_strength_unless_it_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a:b"
    path.touch()
    assert parse_wish("a") == Wish("a")
    assert parse_wish("a:1,.5") == Wish("a", strengths=(1.0, 0.5))
    assert parse_wish(f"a={path}:1,-2@0-.5") == Wish(
        "a", path, None, (1.0, -2.0), Curve.window(0, 0.5)
    )
    assert parse_wish("a:-.5") == Wish("a", strengths=(-0.5,))
    assert parse_wish("a: 2 ") == Wish("a", strengths=(2.0,))
    assert parse_wish("a:2@0.2-0.7") == Wish("a", strengths=(2.0,), curve=Curve.window(0.2, 0.7))
    assert parse_wish("a@0-1~.5") == Wish("a", curve=Curve.window(0, 1, 0.5))
    assert parse_wish(f"a={path}@0-.5") == Wish("a", path, curve=Curve.window(0, 0.5))
    assert parse_wish(f"a={path}") == Wish("a", path)
    assert parse_wish(f"a={path}:2") == Wish("a", path, None, (2.0,))
    assert parse_wish(f"a={tmp_path}:1e-3") == Wish("a", tmp_path, strengths=(0.001,))
    with pytest.raises(InvalidStrengthError):
        parse_wish(f"a={path}:c")
