"""What fusing rounds away, predicted from norms and measured on fused weights."""

from __future__ import annotations

import math

import pytest
import torch

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.algebra import delta, fold, reference
from loraloom.core.mix import AdapterKey, Applied, Mix, Part, Scope
from loraloom.lora.accuracy import Gauge, inner, noise
from loraloom.lora.cost import lost
from loraloom.lora.model import LoraModel

from .strategies import ADAPTERS, BY_NAME, Tiny, mix, tiny

CPU = torch.device("cpu")


def update(out: int, width: int, rank: int, seed: int) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, width, generator=draw), torch.randn(out, rank, generator=draw)
    return LowRank(down, up, 0.7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ratio", [0.007, 0.01, 0.03, 0.1])
def test_the_noise_of_fusing_is_as_predicted(dtype: torch.dtype, ratio: float) -> None:
    """Within a tenth, for weights as models have them and down to where the bound is."""
    draw = torch.Generator().manual_seed(3)
    weight = (torch.randn(384, 384, generator=draw) * 0.0147).to(dtype)
    change = update(384, 384, 16, seed=4)
    size = delta(fold([change], [[1.0]], CPU)).norm()
    strength = float(ratio * weight.float().norm() / size)
    exact = reference(weight, [change], [strength])
    error = exact.to(dtype).double() - exact
    share = float(error.norm() / (exact - weight.double()).norm())
    assert share == pytest.approx(noise(dtype) / ratio, rel=0.1)


def test_bfloat16_and_float32_as_measured() -> None:
    assert noise(torch.bfloat16) == pytest.approx(0.00169, rel=0.01)
    assert noise(torch.float16) == pytest.approx(noise(torch.bfloat16) / 8)
    assert noise(torch.float32) < 1e-7


def test_inner_products_need_no_difference_formed() -> None:
    one, other = update(20, 30, 3, seed=1), update(20, 30, 5, seed=2)
    full = [delta(fold([each], [[1.0]], CPU)).double() for each in (one, other)]
    assert float(inner(one, other, CPU)) == pytest.approx(
        float((full[0] * full[1]).sum()), rel=1e-4
    )
    kernel = LowRank(torch.randn(3, 4, 3, 3), torch.randn(8, 3, 1, 1), 0.5)
    formed = delta(fold([kernel], [[1.0]], CPU)).double().norm() ** 2
    assert float(inner(kernel, kernel, CPU)) == pytest.approx(float(formed), rel=1e-4)


def share(worn: Mix, dtype: torch.dtype) -> float:
    """The share by the formula, from differences that are formed in full."""
    ratios = []
    module = tiny(dtype)
    for site, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            parts = [p for p in worn.parts if site in ADAPTERS[p.key].sites("transformer")]
            if parts:
                updates = [ADAPTERS[p.key].sites("transformer")[site] for p in parts]
                base = layer.weight.double()
                total = reference(base, updates, [p.at(site) for p in parts])
                ratios.append(float((total - base).norm() / base.norm()))
    rms = math.sqrt(sum(ratio**2 for ratio in ratios) / len(ratios))
    return min(noise(dtype) / rms, 1.0)


@pytest.mark.parametrize(
    "worn",
    [
        mix(all=0.5),
        mix(all=0.01, one=-0.02, attention=0.03),
        Mix.of([Part(BY_NAME["all"], 0.1, (Scope("blocks.0.*", 0.1),)), *mix(half=0.02).parts]),
    ],
)
def test_a_mix_is_measured_as_a_whole(worn: Mix) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        gauge = Gauge(LoraModel("transformer", tiny(dtype), ADAPTERS))
        assert gauge.rounding(worn).share == pytest.approx(share(worn, dtype), rel=1e-3)


def test_a_tiny_update_would_drown_in_bfloat16_and_not_in_float32() -> None:
    faint = mix(all=0.0005)
    said = lost(Gauge(LoraModel("transformer", tiny(torch.bfloat16), ADAPTERS)).rounding(faint))
    assert said.startswith("rounding to bfloat16 would be ")
    assert said.endswith("% of the effect")
    assert not lost(Gauge(LoraModel("transformer", tiny(), ADAPTERS)).rounding(faint))


def test_adapters_that_cancel_each_other_have_no_effect_to_keep() -> None:
    one = ADAPTERS[BY_NAME["all"]]
    twin = Adapter(AdapterKey("twin", one.key.digest), one.updates)
    model = LoraModel("transformer", tiny(torch.bfloat16), {one.key: one, twin.key: twin})
    both = Mix.of([Part(one.key, 1.0), Part(twin.key, -1.0)])
    assert lost(Gauge(model).rounding(both))
    assert not lost(Gauge(model).rounding(both.only([one.key])))


def test_measuring_leaves_a_component_alone() -> None:
    module = tiny(torch.bfloat16)
    model = LoraModel("transformer", module, ADAPTERS)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    Gauge(model).rounding(mix(all=1.0))
    assert model.applied == Applied()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Packed(torch.Tensor):
    """A weight of a class of its own, as quantised ones are."""


def test_weights_that_cannot_hold_an_update_are_never_fused() -> None:
    module: Tiny = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    weight = module.time.weight.detach().as_subclass(Packed)
    del module.time._parameters["weight"]
    module.time.weight = weight
    gauge = Gauge(model)
    assert lost(gauge.rounding(mix(all=1.0))) == "weights of Packed cannot hold it"
    assert not lost(gauge.rounding(mix(one=1.0)))
