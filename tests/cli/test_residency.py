"""What `--residency` and `--offload` change: where bytes are, and not what is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch

from loraloom import Loom, Lora, Request
from loraloom.cli import generate
from loraloom.cli.loading import Machine, Task, load
from loraloom.core.request import Sampling
from loraloom.core.stage import asked as with_sampling
from loraloom.memory.staging import FASTEST, Mode, Order
from loraloom.models import find
from loraloom.pipelines import media
from tests.ltx2 import tiny

from .console import STAR, adapter_file, made, refused

if TYPE_CHECKING:
    from pathlib import Path

WITHIN = 1e-4
TWO = ("--pipeline", "two-stage", "--size", "64x64", "--steps", "2")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Loom]:
    """The models that the command loads, as it loads them."""
    found: list[Loom] = []

    def noted(model: str, machine: Machine, task: Task) -> Loom:
        found.append(load(model, machine, task))
        return found[-1]

    monkeypatch.setattr(generate, "load", noted)
    return found


@dataclass(frozen=True, slots=True)
class Way:
    """How a command is to keep and move things; ``None`` says nothing of it."""

    residency: str | None = None
    offload: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        said = {"--residency": self.residency, "--offload": self.offload}
        return tuple(word for option, one in said.items() if one for word in (option, one))


def told(path: Path) -> dict[str, str]:
    return {worn.name: worn.manner.mode for worn in media.read_provenance(path).worn}


@pytest.mark.parametrize("suffix", [".png", ".mp4"])
@pytest.mark.parametrize(
    "way", [Way(offload="in turn"), Way("original", "ahead"), Way("original")], ids=str
)
def test_the_same_file_is_made_wherever_components_are(
    way: Way, suffix: str, tmp_path: Path, loaded: list[Loom]
) -> None:
    given = (STAR, *TWO, "--lora", "neon:0.5", "--seed", "3")
    length = ("--frames", "5") if suffix == ".mp4" else ()
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    assert made(*given, *length, "-o", first).stderr == ""
    said = made(*given, *length, "-o", second, *way.words).stderr
    plan = f"original, components {way.offload or 'together'}"
    assert said == (f"loraloom: note: residency {plan}\n" if way.offload else "")
    assert first.read_bytes() == second.read_bytes()
    assert told(second) == {"neon": "live", "distilled": "live"}
    assert (loaded[1].mover is not None) == bool(way.offload)


@pytest.mark.parametrize(
    ("way", "plan"),
    [
        (Way("snapshot"), ("snapshot", "together")),
        (Way("resident"), ("resident", "together")),
        (Way("auto"), ("resident", "together")),
        (Way("auto", "auto"), ("resident", "together")),
        (Way("snapshot", "in turn"), ("snapshot", "in turn")),
        (Way("auto", "in turn"), ("original", "in turn")),
        (Way("auto", "ahead"), ("original", "ahead")),
        (Way("original", "auto"), ("original", "together")),
    ],
    ids=str,
)
def test_what_is_kept_is_told_and_changes_no_more_than_rounding(
    way: Way, plan: tuple[Mode, Order], tmp_path: Path, loaded: list[Loom], loom: Loom
) -> None:
    path = tmp_path / "a.png"
    said = made(STAR, *TWO, "--lora", "neon:0.5", "--seed", "3", "-o", path, *way.words).stderr
    mode, order = plan
    assert said == f"loraloom: note: residency {mode}, components {order}\n"
    own = "live" if mode == "original" else "fused"
    assert told(path) == {"neon": "live", "distilled": own}
    (mine,) = loaded
    stages = with_sampling(loom.card.defaults.pipeline("two-stage"), Sampling(steps=2))
    canvas = media.read_provenance(path).asked.canvas
    request = Request(STAR, 3, (Lora("neon", 0.5),), canvas=canvas, stages=stages)
    got, want = (each.latents([request])[0] for each in (mine, loom))
    assert float((got - want).abs().max()) <= WITHIN
    assert torch.equal(got, mine.latents([request])[0])


@pytest.mark.parametrize(("mode", "order"), [("resident", "together"), ("snapshot", "in turn")])
def test_a_file_is_made_again_under_another_residency(
    mode: Mode, order: Order, tmp_path: Path
) -> None:
    first, again, back = (tmp_path / f"{name}.png" for name in ("first", "again", "back"))
    made(STAR, *TWO, "--lora", "neon:0.5", "-o", first)
    made("--like", first, "-o", again, *Way(mode, order).words)
    before, after = media.read_provenance(first), media.read_provenance(again)
    assert after.asked == before.asked
    assert [(w.name, w.digest, w.strength, w.stages) for w in after.worn] == [
        (w.name, w.digest, w.strength, w.stages) for w in before.worn
    ]
    assert told(again) == {"neon": "live", "distilled": "fused"}
    made("--like", again, "-o", back)
    assert back.read_bytes() == first.read_bytes()


def test_every_adapter_of_the_request_is_in_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of files, those that come with the model, and those that a remade file wore."""
    brought: list[set[str]] = []

    def noted(model: str, machine: Machine, task: Task) -> Loom:
        brought.append(set(task.brought))
        return load(model, machine, task)

    monkeypatch.setattr(generate, "load", noted)
    one = adapter_file(tmp_path / "one.safetensors", 1)
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    words = ("--size", "64x64", "--steps", "2", "--lora", f"one={one}", "--residency", "auto")
    made(STAR, "-o", first, *words, "--lora", "neon:0.5")
    made("--like", first, "-o", again, "--lora", f"one={one}", "--residency", "auto")
    assert brought == [{"one", "neon"}] * 2
    assert first.read_bytes() == again.read_bytes()


