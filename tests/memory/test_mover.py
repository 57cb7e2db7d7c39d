"""What a plan says is where the bytes are, at every call, and nothing that was written is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from loraloom.memory.mover import Mover
from loraloom.memory.staging import Order, Plan, Sizes, plan

CPU = torch.device("cpu")
USES = (("read",), ("first", "second"), ("large",), ("first", "second"), ("last",))
WIDTHS = {"read": 3, "first": 5, "second": 7, "large": 40, "last": 2}


@pytest.fixture
def modules() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {
        name: nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width)).eval()
        for name, width in WIDTHS.items()
    }


def tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def sizes(modules: dict[str, nn.Module]) -> Sizes:
    return Sizes({name: sum(t.nbytes for t in tensors(m)) for name, m in modules.items()})


@contextmanager
def moved(modules: dict[str, nn.Module], order: Order) -> Iterator[Mover]:
    mover = Mover(modules, CPU, plan("original", order, sizes(modules), USES))
    yield mover
    mover.close()


def elsewhere(modules: dict[str, nn.Module], home: dict[Tensor, int]) -> dict[str, int]:
    """Bytes by component that lie in other memory than where they were loaded."""
    found = {
        name: sum(t.nbytes for t in tensors(module) if t.data_ptr() != home[t])
        for name, module in modules.items()
    }
    return {name: size for name, size in found.items() if size}


def call(modules: dict[str, nn.Module], name: str) -> Tensor:
    out: Tensor = modules[name](torch.ones(2, WIDTHS[name]))
    return out


@pytest.mark.parametrize("order", ["in turn", "ahead"])
def test_bytes_are_where_the_plan_says_at_every_call(
    order: Order, modules: dict[str, nn.Module]
) -> None:
    home = {t: t.data_ptr() for module in modules.values() for t in tensors(module)}
    made: Plan = plan("original", order, sizes(modules), USES)
    want = {name: call(modules, name) for name in modules}
    seen = []
    with moved(modules, order):
        for act in made.acts * 2:
            for name in act.uses:
                assert torch.equal(call(modules, name), want[name])
                there = elsewhere(modules, home)
                assert there == made.on_device(act)
                seen.append(sum(there.values()))
    assert max(seen) == made.peak
    assert not elsewhere(modules, home)
    assert all(torch.equal(call(modules, name), want[name]) for name in modules)


def test_an_act_that_is_left_out_is_no_matter(modules: dict[str, nn.Module]) -> None:
    with moved(modules, "in turn") as mover:
        call(modules, "large")
        assert mover.here == {"large"}
        call(modules, "read")
        assert mover.here == {"read"}


def test_what_was_written_travels_back_and_comes_again(modules: dict[str, nn.Module]) -> None:
    layer = next(iter(modules["first"].children()))
    assert isinstance(layer, nn.Linear)
    with moved(modules, "in turn"):
        call(modules, "first")
        with torch.no_grad():
            layer.weight.detach().add_(1)
        written = layer.weight.clone()
        call(modules, "large")
        assert torch.equal(layer.weight, written)
        with torch.no_grad():
            layer.weight.detach().mul_(2)  # at rest
        call(modules, "first")
        assert torch.equal(layer.weight, written * 2)
    assert torch.equal(layer.weight, written * 2)


def test_a_failure_while_coming_leaves_all_of_it_at_rest(
    modules: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = {t: t.data_ptr() for module in modules.values() for t in tensors(module)}
    want = call(modules, "large")
    with moved(modules, "in turn") as mover:
        empty = torch.empty_like

        def full(tensor: Tensor, **kwargs: object) -> Tensor:
            if tensor.ndim == 1:
                raise torch.OutOfMemoryError("no room")
            return empty(tensor, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(torch, "empty_like", full)
        with pytest.raises(torch.OutOfMemoryError):
            call(modules, "large")
        monkeypatch.undo()
        assert not elsewhere(modules, home)
        assert torch.equal(call(modules, "large"), want)
        assert mover.here == {"large"}
