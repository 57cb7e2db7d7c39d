"""Strengths and scopes, at their limits, however an adapter is worn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from transformers.models.phi3.configuration_phi3 import Phi3Config
from transformers.models.phi3.modeling_phi3 import Phi3MLP

from loraloom.core.adapter import Adapter
from loraloom.core.algebra import reference
from loraloom.core.mix import NOTHING, Applied, Mix, Part, Scope
from loraloom.errors import InvalidStrengthError
from loraloom.lora.live import SHAPES
from loraloom.lora.model import LoraModel
from loraloom.memory.residency import resident

from .strategies import ADAPTERS, BY_NAME, SITES, Tiny, mix, tiny
from .test_inputs import BATCHES, WIDTH, A, B, of, one_layer, update
from .test_laws import bits, error, inputs, same_bits

if TYPE_CHECKING:
    pass


SCOPED = Mix.of(
    [
        Part(BY_NAME["all"], 0.7, (Scope("*", 0.25), Scope("blocks.*.ff.*", -2.0))),
        Part(BY_NAME["half"], -1.0, (Scope("time", 0.0),)),
        Part(BY_NAME["one"], 0.5),
    ]
)


def test_scopes_act_alike_live_and_fused_and_in_float64() -> None:
    exact: Tiny = tiny().double()
    for site in SITES:
        worn = [part for part in SCOPED.parts if site in ADAPTERS[part.key].sites("transformer")]
        updates = [ADAPTERS[part.key].sites("transformer")[site] for part in worn]
        layer = exact.get_submodule(site)
        weight = reference(layer.get_parameter("weight"), updates, [part.at(site) for part in worn])
        layer.weight = nn.Parameter(weight, requires_grad=False)
    x = inputs(3)
    want = exact(x.double())
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    unscoped = mix(all=0.7, half=-1, one=0.5)
    for state in (Applied(fused=SCOPED), Applied.rows([SCOPED])):
        with model.wearing(state):
            assert error(module(x), want) < 1e-5
    for fixed in (False, True):
        if fixed:
            model.fix((64,), samples=3)
        with model.wearing(Applied.rows([NOTHING, SCOPED, unscoped])):
            got = module(x)
        assert error(got[1], want[1]) < 1e-5
        assert error(got[2], want[2]) > 1e-2


def test_scopes_act_on_the_members_of_a_packed_layer() -> None:
    torch.manual_seed(0)
    config = Phi3Config(hidden_size=WIDTH, intermediate_size=24)
    module = Phi3MLP(config).requires_grad_(requires_grad=False)
    one = {"gate_proj": update(1, out=24), "up_proj": update(2, out=24)}
    two = {"gate_proj": update(3, out=24), "up_proj": update(4, out=24)}
    adapters = [Adapter.make(n, {"transformer": u}) for n, u in (("one", one), ("two", two))]
    model = LoraModel("transformer", module, {each.key: each for each in adapters})
    wears = Mix.of(
        [
            Part(adapters[0].key, 0.5, (Scope("gate_proj", -1.0), Scope("up_proj", 0.5))),
            Part(adapters[1].key, 1.0, (Scope("up_*", 0.0),)),
        ]
    )
    weight = module.gate_up_proj.weight.double()
    gate = reference(weight[:24], [one["gate_proj"], two["gate_proj"]], [-0.5, 1.0])
    up = reference(weight[24:], [one["up_proj"]], [0.25])
    x = torch.randn(2, 5, WIDTH)
    want = x.double() @ torch.cat([gate, up]).T
    for state in (Applied(fused=wears), Applied.rows([wears]), Applied.rows([wears, NOTHING])):
        with model.wearing(state):
            assert error(_within(module, x)[0], want[0]) < 1e-5
    one_alone = Mix.of(wears.parts[:1])  # not side by side with another
    with model.wearing(Applied(fused=one_alone)):
        single = _within(module, x)
    with model.wearing(Applied.rows([one_alone])):
        assert error(_within(module, x), single) < 1e-5
    model.fix((16,))
    with model.wearing(Applied.rows([wears])):
        assert error(_within(module, x), want) < 1e-5


def _within(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the packed layer gives while its component is called."""
    got: list[torch.Tensor] = []
    own = module.get_submodule("down_proj")
    hook = own.register_forward_pre_hook(
        lambda *_: got.append(module.get_submodule("gate_up_proj")(x))
    )
    module(hidden_states=x)
    hook.remove()
    return got[0]


@pytest.mark.parametrize(
    ("strength", "scopes"),
    [
        (2e38, (Scope("layer", 10.0),)),
        (2e38, (Scope("layer", -10.0),)),
        (-2e38, (Scope("*", 10.0),)),
        (-3e39, ()),
        (3e39, ()),
    ],
    ids=str,
)
def test_a_strength_beyond_float32_is_refused_live_and_fused(
    strength: float, scopes: tuple[Scope, ...]
) -> None:
    module, model = one_layer()
    start = bits(module)
    wide = of(A, strength, *scopes)
    for state in (
        Applied.rows([wide]),
        Applied.rows([of(B), wide]),
        Applied(fused=wide),
    ):
        with pytest.raises(InvalidStrengthError, match="beyond float32"):
            model.become(state)
        assert model.applied == Applied()
        assert same_bits(bits(module), start)


def test_a_strength_of_which_a_scope_leaves_a_number_is_worn() -> None:
    for strength in (1e39, -1e39):
        module, model = one_layer()
        x = torch.full((2, WIDTH), 1e-38)
        state = Applied.rows([of(A, strength)])
        with model.wearing(state):
            assert module(x).isfinite().all()


def test_a_fused_weight_wants_gradients_where_the_pristine_one_does() -> None:
    for wants in (True, False):
        module = tiny().requires_grad_(requires_grad=wants)
        model = LoraModel("transformer", module, ADAPTERS, residency=resident(10**6))
        pristine = module.time.weight
        for strength in (1, 2, 1):
            model.become(Applied(fused=mix(half=strength)))
            assert module.time.weight is not pristine
            assert module.time.weight.requires_grad == wants
        model.become(Applied())
        assert module.time.weight is pristine
        assert pristine.requires_grad == wants


def test_warming_puts_back_what_is_worn_also_where_it_is_left_early() -> None:
    module, model = one_layer()
    model.fix((4, 8), samples=2)
    model.become(BATCHES["mixed"])
    x = torch.randn(2, 3, WIDTH)
    output = module(x)
    assert list(model.warming(2)) == [0, 4, 8]
    assert torch.equal(module(x), output)
    for samples in (1, 2):
        for bucket in model.warming(samples):
            assert (model.cell.bucket, model.cell.samples) == (bucket, samples)
            if bucket == 4:
                break
        assert (model.cell.bucket, model.cell.samples) == (8, 2)
        assert torch.equal(module(x), output)
    with pytest.raises(RuntimeError, match="in the loop"):
        _raise_in(model)
    assert (model.cell.bucket, model.cell.samples) == (8, 2)


def _raise_in(model: LoraModel) -> None:
    for _ in model.warming():
        raise RuntimeError("in the loop")


@pytest.mark.parametrize("batch", BATCHES)
def test_lengths_that_never_come_again_are_not_kept(batch: str) -> None:
    module, model = one_layer()
    with model.wearing(BATCHES[batch]):
        x = torch.randn(2, 2, WIDTH)
        first, most = module(x), 0
        for tokens in range(3, 60):
            module(torch.zeros(2, tokens, WIDTH))
            most = max(most, len(model.cell.live.ways))
        assert most <= SHAPES * len(model.cell.live.sites) + 2
        assert torch.equal(module(x), first)
