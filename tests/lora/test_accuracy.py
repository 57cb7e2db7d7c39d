"""What fusing rounds away, predicted from norms and measured on fused weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from diffusers.hooks import apply_layerwise_casting
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxAttnProcessor

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.algebra import delta, fold, reference
from loraloom.core.mix import AdapterKey, Applied, Mix, Part, Scope
from loraloom.core.packing import spread
from loraloom.lora.accuracy import Gauge, inner, noise
from loraloom.lora.cost import lost
from loraloom.lora.model import LoraModel

from .offloading import WAYS, Watch, grouped, sequential, simulate_streams
from .strategies import ADAPTERS, BY_NAME, Tiny, mix, tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

CPU = torch.device("cpu")


def cast(module: nn.Module) -> None:
    apply_layerwise_casting(module, torch.float8_e4m3fn, torch.bfloat16)


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


@pytest.mark.parametrize(
    ("enable", "what"),
    [
        (sequential, "float32 in accelerate's map of offloaded weights"),
        (None, "float32 in a file of its offloaded group"),
        (cast, "float8_e4m3fn in a type that it is only stored in"),
    ],
    ids=["sequential", "files", "casting"],
)
def test_weights_that_a_tool_keeps_away_are_never_fused(
    enable: Callable[[nn.Module], None] | None, what: str, tmp_path: Path
) -> None:
    module = tiny()
    gauge = Gauge(LoraModel("transformer", module, ADAPTERS))
    assert not lost(gauge.rounding(mix(all=1.0)))
    (enable or grouped("leaf_level", files=tmp_path))(module)
    with Watch(module) as watch:
        assert lost(gauge.rounding(mix(all=1.0))) == f"weights of {what} cannot hold it"
    assert watch.moved == watch.written == []


@pytest.mark.parametrize("way", WAYS)
def test_weights_in_groups_are_measured_as_in_memory(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate_streams(monkeypatch)
    module, plain = tiny(torch.bfloat16), tiny(torch.bfloat16)
    WAYS[way](module)
    got, want = (
        Gauge(LoraModel("transformer", each, ADAPTERS)).rounding(mix(all=0.1, half=-1))
        for each in (module, plain)
    )
    assert got == want


def test_updates_of_a_packed_layer_are_measured_with_those_of_its_parts() -> None:
    """By names of parts, by the layer's own name, and by both, as differences formed in full."""
    torch.manual_seed(0)
    module = FluxAttention(16, heads=2, dim_head=8, processor=FluxAttnProcessor()).requires_grad_(
        requires_grad=False
    )
    module.fuse_projections()
    parts = {name: update(16, 16, 2, seed) for seed, name in enumerate(("to_q", "to_k", "to_v"))}
    whole = {"to_qkv": update(48, 16, 3, seed=7), "to_v": update(16, 16, 1, seed=8)}
    adapters = [Adapter.make("parts", {"it": parts}), Adapter.make("whole", {"it": whole})]
    model = LoraModel("it", module, {each.key: each for each in adapters})
    one, other = (each.key for each in adapters)
    scoped = Part(one, -0.5, (Scope("to_k", 0.25),))
    for worn in (Mix.of([scoped]), Mix.of([Part(other, 2.0)]), Mix.of([scoped, Part(other, 2.0)])):
        base = module.to_qkv.weight.detach().double()
        packed = model.fitter.packs["to_qkv"]
        acting = [
            (part.at(name), placed)
            for part in worn.parts
            for name, placed in spread(parts if part.key == one else whole, {"to_qkv": packed})[
                "to_qkv"
            ].items()
        ]
        change = reference(base, [u for _, u in acting], [s for s, _ in acting]) - base
        effect = Gauge(model).rounding(worn).effect
        assert effect == pytest.approx(float(change.norm() / base.norm()) ** 2, rel=1e-4)
