"""Bytes of adapters that lie ready never exceed their budget, and switching back costs nothing."""

from __future__ import annotations

import gc
import random
import weakref
from collections import Counter

import pytest
import torch

from loraloom.core.mix import Applied, Mix, Part
from loraloom.errors import BudgetError, InvalidStrengthError
from loraloom.lora.model import LoraModel
from loraloom.lora.wardrobe import LIVES

from .strategies import ADAPTERS, BY_NAME, adapter, mix, tiny

MANY = {each.key: each for n in range(12) for each in [adapter(f"a{n}", n, rank=1 + n % 5)]}


class Scales(dict):  # type: ignore[type-arg]
    """Adapters that count how often they are asked for."""

    asked = 0

    def get(self, key: object, default: object = None) -> object:
        self.asked += 1
        return super().get(key, default)


def bytes_alive(model: LoraModel) -> int:
    """Of all factors that the model holds a way to."""
    tensors = {
        id(tensor): tensor
        for live in [*model.wardrobe._lives.values(), model.cell.live]
        for each in live.fitted.values()
        for pieces in each.sites.values()
        for piece in pieces
        for tensor in piece.update.tensors
    }
    joined = {
        id(live.joined): live.joined
        for live in [*model.wardrobe._lives.values(), model.cell.live]
        if live.joined is not None
    }
    for each in joined.values():
        tensors.update((id(t), t) for update in each._sites.values() for t in update.tensors)
    return sum(tensor.nbytes for tensor in tensors.values())


def test_ten_thousand_random_batches_stay_within_the_budget() -> None:
    draw = random.Random(1)
    module = tiny(torch.bfloat16)
    model = LoraModel("transformer", module, MANY, budget=14_000)
    x, keys, refused = torch.zeros(3, 1, 16, dtype=torch.bfloat16), list(MANY), 0
    for number in range(10_000):
        batch = [
            Mix.of(Part(key, draw.choice([1.0, 0.5])) for key in draw.sample(keys, number % 3))
            for _ in range(draw.choice([1, 3]))
        ]
        try:
            model.become(Applied.rows(batch))
        except BudgetError:
            refused += 1
        if number % 50 == 0:
            module(x)
            assert bytes_alive(model) <= 14_000
        assert model.wardrobe.kept.nbytes <= 14_000
    assert 0 < refused < 2_000
    assert model.wardrobe.kept.dropped > 1_000


def test_what_was_dropped_is_freed() -> None:
    model = LoraModel("transformer", tiny(torch.bfloat16), MANY, budget=12_000)
    keys = list(MANY)
    model.become(Applied.rows([Mix.of([Part(keys[0], 1.0)])]))
    held = weakref.ref(next(iter(model.cell.live.fitted.values())).sites["time"][0].update.down)
    for key in keys[1:]:
        model.become(Applied.rows([Mix.of([Part(key, 1.0)])]))
    gc.collect()
    assert held() is None


def test_strengths_and_batches_of_what_lies_ready_ask_for_nothing() -> None:
    catalogue = Scales(ADAPTERS)
    model = LoraModel("transformer", tiny(), catalogue)
    model.become(Applied.rows([mix(all=1, half=1), mix(one=1)]))
    asked = catalogue.asked
    kept = model.wardrobe.kept.nbytes
    for strength in (0.5, -1.0, 2.0):
        model.become(Applied.rows([mix(all=strength, half=1), mix(one=strength)]))
        model.become(Applied.rows([mix(one=strength), mix(), mix(half=1, all=strength)]))
    assert (catalogue.asked, model.wardrobe.kept.nbytes) == (asked, kept)


def test_what_exceeds_the_budget_is_refused_and_changes_nothing() -> None:
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS, budget=3_000)
    model.become(Applied.rows([mix(one=1)]))
    x = torch.randn(2, 3, 16)
    output = module(x)
    with pytest.raises(BudgetError, match=r"adapters on transformer take \d+ bytes, .* is 3000"):
        model.become(Applied.rows([mix(all=1)]))
    assert model.applied == Applied.rows([mix(one=1)])
    assert torch.equal(module(x), output)


def test_a_component_that_moved_or_changed_its_type_wears_what_fits_it_now() -> None:
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    state = Applied.rows([mix(all=1)])
    model.become(state)
    module.double()
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    rough = module(x)
    model.become(Applied())
    model.become(state)
    torch.testing.assert_close(module(x), rough, rtol=1e-5, atol=1e-5)
    assert (
        model.cell.live.fitted[BY_NAME["all"]].sites["time"][0].update.down.dtype == torch.float64
    )


class Counted(dict):  # type: ignore[type-arg]
    """Adapters that count by key how often they are asked for."""

    def __init__(self, adapters: object) -> None:
        super().__init__(adapters)  # type: ignore[call-overload]
        self.asked: Counter[object] = Counter()

    def get(self, key: object, default: object = None) -> object:
        self.asked[key] += 1
        return super().get(key, default)


