"""Rates are measured beside the model, kept, and never in the way."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from diffusers.hooks import apply_layerwise_casting

from loraloom.core.mix import Applied
from loraloom.lora import calibrate, stand
from loraloom.lora.calibrate import fitted, measure, rates_of, subject_of
from loraloom.lora.cost import CAUTIOUS, Rates
from loraloom.lora.model import LoraModel
from loraloom.lora.stand import Copies, Point

from .offloading import WAYS, Watch, grouped, groups_of, sequential
from .strategies import ADAPTERS, tiny

if TYPE_CHECKING:
    from collections.abc import Callable

RATES = Rates(2e-5, 4e-12, 1e-11, 7e-5, 1.5e-9, 1.2e-11, 1e-10)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept and when is tested here, not how well it is measured."""
    monkeypatch.setattr(calibrate, "BUDGET", 60.0)
    monkeypatch.setattr(calibrate, "ROUNDS", 1)


@pytest.fixture
def model() -> LoraModel:
    return LoraModel("transformer", tiny(), ADAPTERS)


@pytest.mark.parametrize("filed", [True, False])
def test_measuring_leaves_the_component_alone(filed: bool) -> None:
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    started = time.perf_counter()
    rates = measure(model, filed=filed)
    assert time.perf_counter() - started < 10  # one round of everything on any machine
    assert all(math.isfinite(number) and number > 0 for number in dataclasses.astuple(rates))
    assert model.applied == Applied()
    after = module.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def times(rates: Rates) -> dict[Point, float]:
    """What a machine of these rates would measure."""
    found = {}
    for out, width in ((64, 1536), (1536, 64), (64, 64), (1536, 1536)):
        weights = out * width
        for rank in (0, 16, 128):
            changed = rates.fuse_call / 2 + weights * (rates.fuse + rates.fuse_flop * rank)
            restored = rates.fuse_call / 2 + weights * rates.restore
            found[Point(out, width, 0, rank)] = changed if rank else restored
            for entries in (64, 768):
                each = rates.flop * rank + rates.touch
                worn = rates.call + entries * (out + width) * each if rank else 0.0
                found[Point(out, width, entries, rank)] = 1e-4 + worn
    return found


def test_rates_are_found_again_from_what_they_predict() -> None:
    got = dataclasses.asdict(fitted(times(RATES)))
    assert got == pytest.approx(dataclasses.asdict(RATES), rel=1e-3)


def test_no_rate_is_zero() -> None:
    idle = replace(RATES, touch=0.0, fuse_flop=0.0, restore=0.0)
    got = dataclasses.asdict(fitted(times(idle)))
    assert all(number > 0 for number in got.values())
    for point, spent in times(idle).items():
        again = times(fitted(times(idle)))[point]
        assert again == pytest.approx(spent, rel=0.05), "it explains something all the same"


def test_what_is_lost_in_noise_is_not_taken_for_nothing() -> None:
    faster = {p: 1e-4 if p.entries and p.rank else s for p, s in times(RATES).items()}
    faster[Point(64, 64, 64, 16)] = 0.9e-4
    assert fitted(faster) == CAUTIOUS


def test_points_that_are_too_few_are_not_stretched() -> None:
    whole = times(RATES)
    for lacking in (
        {p: s for p, s in whole.items() if not p.entries},
        {p: s for p, s in whole.items() if p.entries or (p.out, p.width) == (64, 64)},
        {p: s for p, s in whole.items() if p.entries != 768 and p.entries},
        {},
    ):
        assert fitted(lacking) == CAUTIOUS
    few = {p: s for p, s in whole.items() if p.out == p.width and (p.out == 64 or not p.entries)}
    assert dataclasses.asdict(fitted(few)) == pytest.approx(dataclasses.asdict(RATES), rel=1e-3)


class Slow(Copies):
    """Layers on a machine that does something else."""

    SLEEP = 0.2

    def forward(self, hidden_states: torch.Tensor) -> None:
        time.sleep(self.SLEEP)
        super().forward(hidden_states)


