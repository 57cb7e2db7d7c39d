"""Requests wear the version that they began with, and say which component is to wear it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file

from loraloom import Canvas, Lora, Means, Request, Sampling
from loraloom.engine.job import admit
from loraloom.engine.loom import Loom
from loraloom.errors import AdapterMismatchError, UnknownAdapterError

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom.engine.run import Tick

ASKED = Request("a small red star", canvas=Canvas(32, 32), sampling=Sampling(steps=2))


def adapter(loom: Loom, folder: Path, times: float) -> Path:
    """The factors of ``neon``, stronger or weaker."""
    folder.mkdir()
    source = loom.card.adapters["neon"]
    tensors = load_file(source / "adapter_model.safetensors")
    scaled = {k: v * times if ".lora_B." in k else v for k, v in tensors.items()}
    save_file(scaled, folder / "adapter_model.safetensors")
    said = (source / "adapter_config.json").read_text(encoding="utf-8")
    (folder / "adapter_config.json").write_text(said, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def fresh() -> Loom:
    """The embedded model with a catalogue of its own, and little room for adapters."""
    return Loom.load("mini", means=Means(device=1 << 24))


def test_an_admitted_job_wears_the_version_that_was_there(fresh: Loom, tmp_path: Path) -> None:
    old = fresh.adapters.add("mine", adapter(fresh, tmp_path / "old", 1.0)).key
    job = admit([replace(ASKED, loras=(Lora("mine"),))], fresh.card, fresh.adapters)[0]
    with fresh.adapters.claim(job.named):
        new = fresh.adapters.add("mine", adapter(fresh, tmp_path / "new", 0.5)).key
        result = fresh.run([job])[0]
        assert result.worn[0].digest == old.digest != new.digest
        pinned = replace(ASKED, loras=(Lora("mine", version=old.digest[:8]),))
        assert fresh.images([pinned])[0].worn[0].digest == old.digest
    assert fresh.images([replace(ASKED, loras=(Lora("mine"),))])[0].worn[0].digest == new.digest
    with pytest.raises(UnknownAdapterError):
        fresh.images([pinned])


def test_where_the_time_went_is_told(fresh: Loom) -> None:
    result = fresh.images([replace(ASKED, loras=(Lora("neon"),)), replace(ASKED, seed=2)])[0]
    clock = result.clock
    assert len(clock.steps) == 2
    assert clock.switches
    assert clock.encode > 0
    assert clock.decode > 0
    assert clock.load >= 0
    assert min(clock.steps) > 0


def test_what_waits_is_brought_to_the_device_between_steps(fresh: Loom) -> None:
    waiting = fresh.adapters.get("sketch").key
    seen: list[bool] = []

    def between(_: Tick) -> None:
        fresh.prefetch([waiting])
        seen.append(waiting in fresh.on_device())

    fresh.images([replace(ASKED, loras=(Lora("neon"),))], progress=between)
    assert seen == [True, True]


def test_the_bytes_for_adapters_are_shared_among_components(fresh: Loom) -> None:
    budgets = [model.wardrobe.kept.budget for model in fresh.models]
    assert 0 < sum(budgets) <= 1 << 24
    assert min(budgets) > 0


def test_an_adapter_that_has_nothing_for_its_target_is_refused(fresh: Loom) -> None:
    targets = fresh.card.family.wears
    assert len(targets) > 1
    idle = next(each for each in targets if not fresh.adapters.get("neon").sites(each))
    with pytest.raises(AdapterMismatchError, match=f"nothing for component {idle!r}"):
        fresh.images([replace(ASKED, loras=(Lora("neon", target=idle),))])
