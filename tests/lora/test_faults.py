"""What goes wrong in the middle or behind the model's back costs no bit of the weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import loraloom
from loraloom.core import fusing
from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import Applied, Mix, Part
from loraloom.errors import AdapterMismatchError, BudgetError, RestoreError
from loraloom.lora import slots
from loraloom.lora.homes import Copied, Ledgered
from loraloom.lora.model import LoraModel, become, wearing
from loraloom.memory.residency import Home, Residency, resident, snapshot

from .strategies import ADAPTERS, SITES, Tiny, adapter, mix, tiny
from .test_laws import FILED, RESIDENCIES, bits, inputs, same_bits, worn

if TYPE_CHECKING:
    from types import FrameType

PACKAGE = Path(loraloom.__file__).parent
WATCHED = frozenset(
    str(PACKAGE / each)
    for each in ("lora/model.py", "lora/weights.py", "lora/homes.py", "core/fusing.py")
)
FUSED = Applied(fused=mix(half=1))
OTHER = Applied(fused=mix(half=-0.5, one=0.3))


class Interrupt:
    """Ctrl-C at the n-th line that the runtime executes; ``lines`` counts them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.lines = 0

    def __enter__(self) -> Interrupt:
        self.before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def _trace(self, frame: FrameType, event: str, _arg: object) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                raise KeyboardInterrupt
        return self._trace


PATHS = {
    "put on": (Applied(), Applied.rows([mix(all=1), mix(half=1)], fused=mix(half=-0.5))),
    "changed": (Applied.rows([mix(one=1)], fused=mix(half=0.5)), OTHER),
    "taken off": (Applied.rows([mix(one=1)], fused=mix(half=0.5)), Applied()),
    "live alone": (Applied.rows([mix(one=1)], fused=mix(one=1)), Applied(fused=mix(one=1))),
}


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    weights: dict[str, torch.Tensor]
    output: torch.Tensor


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("path", PATHS)
def test_an_interrupt_at_any_line_leaves_one_whole_state(
    path: str, residency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fusing.BLOCK, "cpu", 16 * 8)  # of several blocks
    before, want = PATHS[path]
    outcomes: dict[Applied, Outcome] = {}
    late, x = 0, inputs(2)
    for at in count(1, 3 if before.fused != want.fused else 1):
        if at % 2:  # else what was interrupted goes on, with what it knows
            module, model = worn(residency=RESIDENCIES[residency])
            model.become(before)
        if not outcomes:
            outcomes[before] = Outcome(bits(module), module(x))
            with model.wearing(want):
                outcomes[want] = Outcome(bits(module), module(x))
        try:
            with Interrupt(at):
                model.become(want)
        except KeyboardInterrupt:
            late += model.applied == want
        else:
            if at % 2:
                break
        assert same_bits(bits(module), outcomes[model.applied].weights)
        assert torch.equal(module(x), outcomes[model.applied].output)
        model.become(Applied())
        assert same_bits(bits(module), bits(tiny()))
        model.become(before)
        assert same_bits(bits(module), outcomes[before].weights)
    assert at > 8
    assert late <= 2  # when all was done


def filed() -> tuple[Tiny, LoraModel, dict[str, torch.Tensor]]:
    module = tiny()
    files = {site: module.get_parameter(f"{site}.weight").clone() for site in FILED}
    return module, LoraModel("transformer", module, ADAPTERS, checkpoint=files), files


def classes(module: nn.Module) -> list[type]:
    return [type(each) for each in module.modules()]


@pytest.mark.parametrize("want", [Applied(), OTHER], ids=["restored", "fused"])
def test_a_checkpoint_that_was_written_over_is_an_error_and_changes_nothing(want: Applied) -> None:
    module, model, files = filed()
    model.become(FUSED)
    assert isinstance(model.weights.homes["time"], Copied)
    fused, good = bits(module), files["time"].clone()
    files["time"][3] += 1
    with pytest.raises(RestoreError, match="1 rows of the weight of time"):
        model.become(want)
    assert model.applied == FUSED
    assert same_bits(bits(module), fused)
    files["time"].copy_(good)
    model.become(want)
    model.become(Applied())
    assert same_bits(bits(module), bits(tiny()))


