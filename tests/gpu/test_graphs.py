"""CUDA graphs: captured once a bucket, they wear whatever is worn when they are replayed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
import torch

from loraloom.core.mix import Applied
from loraloom.lora.model import LoraModel
from loraloom.memory.residency import Home, Residency
from tests.lora.strategies import ADAPTERS, BY_NAME, Tiny, mix, tiny
from tests.lora.test_laws import bits, error, inputs, same_bits

pytestmark = pytest.mark.cuda

CUDA = torch.device("cuda")
RANKS, SAMPLES, ROWS = (8, 24), 2, 4


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """A graph that reads ``x`` and writes ``y``."""

    graph: torch.cuda.CUDAGraph
    x: torch.Tensor
    y: torch.Tensor

    @classmethod
    def of(cls, module: Tiny) -> Captured:
        x = inputs(ROWS).to(CUDA)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in torch
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries take their memory before anything is captured
            for _ in range(3):
                module(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = module(x)
        return cls(graph, x, y)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.x.copy_(x)
        self.graph.replay()
        return self.y.clone()


def captured(module: Tiny, model: LoraModel) -> dict[tuple[int, int], Captured]:
    """A graph for every bucket of ranks, for batches that wear one mix and those that wear two."""
    return {
        (bucket, samples): Captured.of(module)
        for samples in (1, SAMPLES)
        for bucket in model.warming(samples)
    }


def states(count: int) -> list[Applied]:
    """Random mixes, for the batch or for its samples, and now and then others in the weights."""
    draw, fused = Random(0), mix()
    found = [Applied()]
    for number in range(count):
        some = [
            mix(**{name: draw.uniform(-1.5, 1.5) for name in draw.sample(sorted(BY_NAME), size)})
            for size in (draw.randint(0, 3) for _ in range(1 + number % SAMPLES))
        ]
        fused = mix(all=draw.uniform(-1, 1)) if number % 5 == 0 else fused
        found.append(Applied.rows(some, fused=fused))
    return [*found, Applied()]


@pytest.mark.parametrize("home", [Home.LEDGER, Home.HOST])
def test_a_replayed_graph_gives_what_is_worn_now(home: Home) -> None:
    module, plain = tiny().to(CUDA), tiny().to(CUDA)
    start = bits(module)
    model = LoraModel("transformer", module, ADAPTERS, residency=Residency(home))
    other = LoraModel("transformer", plain, ADAPTERS)
    model.fix(RANKS, samples=SAMPLES)
    with torch.no_grad():
        graphs = captured(module, model)
        assert len(graphs) == 2 * (1 + len(RANKS))
        used = set()
        for number, state in enumerate(states(60)):
            model.become(state)
            other.become(state)
            assert model.cell.bucket is not None
            key = model.cell.bucket, model.cell.samples
            used.add(key)
            x = inputs(ROWS, seed=number).to(CUDA)
            got = graphs[key](x)
            assert error(got, module(x)) < 1e-5
            assert error(got, plain(x)) < 1e-5
    assert used >= {(0, 1), *((rank, samples) for rank in RANKS for samples in (1, SAMPLES))}
    model.become(Applied())
    assert same_bits(bits(module), start)


def test_changing_what_is_worn_allocates_no_weight_anew() -> None:
    """What a graph was captured with is what the module still holds."""
    module = tiny().to(CUDA)
    model = LoraModel("transformer", module, ADAPTERS)
    model.fix(RANKS, samples=SAMPLES)
    before = [each.data_ptr() for each in module.parameters()]
    for state in states(20):
        model.become(state)
        assert [each.data_ptr() for each in module.parameters()] == before