def test_what_is_worn_every_other_time_is_made_ready_once() -> None:
    catalogue = Counted(MANY)
    model = LoraModel("transformer", tiny(torch.bfloat16), catalogue)
    often, *others = MANY
    model.wardrobe.kept.budget = 3 * max(model.fitter.size(key) for key in MANY)
    asked = 0
    for number in range(30):
        model.become(Applied.rows([Mix.of([Part(often, 1.0)])]))
        asked = asked or catalogue.asked[often]
        model.become(Applied.rows([Mix.of([Part(others[number % len(others)], 1.0)])]))
    assert model.wardrobe.kept.dropped > 10
    assert catalogue.asked[often] == asked


ALIKE = list(MANY)[::5]  # of one rank


def test_a_strength_that_is_refused_leaves_held_what_is_counted() -> None:
    model = LoraModel("transformer", tiny(torch.bfloat16), MANY)
    one, other, *_ = ALIKE
    assert model.fitter.size(one) == model.fitter.size(other)
    model.wardrobe.kept.budget = model.fitter.size(one)
    model.become(Applied.rows([Mix.of([Part(one, 1.0)])]))
    held = weakref.ref(model.cell.live.fitted[one].sites["time"][0].update.down)
    model.become(Applied())
    with pytest.raises(InvalidStrengthError):
        model.become(Applied.rows([Mix.of([Part(other, 1e300)])]))
    gc.collect()
    assert held() is None
    assert set(model.wardrobe.kept) == {other}
    assert model.wardrobe.kept.nbytes == model.wardrobe.kept.budget
    model.become(Applied.rows([Mix.of([Part(other, 1.0)])]))
    assert bytes_alive(model) == model.wardrobe.kept.nbytes


def test_a_joined_adapter_is_counted_and_leaves_with_its_description() -> None:
    module = tiny(torch.bfloat16)
    model = LoraModel("transformer", module, MANY)
    one, other, third = ALIKE
    model.wardrobe.kept.budget = 4 * model.fitter.size(one)
    x = torch.zeros(2, 3, 16, dtype=torch.bfloat16)
    model.become(Applied.rows([Mix.of([Part(one, 1.0)]), Mix.of([Part(other, 1.0)])]))
    module(x)
    assert bytes_alive(model) == model.wardrobe.kept.nbytes == model.wardrobe.kept.budget
    for strength in (1.0, 0.5):
        model.become(Applied.rows([Mix.of([Part(third, strength)])]))
        module(x)
        assert bytes_alive(model) <= model.wardrobe.kept.nbytes <= model.wardrobe.kept.budget


def test_strengths_that_never_come_again_are_not_kept() -> None:
    model = LoraModel("transformer", tiny(), ADAPTERS)
    for number in range(LIVES + 50):
        state = Applied.rows([mix(one=1 + number / 64)])
        model.become(state)
        assert len(model.wardrobe._lives) <= LIVES
    assert model.applied == state
    assert set(model.wardrobe.kept) == {BY_NAME["one"]}


def test_what_is_brought_ahead_never_takes_away_what_is_worn() -> None:
    draw = random.Random(2)
    model = LoraModel("transformer", tiny(torch.bfloat16), MANY, budget=14_000)
    keys, brought = list(MANY), 0
    model.prefetch(keys[:1])
    assert not model.wardrobe.keys  # nothing was computed yet, so where is not known
    for _ in range(500):
        worn = draw.sample(keys, 2)
        try:
            model.become(Applied.rows([Mix.of(Part(key, 1.0) for key in worn)]))
        except BudgetError:
            continue
        live = model.cell.live
        for key in draw.sample(keys, 4):
            model.prefetch([key])
            brought += key in model.wardrobe.keys
            assert model.wardrobe.keys.issuperset(worn)
            assert model.wardrobe.kept.nbytes <= 14_000
        assert model.wardrobe.ready(live.segments, model.probe.where()) is live
    assert brought > 500


def test_what_was_brought_ahead_is_not_fetched_when_it_is_worn() -> None:
    counted = Scales(MANY)
    model = LoraModel("transformer", tiny(torch.bfloat16), counted, budget=1 << 20)
    first, second = list(MANY)[:2]
    model.become(Applied.rows([Mix.of([Part(first, 1.0)])]))
    model.prefetch([second])
    asked = counted.asked
    model.become(Applied.rows([Mix.of([Part(second, 1.0)])]))
    assert counted.asked == asked


def test_what_is_brought_ahead_again_and_again_comes_once() -> None:
    """With room for a part of it, one does not go for the other between two steps."""
    model = LoraModel("transformer", tiny(torch.bfloat16), MANY, budget=14_000)
    first, *others = MANY
    model.become(Applied.rows([Mix.of([Part(first, 1.0)])]))
    model.prefetch(others)
    there, dropped = model.wardrobe.keys, model.wardrobe.kept.dropped
    assert {first} < there < set(MANY), "the budget is for some of them"
    for _ in range(3):
        model.prefetch(others)
    assert (model.wardrobe.keys, model.wardrobe.kept.dropped) == (there, dropped)
