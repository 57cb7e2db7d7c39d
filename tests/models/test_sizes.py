"""Bytes and acts that headers tell are those of the model that is loaded and run."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import pytest
from PIL import Image

from loraloom import Canvas, Condition, Loom, Lora, Request
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage, Stages
from loraloom.errors import ModelError
from loraloom.formats.read import survey
from loraloom.models import find
from loraloom.models.sizes import UPSAMPLER, sizes, uses, working
from tests.flux import tiny as flux
from tests.ltx2 import tiny as ltx
from tests.wan import tiny as wan

from . import originals

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from loraloom.models.card import Card

Acts: TypeAlias = tuple[tuple[str, ...], ...]

CFG = Guidance(Guides(3.0))
ONE = (Stage("base", Sigmas(2), guidance=CFG),)
TWO = (
    Stage("base", Sigmas(2), 0.5, guidance=CFG),
    Stage("refine", Sigmas(given=(0.9, 0.4)), wears=(Lora("distilled"),)),
)
EXPERTS = (
    Stage("high", Sigmas(3, until=0.875), 1.0, "scheduler", CFG, component="transformer"),
    Stage("low", None, 1.0, "scheduler", CFG, component="transformer_2"),
)
STEPS = (Stage("base", Sigmas(2)),)
TEXT, NET, VAE, SOUND = ("text_encoder",), ("transformer",), ("vae",), ("audio_vae", "vocoder")
SHOWN, LARGER = ("connectors", "vae"), (UPSAMPLER,)
LTX: Acts = (TEXT, SHOWN, NET, VAE, SOUND)
LTX_TWO: Acts = (TEXT, SHOWN, NET, LARGER, SHOWN, NET, VAE, SOUND)
WAN: Acts = (TEXT, NET, ("transformer_2",), VAE)
FLUX: Acts = (("text_encoder", "text_encoder_2"), NET, VAE)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By what they are; the released ones are folders with one file of all components."""
    root = tmp_path_factory.mktemp("sizes")
    newer = ltx.folder("2.3", root)
    made = {
        "mini": "mini",
        "mini released": originals.write(find.BUNDLED["mini"], root / "released"),
        "ltx-2.0": ltx.folder("2.0", root),
        "ltx-2.3": newer,
        "wan": wan.folder(root / "wan"),
        "wan of one": wan.folder(root / "one", experts=1),
        "flux": flux.folder(root / "flux", guided=True),
    }
    return {name: str(path) for name, path in made.items()}


def size_of(module: nn.Module) -> int:
    return sum(each.nbytes for each in (*module.parameters(), *module.buffers()))


ACTS: dict[str, tuple[str, Stages, Acts]] = {
    "one stage": ("mini", ONE, LTX),
    "two stages": ("mini", TWO, LTX_TWO),
    "one stage of 2.0": ("ltx-2.0", ONE, LTX),
    "two stages of 2.3": ("ltx-2.3", TWO, LTX_TWO),
    "two stages of a size": (
        "mini",
        (replace(TWO[0], size=1.0), TWO[1]),
        LTX_TWO[:3] + LTX_TWO[4:],
    ),
    "no upsampler": ("mini released", ONE, LTX),
    "two experts": ("wan", EXPERTS, WAN),
    "one expert": ("wan of one", ONE, (*WAN[:2], VAE)),
    "flux": ("flux", STEPS, FLUX),
}


@pytest.mark.parametrize("case", ACTS.values(), ids=ACTS)
def test_the_acts_of_a_run_are_those_of_its_stages(
    case: tuple[str, Stages, Acts], models: dict[str, str]
) -> None:
    name, stages, want = case
    assert uses(find.card(models[name]), stages) == want


RUNS: dict[str, tuple[str, Request]] = {
    "one stage": ("mini", Request("a star", canvas=Canvas(64, 64), stages=ONE)),
    "two stages with images": (
        "ltx-2.3",
        Request(
            "a star",
            canvas=Canvas(64, 64, 9, 16.0),
            stages=TWO,
            conditions=(Condition(Image.new("RGB", (64, 64), "red")),),
        ),
    ),
    "two experts": ("wan", Request("a boat", canvas=Canvas(32, 32, 5, 16.0), stages=EXPERTS)),
    "flux": ("flux", Request("a boat", canvas=Canvas(32, 32), stages=STEPS)),
}


