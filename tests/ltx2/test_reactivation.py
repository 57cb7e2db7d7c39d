"""Wearing again what was worn before is one assignment: nothing is fitted, copied or read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from loraloom import Canvas, Loom, Lora, Request
from loraloom.core.mix import NOTHING, Applied, Mix, Part
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.memory.staging import plan
from loraloom.models import find
from loraloom.models.ltx2.family import REFINE
from loraloom.models.sizes import sizes, uses

from . import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from loraloom.lora.live import Fitted, Joined, Live
    from loraloom.lora.model import LoraModel
    from loraloom.memory.mover import Rest

Mixes: TypeAlias = tuple[Mapping[str, float], ...]
"""What every sample of a batch wears: strengths by name."""

BASE = Stage("base", Sigmas(2), 0.5, guidance=Guidance(Guides(3.0), Guides(3.0)))
TWO = Request(
    "a circle", 1, (Lora("style", 0.8),), canvas=Canvas(64, 64, 9, 16.0), stages=(BASE, REFINE)
)
FULL: Mixes = ({"distilled": 1.0},)
PART: Mixes = ({"style": 0.8},)
MANY: Mixes = ({"distilled": 0.5, "style": 1.0, "style2": -0.5},)
ROWS: Mixes = ({"distilled": 0.5}, {}, {"style": 1.0, "style2": 0.25})
WORN = {"full coverage": FULL, "part of the blocks": PART, "several": MANY, "rows": ROWS}
BETWEEN: dict[str, tuple[Mixes, ...]] = {
    "off": ((),),
    "another strength": (({"distilled": 0.25},), ({"style": -2.0},)),
    "one of several": (PART, FULL),
    "several": (MANY, ROWS),
    "another adapter, then off": (({"style2": 1.0},), ()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder("2.3", tmp_path_factory.mktemp("reactivation"))


@pytest.fixture(scope="module")
def shared(folder: Path) -> Loom:
    return together(folder)


@pytest.fixture
def loom(shared: Loom) -> Loom:
    """Wears nothing, and has nothing ready."""
    for model in shared.models:
        model.become(Applied())
        model.wardrobe.clear()
    return shared


@pytest.fixture
def traveller(folder: Path) -> Loom:
    return in_turn(folder)


def together(folder: Path) -> Loom:
    """In bfloat16, so that an adapter is cast when it is fitted."""
    return with_styles(Loom.load(str(folder), dtype="bfloat16"), folder)


def in_turn(folder: Path) -> Loom:
    """The same model, whose components are on the device in their act alone."""
    card = find.card(str(folder))
    stages = (BASE, REFINE)
    made = plan("original", "in turn", sizes(card, (), (), "bfloat16"), uses(card, stages))
    return with_styles(Loom.load(str(folder), dtype="bfloat16", plan=made), folder)


def with_styles(loom: Loom, folder: Path) -> Loom:
    loom.adapters.add("style2", folder / "adapters" / "style2")
    return loom


def state(loom: Loom, rows: Mixes, fused: Mapping[str, float] | None = None) -> Applied:
    mixes = [mix(loom, each) for each in rows]
    return Applied.rows(mixes, fused=mix(loom, fused) if fused else NOTHING)


def mix(loom: Loom, strengths: Mapping[str, float]) -> Mix:
    return Mix.of(Part(loom.adapters.get(name).key, one) for name, one in strengths.items())


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every call that torch carries out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.done.append(str(func))
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, eq=False)
class Ready:
    """What a model wears and has ready; the objects are kept, so that none takes their place."""

    live: Live
    kept: Mapping[Any, Fitted | Joined | None]

    @classmethod
    def of(cls, model: LoraModel) -> Ready:
        kept = model.wardrobe.kept
        return cls(model.cell.live, {key: kept.find(key) for key in list(kept)})

    def assert_again(self, model: LoraModel) -> None:
        assert model.cell.live is self.live
        for key, value in self.kept.items():
            assert model.wardrobe.kept.find(key) is value


def reactivate(model: LoraModel, want: Applied, ready: Ready) -> None:
    """Wear ``want`` as it was worn before; torch has nothing to do."""
    with Work() as work:
        model.become(want)
    assert work.done == []
    ready.assert_again(model)


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("worn", WORN.values(), ids=WORN)
def test_what_was_worn_before_is_one_assignment(
    worn: Mixes, between: Sequence[Mixes], loom: Loom
) -> None:
    model, want = loom.models[0], state(loom, worn)
    with Work() as first:
        model.become(want)
    assert first.done  # the watch sees what it takes the first time
    ready = Ready.of(model)
    for other in between:
        model.become(state(loom, other))
    reactivate(model, want, ready)
    for other in between:
        reactivate(model, state(loom, other), replace(ready, live=worn_as(model, loom, other)))
    reactivate(model, want, ready)


def worn_as(model: LoraModel, loom: Loom, rows: Mixes) -> Live:
    live = model.wardrobe.ready(state(loom, rows).live, model.probe.where())
    assert live is not None
    return live


@pytest.mark.parametrize("worn", WORN.values(), ids=WORN)
def test_a_fused_mix_between_leaves_what_was_worn_live_ready(worn: Mixes, loom: Loom) -> None:
    model, want = loom.models[0], state(loom, worn)
    model.become(want)
    ready = Ready.of(model)
    for fused in (state(loom, (), {"style": 1.0}), state(loom, PART, {"distilled": 0.5})):
        model.become(fused)
    model.become(want)  # weights are restored, adapters are not fitted
    ready.assert_again(model)
    model.become(Applied())
    reactivate(model, want, ready)


def test_beside_a_fused_mix_what_was_worn_live_is_one_assignment(loom: Loom) -> None:
    model, want = loom.models[0], state(loom, PART, {"distilled": 1.0})
    model.become(want)
    ready = Ready.of(model)
    model.become(state(loom, (), {"distilled": 1.0}))
    reactivate(model, want, ready)


def test_a_strength_or_a_composition_that_is_new_copies_no_adapter(loom: Loom) -> None:
    model = loom.models[0]
    model.become(state(loom, MANY))
    fitted = Ready.of(model).kept
    for rows in (({"style": 0.125},), ({"style2": 3.0}, {"distilled": 0.75}), ROWS):
        with Work() as work:
            model.become(state(loom, rows))
        assert work.done == []
        assert fitted.items() <= Ready.of(model).kept.items()


@dataclass(eq=False)
class Calls:
    """Which components came to the device, in order."""

    came: list[str] = field(default_factory=list)

    def watch(self, name: str, rest: Rest, patch: pytest.MonkeyPatch) -> None:
        come = rest.come

        def counted() -> None:
            self.came.append(name)
            come()

        patch.setattr(rest, "come", counted)


@pytest.mark.parametrize("resting", [True, False], ids=["at rest", "on the device"])
def test_no_component_travels_because_another_adapter_is_worn(
    resting: bool, traveller: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    mover, model = traveller.mover, traveller.models[0]
    assert mover is not None
    calls = Calls()
    for name, rest in mover.rests.items():
        calls.watch(name, rest, monkeypatch)
    if not resting:
        mover.reach("transformer")
    here, came = mover.here, list(calls.came)
    ready = {}
    for rows in WORN.values():
        model.become(state(traveller, rows))
        ready[rows_key(rows)] = model.cell.live
    kept = Ready.of(model).kept
    for rows in (*WORN.values(), *reversed(WORN.values())):
        reactivate(model, state(traveller, rows), Ready(ready[rows_key(rows)], kept))
    assert (mover.here, calls.came) == (here, came)


def rows_key(rows: Mixes) -> tuple[tuple[tuple[str, float], ...], ...]:
    return tuple(tuple(each.items()) for each in rows)


def test_every_stage_and_request_brings_every_component_as_often_as_bare_ones_do(
    traveller: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert traveller.mover is not None
    calls = Calls()
    for name, rest in traveller.mover.rests.items():
        calls.watch(name, rest, monkeypatch)
    bare = replace(TWO, loras=(Lora("distilled", 0.0),))
    came = []
    for request in (bare, TWO, TWO, replace(TWO, loras=(Lora("style2", stages=(1.0, 0.5)),))):
        calls.came.clear()
        traveller.latents([request])
        came.append(list(calls.came))
    assert came[0] == came[1] == came[2] == came[3]


def test_the_same_request_again_touches_no_file_and_fits_nothing(
    folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(folder, tmp_path / "copy")
    loom = together(folder)
    first = loom.streams([TWO])[0]
    ready = [Ready.of(model) for model in loom.models]
    assert {key.name for key in loom.adapters.by_key} == {"style", "style2", "distilled"}
    shutil.rmtree(folder / "adapters")
    worn: list[Live] = []
    again = loom.streams([TWO], progress=lambda _tick: worn.append(loom.models[0].cell.live))[0]
    assert all(torch.equal(again[name], value) for name, value in first.items())
    for model, before in zip(loom.models, ready, strict=True):
        assert Ready.of(model).kept == before.kept
    assert len(worn) == 5
    where = loom.models[0].probe.where()
    lives = [loom.models[0].wardrobe.ready(live.segments, where) for live in worn]
    assert all(live is kept for live, kept in zip(worn, lives, strict=True))
    assert len({id(live) for live in worn}) == 2  # one for each stage


def changed(folder: Path, target: Path) -> Path:
    """Another adapter of the same shapes under another path."""
    shutil.copytree(folder, target)
    file = target / "adapter_model.safetensors"
    save_file({key: 0.5 * value for key, value in load_file(file).items()}, file)
    return target


@pytest.mark.parametrize("load", [together, in_turn])
def test_a_name_with_new_bytes_is_another_adapter(
    load: Callable[[Path], Loom], folder: Path, tmp_path: Path
) -> None:
    loom, fresh = load(folder), load(folder)
    model = loom.models[0]
    new = changed(folder / "adapters" / "style", tmp_path / "new")
    before = loom.latents([TWO])[0]
    old, live = loom.adapters.get("style"), worn_as(model, loom, PART)
    assert loom.adapters.add("style", new).key != old.key
    after = loom.latents([TWO])[0]
    assert worn_as(model, loom, PART) is not live
    fresh.adapters.add("style", new)
    assert torch.equal(after, fresh.latents([TWO])[0])
    assert not torch.equal(after, before)


def test_the_same_bytes_published_again_are_worn_at_once(
    loom: Loom, folder: Path, tmp_path: Path
) -> None:
    model, want = loom.models[0], state(loom, PART)
    model.become(want)
    ready = Ready.of(model)
    model.become(Applied())
    copy = shutil.copytree(folder / "adapters" / "style", tmp_path / "copy")
    key = loom.adapters.get("style").key
    assert loom.adapters.add("style", copy).key == key
    reactivate(model, state(loom, PART), ready)


def test_bytes_that_come_back_under_their_name_are_worn_as_they_were(
    folder: Path, tmp_path: Path
) -> None:
    loom = together(folder)
    new = changed(folder / "adapters" / "style", tmp_path / "new")
    before = loom.latents([TWO])[0]
    loom.adapters.add("style", new)
    loom.latents([TWO])
    loom.adapters.add("style", folder / "adapters" / "style")
    assert torch.equal(loom.latents([TWO])[0], before)