@pytest.mark.parametrize("want", [Applied(), OTHER], ids=["restored", "fused"])
def test_a_write_to_a_fused_weight_is_an_error_where_subtracting_restores(want: Applied) -> None:
    module, model = worn(residency=Residency(Home.LEDGER))
    model.become(FUSED)
    assert isinstance(model.weights.homes["time"], Ledgered)
    good = module.time.weight.clone()
    module.time.weight.data[5] *= 2
    written = bits(module)
    with pytest.raises(RestoreError, match="1 rows of the weight of time"):
        model.become(want)
    assert model.applied == FUSED
    assert same_bits(bits(module), written)
    module.time.weight.data.copy_(good)
    model.become(want)
    model.become(Applied())
    assert same_bits(bits(module), bits(tiny()))


def test_release_gives_the_classes_back_also_where_a_weight_is_lost() -> None:
    for spoil in ("file", "weight"):
        module, model, files = filed()
        model.become(Applied.rows([mix(all=1)], fused=mix(all=1)))
        (files["time"] if spoil == "file" else module.get_parameter("blocks.1.ff.0.weight")).mul_(2)
        with pytest.raises(RestoreError):
            model.release()
        assert classes(module) == classes(tiny())
        assert not module._forward_pre_hooks
        assert [sorted(vars(m)) for m in module.modules()] == [
            sorted(vars(m)) for m in tiny().modules()
        ]


def test_a_checkpoint_in_the_memory_of_the_weights_is_none() -> None:
    module = tiny()
    shared = {site: module.state_dict()[f"{site}.weight"] for site in SITES}
    model = LoraModel("transformer", module, ADAPTERS, checkpoint=shared)
    other, plain = worn(residency=Residency(Home.LEDGER))
    for state in (Applied(fused=mix(all=1)), Applied(fused=mix(all=-0.5, half=1)), Applied()):
        model.become(state)
        plain.become(state)
        assert same_bits(bits(module), bits(other))


def fused_from(module: nn.Module, state: Applied) -> dict[str, torch.Tensor]:
    """What a model that never wore anything makes of the weights that are there."""
    fresh = tiny(next(module.parameters()).dtype)
    fresh.load_state_dict(module.state_dict())
    LoraModel("transformer", fresh, ADAPTERS).become(state)
    return bits(fresh)


KEEPING = [snapshot(10**6), resident(10**6)]


@pytest.mark.parametrize("residency", KEEPING, ids=["snapshot", "resident"])
def test_weights_loaded_between_wearings_are_what_is_fused_into(residency: Residency) -> None:
    module, model = worn(residency=residency)
    with model.wearing(FUSED):
        pass
    module.load_state_dict({name: 3 * value for name, value in module.state_dict().items()})
    loaded = bits(module)
    want = fused_from(module, FUSED)
    for _ in range(2):
        with model.wearing(FUSED):
            assert same_bits(bits(module), want)
        assert same_bits(bits(module), loaded)


@pytest.mark.parametrize("residency", KEEPING, ids=["snapshot", "resident"])
@pytest.mark.parametrize("want", [Applied(), OTHER], ids=["restored", "fused"])
def test_a_write_to_a_fused_weight_is_not_kept_of_the_mix(
    residency: Residency, want: Applied
) -> None:
    module, model = worn(residency=residency)
    model.become(FUSED)
    fused = bits(module)
    for write in (lambda: module.time.weight.mul_(2), lambda: module.load_state_dict(bits(tiny()))):
        write()
        model.become(want)
        model.become(FUSED)
        assert same_bits(bits(module), fused)
    model.become(Applied())
    assert same_bits(bits(module), bits(tiny()))


@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_write_that_no_version_counts_is_respected(residency: str) -> None:
    module, model = worn(residency=RESIDENCIES[residency])
    with model.wearing(FUSED):
        pass
    module.time.weight.data.mul_(2)
    written, want = bits(module), fused_from(module, FUSED)
    with model.wearing(FUSED):
        assert same_bits(bits(module), want)
    assert same_bits(bits(module), written)


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize(
    ("first", "then"), [(torch.float32, torch.bfloat16), (torch.float16, torch.bfloat16)], ids=str
)
def test_another_type_between_wearings_is_respected(
    residency: str, first: torch.dtype, then: torch.dtype
) -> None:
    module, model = worn(first, RESIDENCIES[residency])
    with model.wearing(FUSED):
        pass
    module.to(then)
    start, want = bits(module), fused_from(module, FUSED)
    with model.wearing(FUSED):
        assert same_bits(bits(module), want)
    assert same_bits(bits(module), start)