@pytest.mark.parametrize("case", RUNS.values(), ids=RUNS)
def test_every_call_of_a_component_is_in_an_act_and_in_their_order(
    case: tuple[str, Request], models: dict[str, str]
) -> None:
    name, request = case
    loom = Loom.load(models[name])
    called: list[str] = []
    with ExitStack() as hooks:
        for part, module in loom.denoiser.components.items():
            # of a VAE and of a text encoder what is inside is called
            for inside in module.modules():
                hook = inside.register_forward_pre_hook(lambda *_, part=part: called.append(part))
                hooks.callback(hook.remove)
        results = loom.videos([request]) if request.canvas.frames > 1 else loom.images([request])  # type: ignore[union-attr]
    assert len(results) == 1
    acts = iter(uses(loom.card, request.stages or ()))
    act: tuple[str, ...] = ()
    for part in called:
        while part not in act:
            act = next(acts)  # raises where a call comes out of turn


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mini", "mini released", "ltx-2.0", "ltx-2.3", "flux"])
def test_headers_tell_the_bytes_of_every_component(
    name: str, dtype: str, models: dict[str, str]
) -> None:
    card = find.card(models[name])
    told = sizes(card, (), (), dtype).components
    parts = dict(Loom.load(models[name], dtype=dtype).denoiser.components)
    assert told.keys() == parts.keys()
    for part, module in parts.items():
        assert told[part] == pytest.approx(size_of(module), rel=0.01)


@pytest.mark.parametrize("name", ["wan", "wan of one"])
def test_headers_tell_the_bytes_of_wan_but_for_what_it_computes_itself(
    name: str, models: dict[str, str]
) -> None:
    told = sizes(find.card(models[name]), (), (), "float32").components
    parts = dict(Loom.load(models[name]).denoiser.components)
    assert told.keys() == parts.keys()
    for part, module in parts.items():
        tables = sum(each.nbytes for each in module.buffers())  # of positions, in no file
        assert told[part] == pytest.approx(size_of(module) - tables, rel=0.01)


def test_a_release_takes_what_its_folder_takes(models: dict[str, str]) -> None:
    folder, released = (sizes(find.card(models[n]), (), (), "bfloat16").components for n in PAIR)
    assert {**released, UPSAMPLER: folder[UPSAMPLER]} == folder
    assert UPSAMPLER not in released


PAIR = ("mini", "mini released")


def test_types_are_as_wide_as_they_are(models: dict[str, str]) -> None:
    card = find.card(models["ltx-2.3"])
    distilled = [survey(card.adapters["distilled"], find.name_table(card))]
    wide, *narrow = (sizes(card, distilled, (), t) for t in ("float32", "bfloat16", "float16"))
    for each in narrow:
        assert {part: 2 * size for part, size in each.components.items()} == wide.components
        assert 2 * each.adapters == wide.adapters


def read(card: Card, names: Sequence[str]) -> list[int]:
    """The bytes that adapters are worn in: users', stages', and those of weights they change."""
    found = [survey(card.adapters[name], find.name_table(card)) for name in names]
    told = sizes(card, found[1:], found[:1], "float32")
    return [told.adapters, told.own, told.changed]


def test_what_stages_bring_is_counted_by_the_weights_that_it_changes(
    models: dict[str, str],
) -> None:
    loom = Loom.load(models["ltx-2.3"])
    for name in ("distilled", "style"):
        key = loom.adapters.get(name).key
        model = loom.models[0]
        _, own, changed = read(loom.card, [name])
        assert own == model.fitter.size(key)
        assert changed == sum(
            model.weights.layers[s].weight.nbytes for s in model.fitter.updates(key)
        )
    users, own, changed = read(loom.card, ["distilled", "style"])
    alone = [read(loom.card, [name])[1] for name in ("style", "distilled")]
    assert [users, own] == [2 * size for size in alone]  # side by side as well
    assert changed == read(loom.card, ["distilled"])[2]


def test_two_adapters_of_one_layer_change_it_once(models: dict[str, str]) -> None:
    card = find.card(models["ltx-2.3"])
    both = [survey(card.adapters[n], find.name_table(card)) for n in ("distilled", "style")]
    assert sizes(card, (), both, "float32").changed == read(card, ["distilled"])[2]


def test_a_larger_video_takes_more_while_it_is_computed(models: dict[str, str]) -> None:
    for name in ("mini", "wan", "flux"):
        card = find.card(models[name])
        small, large = (working(card, Canvas(side, side), "float32") for side in (64, 128))
        assert 0 < 3 * small < large
        assert 2 * working(card, Canvas(64, 64), "bfloat16") == small


def test_a_component_that_cannot_be_read_is_refused(models: dict[str, str], tmp_path: Path) -> None:
    card = find.card(models["flux"])
    for part in card.root.iterdir():
        if part.name != "vae":
            (tmp_path / part.name).symlink_to(part)
    (tmp_path / "vae").mkdir()
    with pytest.raises(ModelError, match=r"no \*.safetensors in .*vae"):
        sizes(replace(card, root=tmp_path), (), (), "float32")
