"""Weights are fused and restored however they lie in memory."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import Applied, Mix, Part
from loraloom.lora.model import LoraModel
from loraloom.lora.sites import adaptable

from .test_laws import RESIDENCIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Layers(nn.Module):
    """One layer of every kind of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 16)
        self.head = nn.Linear(16, 10, bias=False)
        self.conv = nn.Conv2d(4, 8, 3)
        self.linear = nn.Linear(16, 16)


def channels_last(module: Layers) -> None:
    weight = module.conv.weight.detach().to(memory_format=torch.channels_last)
    module.conv.weight = nn.Parameter(weight)


def transposed(module: Layers) -> None:
    module.linear.weight = nn.Parameter(module.linear.weight.detach().t().contiguous().t())


def tied(module: Layers) -> None:
    module.head.weight = module.embed.weight


def overlapping(module: Layers) -> None:
    flat = torch.randn(20, 16)
    module.linear.weight = nn.Parameter(flat[:16])
    module.head.weight = nn.Parameter(flat[10:])


def flat(module: Layers) -> None:
    """Side by side in one storage, where no word of eight bytes begins."""
    weights = [each for each in module.modules() if adaptable(each)]
    memory = torch.zeros(1 + sum(each.get_parameter("weight").numel() for each in weights))
    start = 1
    for each in weights:
        weight = each.get_parameter("weight").detach()
        part = memory[start : start + weight.numel()].view(weight.shape).copy_(weight)
        each.weight = nn.Parameter(part)
        start += weight.numel()


def frozen(module: Layers) -> None:
    with torch.inference_mode():
        for each in module.modules():
            if adaptable(each):
                weight = each.get_parameter("weight").clone()
                each.weight = nn.Parameter(weight, requires_grad=False)


MEMORY: dict[Callable[[Layers], None], tuple[str, ...]] = {
    channels_last: ("conv",),
    transposed: ("linear",),
    tied: ("head", "embed"),
    overlapping: ("head", "linear"),
    flat: (),
    frozen: (),
}
"""Ways that weights lie in memory, and the sites whose memory must not be written to."""


def of_layers(name: str, seed: int) -> Adapter:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    shapes = {"head": (10, 16), "conv": (8, 4, 3, 3), "linear": (16, 16), "embed": (10, 16)}
    updates = {
        site: LowRank(draw(2, *into), draw(out, 2, *[1] * (len(into) - 1)), 0.3)
        for site, (out, *into) in shapes.items()
        if site != "embed"
    }
    return Adapter.make(name, {"transformer": updates})


def weights_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, each.detach()) for name, each in module.named_parameters(remove_duplicate=False))


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("lay", MEMORY, ids=lambda lay: lay.__name__)
def test_weights_are_fused_and_restored_however_they_lie_in_memory(
    lay: Callable[[Layers], None], residency: str
) -> None:
    torch.manual_seed(0)
    module = Layers().requires_grad_(requires_grad=False)
    lay(module)
    plain = deepcopy(module)
    for each in plain.modules():
        if adaptable(each):
            each.weight = nn.Parameter(each.get_parameter("weight").contiguous().clone())
    own = dict(weights_of(module))
    start = {name: each.clone() for name, each in own.items()}
    one, other = of_layers("one", 1), of_layers("other", 2)
    catalogue = {each.key: each for each in (one, other)}
    model = LoraModel("transformer", module, catalogue, residency=RESIDENCIES[residency])
    exact = LoraModel("transformer", plain, catalogue)
    for key, strength in ((one.key, 1.0), (other.key, -0.5), (one.key, 1.0)):
        state = Applied(fused=Mix.of([Part(key, strength)]))
        model.become(state)
        exact.become(state)
        for (name, got), (_, want) in zip(weights_of(module), weights_of(plain), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
            site = name.removesuffix(".weight")
            if site in MEMORY[lay]:
                assert torch.equal(own[name], start[name])  # its memory was never written to
            fused, beside = site in one.sites("transformer"), residency == "resident"
            assert torch.equal(got, start[name]) != fused
            elsewhere = fused and (beside or site in MEMORY[lay])
            assert (got.data_ptr() != own[name].data_ptr()) == elsewhere
    model.become(Applied())
    for name, back in weights_of(module):
        assert torch.equal(back, start[name])
        assert back.stride() == own[name].stride()
        assert back.data_ptr() == own[name].data_ptr()
