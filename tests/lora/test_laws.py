"""The laws of wearing, on a small real transformer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.algebra import reference
from loraloom.core.mix import NOTHING, Applied, Mix, Part
from loraloom.errors import AdapterMismatchError, LoraloomError, UnknownAdapterError
from loraloom.lora.homes import Copied, Ledgered
from loraloom.lora.model import LoraModel
from loraloom.memory.residency import ORIGINAL, Home, Residency, resident, snapshot

from .strategies import ADAPTERS, BY_NAME, SITES, Tiny, mix, mixes, states, tiny

if TYPE_CHECKING:
    pass

TOKENS = 5
FILED = ("time", "blocks.0.to_out", "blocks.0.ff.0", "blocks.1.to_qkv")


def bits(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k].view(torch.uint8), b[k].view(torch.uint8)) for k in a
    )


RESIDENCIES = {
    "original": ORIGINAL,
    "ledger": Residency(Home.LEDGER),
    "snapshot": snapshot(4_000),
    "resident": resident(4_000),
}


def worn(
    dtype: torch.dtype = torch.float32, residency: Residency = ORIGINAL
) -> tuple[Tiny, LoraModel]:
    """A transformer some of whose weights lie in a checkpoint too; one of them is another there."""
    module = tiny(dtype)
    files = {site: module.get_parameter(f"{site}.weight").detach().clone() for site in FILED}
    files["blocks.0.to_out"] = files["blocks.0.to_out"] + 0.5
    return module, LoraModel("transformer", module, ADAPTERS, checkpoint=files, residency=residency)


def float64(applied: Mix) -> Tiny:
    """The same transformer in float64 with the mix in its weights, by the plain formula."""
    module = tiny().double()
    for site, layer in SITES.items():
        parts = [p for p in applied.parts if site in ADAPTERS[p.key].sites("transformer")]
        target = module.get_submodule(site)
        assert isinstance(target, torch.nn.Linear)
        assert isinstance(layer, torch.nn.Linear)
        updates = [ADAPTERS[p.key].sites("transformer")[site] for p in parts]
        target.weight = torch.nn.Parameter(
            reference(target.weight, updates, [p.strength for p in parts]), requires_grad=False
        )
    return module


def inputs(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, TOKENS, 16, generator=torch.Generator().manual_seed(seed))


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(states(), min_size=1, max_size=8),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from(list(RESIDENCIES.values())),
)
def test_taking_everything_off_restores_every_bit(
    path: list[Applied], dtype: torch.dtype, residency: Residency
) -> None:
    module, model = worn(dtype, residency)
    start = bits(module)
    for state in path:
        model.become(state)
    model.become(Applied())
    assert same_bits(bits(module), start)


def test_a_hundred_random_operations_leave_no_trace() -> None:
    module, model = worn(torch.bfloat16)
    start, output = bits(module), module(inputs(2).bfloat16())
    draw = torch.Generator().manual_seed(7)
    for _ in range(100):
        numbers = torch.randn(3, len(BY_NAME), generator=draw).tolist()
        three = [mix(**dict(zip(sorted(BY_NAME), row, strict=True))) for row in numbers]
        model.become(Applied.rows(three[:2], fused=three[2]))
        module(inputs(2).bfloat16())
    model.become(Applied())
    assert same_bits(bits(module), start)
    assert torch.equal(module(inputs(2).bfloat16()), output)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(states(), max_size=4),
    st.lists(states(), max_size=4),
    states(),
    st.lists(st.sampled_from(list(RESIDENCIES.values())), min_size=2, max_size=2),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_weights_depend_on_the_mix_and_not_on_the_path(
    one: list[Applied],
    other: list[Applied],
    end: Applied,
    residencies: list[Residency],
    dtype: torch.dtype,
) -> None:
    results = []
    for path, residency in zip((one, other), residencies, strict=True):
        module, model = worn(dtype, residency)
        for state in (*path, end):
            model.become(state)
        samples = max((segment.stop for segment in end.live), default=1)
        results.append((bits(module), module(inputs(samples).to(dtype))))
    assert same_bits(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@settings(max_examples=40, deadline=None)
@given(mixes())
def test_fused_and_live_and_float64_agree_in_float32(wanted: Mix) -> None:
    module, model = worn()
    want = float64(wanted)(inputs(2).double())
    for state in (Applied(fused=wanted), Applied.rows([wanted])):
        with model.wearing(state):
            assert error(module(inputs(2)), want) < 1e-5


@pytest.mark.parametrize("wanted", [mix(all=1), mix(all=0.5, attention=-1), mix(half=2, one=0.25)])
def test_fused_and_live_agree_in_bfloat16_within_its_rounding(wanted: Mix) -> None:
    module, model = worn(torch.bfloat16)
    want = float64(wanted)(inputs(2).double())
    for state in (Applied(fused=wanted), Applied.rows([wanted])):
        with model.wearing(state):
            assert error(module(inputs(2).bfloat16()), want) < 2e-2


def test_a_fused_weight_is_rounded_once_from_the_pristine_one() -> None:
    module, model = worn(torch.bfloat16)
    pristine = module.time.weight.clone()
    wanted = mix(all=0.7, half=-1.3)
    with model.wearing(Applied(fused=wanted)):
        updates = [ADAPTERS[p.key].sites("transformer")["time"] for p in wanted.parts]
        exact = reference(pristine, updates, [p.strength for p in wanted.parts])
        got = module.time.weight.clone()
    nearest = exact.to(torch.bfloat16)
    off = (got.float() - nearest.float()).abs() / nearest.float().abs().clamp(min=1e-3)
    assert float(off.max()) <= 2**-7  # at most one unit in the last place, where float32 rounds
    assert float((got == nearest).float().mean()) > 0.99


@settings(max_examples=40, deadline=None)
@given(st.lists(mixes(), min_size=1, max_size=5), mixes(), st.integers(1, 3))
def test_a_row_of_a_mixed_batch_equals_the_row_alone(
    three: list[Mix], fused: Mix, passes: int
) -> None:
    module, model = worn()
    x = inputs(len(three) * passes)
    with model.wearing(Applied.rows(three, fused=fused)):
        together = module(x)
    for row in range(len(x)):
        with model.wearing(Applied.rows([three[row % len(three)]], fused=fused)):
            assert error(together[row : row + 1], module(x[row : row + 1])) < 1e-5


def test_a_row_that_wears_nothing_is_as_the_base_gives_it() -> None:
    module, model = worn(torch.bfloat16)
    x = inputs(3).bfloat16()
    base = module(x)
    with model.wearing(Applied.rows([mix(all=1.5), NOTHING, mix(half=-2)])):
        got = module(x)
    assert torch.equal(got[1], base[1])
    assert not torch.equal(got[0], base[0])
    assert not torch.equal(got[2], base[2])


def test_strength_acts_linearly_with_sign_and_fraction_on_one_layer() -> None:
    module, model = worn()
    layer = module.blocks[0].get_submodule("ff.0")
    x, base = inputs(1), None
    base = layer(x)
    deltas = {}
    for strength in (1.0, -1.0, 0.25):
        for name, state in (
            ("live", Applied.rows([mix(one=strength)])),
            ("fused", Applied(fused=mix(one=strength))),
        ):
            with model.wearing(state):
                deltas[name, strength] = layer(x) - base
    for name in ("live", "fused"):
        assert float(deltas[name, 1.0].norm()) > 0.1 * float(base.norm())
        torch.testing.assert_close(deltas[name, -1.0], -deltas[name, 1.0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            deltas[name, 0.25], 0.25 * deltas[name, 1.0], rtol=1e-4, atol=1e-5
        )


def test_wearing_takes_off_also_when_the_block_raises() -> None:
    module, model = worn()
    with (
        pytest.raises(RuntimeError, match="in the block"),
        model.wearing(Applied(fused=mix(all=1))),
    ):
        raise RuntimeError("in the block")
    assert model.applied == Applied()
    assert same_bits(bits(module), bits(tiny()))


def test_wearing_returns_without_catalogue_and_cache() -> None:
    module = tiny()
    catalogue = dict(ADAPTERS)
    model = LoraModel("transformer", module, catalogue, budget=20_000)
    model.become(Applied.rows([mix(all=1)]))
    output = module(inputs(2))
    with model.wearing(Applied.rows([mix(half=1)])):
        catalogue.clear()
    assert model.applied == Applied.rows([mix(all=1)])
    assert torch.equal(module(inputs(2)), output)


def test_what_is_worn_can_be_taken_off_after_it_left_the_catalogue() -> None:
    module = tiny()
    catalogue = dict(ADAPTERS)
    model = LoraModel("transformer", module, catalogue)
    model.become(Applied.rows([mix(half=1)], fused=mix(all=1)))
    del catalogue[BY_NAME["all"]]
    model.become(Applied.rows([mix(one=1), mix(half=2)], fused=mix(all=1)))
    catalogue.clear()
    model.become(Applied(fused=mix(all=1)))
    model.become(Applied())
    assert same_bits(bits(module), bits(tiny()))
    with pytest.raises(UnknownAdapterError, match="all@"):
        model.become(Applied(fused=mix(all=1)))


def test_a_mix_worn_before_is_one_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    module, model = worn()
    states = [Applied.rows([mix(all=1), mix(half=0.5)]), Applied.rows([mix(one=2)])]
    first = []
    for state in states:
        model.become(state)
        first.append((model.cell.live, module(inputs(2))))
    import loraloom.lora.fitter as subject

    monkeypatch.delattr(subject, "Fitted")
    model.fitter.adapters = {}
    for state, (live, output) in zip(states * 2, first * 2, strict=True):
        model.become(state)
        assert model.cell.live is live
        assert torch.equal(module(inputs(2)), output)


def test_folded_mixes_stay_within_their_budget() -> None:
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS, budget=30_000)
    want: dict[tuple[str, float], torch.Tensor] = {}
    for strength in (1.0, 0.5, -1.0, 0.25, 1.0, 0.5):
        for name in BY_NAME:
            model.become(Applied.rows([mix(**{name: strength})]))
            assert model.wardrobe.kept.nbytes <= 30_000
            output = module(inputs(1))
            assert torch.equal(output, want.setdefault((name, strength), output))
    assert len(model.wardrobe.kept) > 1


@pytest.mark.parametrize(
    ("site", "shape", "says"),
    [
        ("blocks.0.to_out", (47, 16), r"'bad' at transformer.blocks.0.to_out is 47×16, .* 16×16"),
        ("blocks.7.to_out", (16, 16), r"transformer.blocks.7.to_out: there is no such .*blocks.0"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_anything_changes(
    site: str, shape: tuple[int, int], says: str
) -> None:
    module = tiny()
    good = LowRank(torch.ones(1, 16), torch.ones(16, 1), 1.0)
    bad = LowRank(torch.ones(2, shape[1]), torch.ones(shape[0], 2), 1.0)
    adapter = Adapter.make("bad", {"transformer": {"blocks.0.to_out": good, site: bad}})
    model = LoraModel("transformer", module, {adapter.key: adapter})
    for state in (
        Applied(fused=Mix.of([Part(adapter.key, 1.0)])),
        Applied.rows([Mix.of([Part(adapter.key, 1.0)])]),
    ):
        with pytest.raises(AdapterMismatchError, match=says) as caught:
            model.become(state)
        assert isinstance(caught.value, LoraloomError)
        assert same_bits(bits(module), bits(tiny()))


def homes(model: LoraModel, kind: type) -> set[str]:
    return {site for site, home in model.weights.homes.items() if isinstance(home, kind)}


def test_nothing_is_kept_of_a_weight_that_lies_in_the_checkpoint() -> None:
    module, model = worn()
    model.become(Applied(fused=mix(all=1)))
    assert homes(model, Copied) == set(FILED) - {"blocks.0.to_out"}
    assert homes(model, Ledgered) == set(SITES) - set(FILED) | {"blocks.0.to_out"}
    model.become(Applied(fused=mix(one=1)))
    assert homes(model, Copied) == {"blocks.0.ff.0"} == set(model.weights.homes)
    assert model.weights.nbytes == 0
    model.become(Applied())
    assert same_bits(bits(module), bits(tiny()))
    assert not model.weights.homes


def test_what_acts_beside_fused_weights_reads_nothing_of_the_checkpoint() -> None:
    module, model = worn()
    model.become(Applied(fused=mix(all=1)))
    model.weights.ground = replace(model.weights.ground, checkpoint={})
    model.become(Applied.rows([mix(half=1)], fused=mix(all=1)))
    assert error(module(inputs(2)), float64(mix(all=1, half=1))(inputs(2).double())) < 1e-5


def test_a_weight_that_was_written_to_is_not_taken_from_the_checkpoint() -> None:
    module, model = worn()
    for _ in range(2):
        with model.wearing(Applied(fused=mix(all=1))):
            pass
    module.time.weight.add_(0.25)
    written = module.time.weight.clone()
    module.blocks[0].get_submodule("ff.0").weight = torch.nn.Parameter(torch.ones(32, 16))
    with model.wearing(Applied(fused=mix(all=1))):
        assert {"time", "blocks.0.ff.0"} <= homes(model, Ledgered)
    assert torch.equal(module.time.weight, written)
    assert torch.equal(module.get_parameter("blocks.0.ff.0.weight"), torch.ones(32, 16))


def test_release_gives_the_module_back_as_it_was() -> None:
    module, model = worn()
    model.become(Applied.rows([mix(all=1)], fused=mix(half=1)))
    model.release()
    plain = tiny()
    assert [type(m) for m in module.modules()] == [type(m) for m in plain.modules()]
    assert [sorted(vars(m)) for m in module.modules()] == [sorted(vars(m)) for m in plain.modules()]
    assert same_bits(bits(module), bits(plain))
    assert torch.equal(module(inputs(2)), plain(inputs(2)))
