"""Stages under every plan on a device: the same latents, in no more memory than the plan says."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from loraloom import Canvas, Loom, Lora, Request
from loraloom.core.mix import Applied, Mix, Part
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.formats.read import survey
from loraloom.memory.staging import FASTEST, Mode, Order, Plan, plan
from loraloom.models import find
from loraloom.models.sizes import sizes, uses
from tests.ltx2 import tiny

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.cuda

CUDA = "cuda"
LAYERS = 300
SLACK = 64 * 2**20
"""Of what is computed, and of the libraries' workspaces."""
CLOSE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Relative, of the latents of a whole run."""
STAGES = (
    Stage("base", Sigmas(2), 0.5, guidance=Guidance(Guides(3.0), Guides(3.0))),
    Stage("refine", Sigmas(given=(0.9, 0.7, 0.4)), wears=(Lora("distilled"),)),
)
TWO = Request("a large red circle", 1, canvas=Canvas(64, 64, 9, 16.0), stages=STAGES)
every = pytest.mark.parametrize(("mode", "order"), FASTEST)


def planned(folder: str, user: str, mode: Mode, order: Order, dtype: str) -> Plan:
    card = find.card(folder)
    brought, own = (
        [survey(card.adapters[name], find.name_table(card))] for name in (user, "distilled")
    )
    return plan(mode, order, sizes(card, brought, own, dtype), uses(card, STAGES))


def wearing(name: str) -> Request:
    return replace(TWO, loras=(Lora(name, stages=(0.8, 0.4)),))


def apart(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.cpu() - want.cpu()).norm() / want.cpu().norm())


def run_as_planned(mode: Mode, order: Order, dtype: str, device: str) -> None:
    """The embedded model gives what it gives where everything is on the device."""
    plain = Loom.load("mini", dtype=dtype, device=device)
    made = planned("mini", "neon", mode, order, dtype)
    loom = Loom.load("mini", dtype=dtype, device=device, plan=made)
    batch = [wearing("neon"), TWO]
    for request in ([TWO], [wearing("neon")], batch, [TWO]):
        for got, want in zip(loom.latents(request), plain.latents(request), strict=True):
            assert apart(got, want) <= CLOSE[dtype]
    if loom.mover is not None:
        loom.mover.close()
        assert places(loom) == {"cpu"}
        assert not loom.mover.here


def places(loom: Loom) -> set[str]:
    """Where any component has a tensor."""
    parts = loom.denoiser.components.values()
    return {each.device.type for part in parts for each in (*part.parameters(), *part.buffers())}


def states(loom: Loom) -> tuple[Applied, Applied]:
    """What the two stages wear."""
    neon, distilled = (loom.adapters.get(name).key for name in ("neon", "distilled"))
    refine = Mix.of([Part(neon, 0.4), Part(distilled, 1.0)])
    return Applied.rows([Mix.of([Part(neon, 0.8)])]), Applied.rows([refine])


def in_second_stage(device: str) -> Loom:
    """A model that wears what the second stage does, and has worn both."""
    loom = Loom.load("mini", dtype="bfloat16", device=device)
    loom.latents([wearing("neon")])
    for state in states(loom):
        loom.models[0].become(state)
    return loom


def large(root: Path) -> str:
    """A folder whose transformer, and what changes all of it, outweigh what is computed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.TRANSFORMER, "num_layers", LAYERS)
        return str(tiny.folder("2.3", root))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return large(tmp_path_factory.mktemp("large"))


@pytest.mark.parametrize("dtype", CLOSE)
@every
def test_every_plan_gives_what_a_model_on_the_device_gives(
    mode: Mode, order: Order, dtype: str
) -> None:
    run_as_planned(mode, order, dtype, CUDA)


@every
def test_no_more_is_on_the_device_than_the_plan_says(mode: Mode, order: Order, folder: str) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    made = planned(folder, "style", mode, order, "float32")
    loom = Loom.load(folder, dtype="float32", device=CUDA, plan=made)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        loom.latents([wearing("style")])
    torch.cuda.synchronize()
    held = torch.cuda.max_memory_allocated() - before
    assert abs(held - made.peak) <= 0.1 * made.peak + SLACK


def test_another_stage_copies_nothing_on_the_device() -> None:
    loom = in_second_stage(CUDA)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for state in states(loom) * 3:
        loom.models[0].become(state)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == torch.cuda.max_memory_allocated() == before