def test_a_file_that_fits_in_part_is_worn_in_every_residency(tmp_path: Path) -> None:
    odd = adapter_file(tmp_path / "odd.safetensors", 3, "transformer_blocks.77.attn1.to_q")
    words = (STAR, *TWO, "--lora", f"odd={odd}", "-o", tmp_path / "a.png", "--residency", "auto")
    assert "transformer_blocks.77.attn1.to_q" in refused("generate", *words)
    said = made(*words, "--allow-partial", "--alpha", "2").stderr
    assert "7 of 248 layers matched" in said
    assert told(tmp_path / "a.png") == {"odd": "live", "distilled": "fused"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--residency resident --offload together --dtype float8", "dtype is 'float8', want one"),
        ("--residency snapshot --offload ahead", "no plan for residency 'snapshot'"),
        ("--residency molten", "Invalid value for '--residency'"),
        ("--offload never", "Invalid value for '--offload'"),
    ],
)
def test_what_does_not_go_together_is_refused(words: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert says in refused("generate", STAR, "-o", path, *TWO, *words.split())
    in_turn = ("--residency", "resident", "--offload", "in turn")
    said = refused("generate", STAR, "-o", path, *TWO, *in_turn)
    assert "no plan for residency 'resident'" in said
    assert not list(tmp_path.iterdir())


def test_a_larger_model_of_the_family_is_run_so_as_well(tmp_path: Path, loaded: list[Loom]) -> None:
    folder = tiny.folder("2.3", tmp_path)
    words = ("--model", folder, "--pipeline", "distilled", "--size", "64x64", "--lora", "style:0.5")
    latents = []
    for mode, order in FASTEST:
        path = tmp_path / f"{mode} {order}.png"
        made(STAR, "-o", path, *words, "--residency", mode, "--offload", order)
        own = "live" if mode == "original" else "fused"
        assert told(path) == {"style": "live", "distilled": own}
        stages = find.card(str(folder)).defaults.pipeline("distilled")
        canvas = media.read_provenance(path).asked.canvas
        request = Request(STAR, 0, (Lora("style", 0.5),), canvas=canvas, stages=stages)
        latents.append(loaded[-1].latents([request])[0])
    for each in latents[1:]:
        assert float((each - latents[0]).abs().max()) <= WITHIN