def test_a_slow_machine_ends_in_time_with_cautious_rates_that_are_not_kept(
    model: LoraModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(stand, "Copies", Slow)
    started = time.perf_counter()
    assert rates_of(model, tmp_path, filed=False) == CAUTIOUS
    # all of it once would take more than four seconds
    assert time.perf_counter() - started < calibrate.BUDGET + Slow.SLEEP + 1
    assert not list(tmp_path.iterdir())


def test_what_was_measured_before_time_ran_out_is_used(
    model: LoraModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "BUDGET", 0.0)
    times = calibrate.measured(model, filed=False)
    assert len(times.by_point) == 1
    assert not times.whole
    assert fitted(times.by_point) == CAUTIOUS


def offloaded(module: torch.nn.Module) -> None:
    sequential(module)
    assert {weight.device.type for weight in module.parameters()} == {"meta"}


def cast(module: torch.nn.Module) -> None:
    apply_layerwise_casting(module, torch.float8_e4m3fn, torch.bfloat16)


@pytest.mark.parametrize(
    ("enable", "dtype"),
    [(offloaded, "float32"), (cast, "bfloat16"), (WAYS["leaves"], "float32")],
    ids=["sequential", "casting", "groups"],
)
def test_offloaded_weights_are_neither_read_nor_moved(
    enable: Callable[[torch.nn.Module], None], dtype: str
) -> None:
    module = tiny()
    enable(module)
    model = LoraModel("transformer", module, ADAPTERS)
    with Watch(module) as watch:
        subject = subject_of(model, filed=True)
        times = calibrate.measured(model, filed=True)
    assert watch.moved == watch.written == []
    assert (subject.dtype, subject.rests) == (dtype, "cpu")
    assert times.whole
    assert all(0 < number < 1 for number in dataclasses.astuple(fitted(times.by_point)))


def test_fusing_is_timed_where_weights_rest_and_wearing_where_they_compute() -> None:
    module = tiny()
    grouped("leaf_level")(module)
    for group in groups_of(module).values():
        group.onload_device = torch.device("meta")  # the only other device everywhere
    model = LoraModel("transformer", module, ADAPTERS)
    assert subject_of(model, filed=True).rests == "cpu"
    assert model.probe.where()[0].type == "meta"


def test_rates_are_kept_for_the_machine_and_the_model(model: LoraModel, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    rates = rates_of(model, folder, filed=False)
    (path,) = folder.iterdir()
    assert rates_of(model, folder, filed=False) == rates
    content = json.loads(path.read_text())
    content["rates"]["call"] = 5.0
    path.write_text(json.dumps(content))
    assert rates_of(model, folder, filed=False).call == 5.0, "it was measured again"
    other = LoraModel("transformer", tiny(torch.bfloat16), ADAPTERS)
    assert rates_of(other, folder, filed=False).call != 5.0
    assert rates_of(model, folder, filed=True).call != 5.0
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("content", ["", "{", '{"rates": 1}', "[" * 10**5, '{"subject": {}}'])
def test_a_broken_cache_is_measured_anew_and_mended(
    model: LoraModel, tmp_path: Path, content: str
) -> None:
    rates_of(model, tmp_path, filed=False)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    rates = rates_of(model, tmp_path, filed=False)
    assert json.loads(path.read_text())["rates"] == dataclasses.asdict(rates)


def test_a_cache_of_another_subject_is_not_believed(model: LoraModel, tmp_path: Path) -> None:
    rates_of(model, tmp_path, filed=False)
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    content["subject"]["machine"]["threads"] += 1
    content["rates"]["call"] = 5.0
    path.write_text(json.dumps(content))
    assert rates_of(model, tmp_path, filed=False).call != 5.0


def test_a_folder_that_cannot_be_written_is_no_error(model: LoraModel, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert rates_of(model, file / "cache", filed=False)
    assert file.read_bytes() == b""


def test_threads_and_types_are_part_of_the_subject(model: LoraModel) -> None:
    assert subject_of(model, filed=True) != subject_of(model, filed=False)
    assert subject_of(model, filed=True).machine.threads == torch.get_num_threads()