@pytest.mark.parametrize(
    "wide", [Applied.rows([mix(one=1), mix(half=1)]), Applied.rows([mix(all=1, half=1)])], ids=str
)
def test_what_was_worn_before_fixing_and_has_no_room_is_refused(wide: Applied) -> None:
    module, model = worn()
    model.become(wide)
    worn_, x = module(inputs(2)), inputs(2)
    with pytest.raises(BudgetError, match="fixed room"):
        model.fix((1,) if len(wide.live) == 1 else (64,))
    assert model.slots is None
    assert torch.equal(module(x), worn_)
    model.become(Applied())
    model.fix((1,) if len(wide.live) == 1 else (64,))
    base = module(x)
    for state in (wide, Applied(mix(one=1), wide.live)):
        with pytest.raises(BudgetError, match="fixed room"):
            model.become(state)
        assert model.applied == Applied()
        assert model.cell.bucket == 0
        assert model.cell.samples == 1
        assert torch.equal(module(x), base)
        assert same_bits(bits(module), bits(tiny()))


@pytest.mark.parametrize("fails", [1, 10**6], ids=["once", "until it is mended"])
@pytest.mark.parametrize("ready", [True, False])
def test_fixed_memory_that_was_half_written_is_mended(
    fails: int, ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, model = worn()
    one, other = Applied.rows([mix(all=1)]), Applied.rows([mix(half=1)])
    model.fix((16,))
    model.become(other if ready else Applied())
    model.become(one)
    x = inputs(1)
    output, calls, real = module(x), count(), slots._fill

    def failing(*args: Any) -> None:
        if 2 <= next(calls) < 2 + fails:
            raise MemoryError("injected")
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(slots, "_fill", failing)
        with pytest.raises(MemoryError):
            model.become(other)
    if fails == 1:
        assert model.applied == one
        assert torch.equal(module(x), output)
    model.become(one)
    assert torch.equal(module(x), output)
    model.become(other)
    assert not torch.equal(module(x), output)


def test_all_go_back_without_the_catalogue_where_the_second_refuses() -> None:
    one = adapter("worn", 1)
    bad = Adapter.make("bad", {**one.updates, "other": {"time": LowRank(*_ones(16, 47), 1.0)}})
    for fused in (False, True):
        catalogue = {each.key: each for each in (one, bad)}
        first, second = tiny(), tiny()
        model = LoraModel("transformer", first, catalogue, budget=20_000)
        models = [model, LoraModel("other", second, catalogue)]
        wears, wanted = (Mix.of([Part(key, 1.0)]) for key in (one.key, bad.key))
        worn_, want = (
            Applied(fused=each) if fused else Applied.rows([each]) for each in (wears, wanted)
        )
        model.become(worn_)
        before, output = bits(first), first(inputs(1))
        model.wardrobe.kept.budget = model.fitter.size(one.key)  # no room for both
        del catalogue[one.key]
        with pytest.raises(AdapterMismatchError, match=r"other\.time is 16×47"):
            become(models, want)
        assert [each.applied for each in models] == [worn_, Applied()]
        assert same_bits(bits(first), before)
        assert same_bits(bits(second), bits(tiny()))
        assert torch.equal(first(inputs(1)), output)


def _ones(out: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(2, width), torch.ones(out, 2)


def test_what_is_worn_needs_no_catalogue_and_no_type_to_be_worn_again() -> None:
    module = tiny()
    catalogue = dict(ADAPTERS)
    model = LoraModel("transformer", module, catalogue)
    state = Applied.rows([mix(all=1), mix(half=1)])
    model.become(state)
    module.bfloat16()
    rough = module(inputs(2).bfloat16())
    catalogue.clear()
    with wearing([model], Applied()):
        assert model.applied == Applied()
        assert not torch.equal(module(inputs(2).bfloat16()), rough)
    assert model.applied == state
    assert torch.equal(module(inputs(2).bfloat16()), rough)
