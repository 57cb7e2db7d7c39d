"""A failure anywhere on the way leaves weights, state and outputs as they were."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import torch
from torch.overrides import TorchFunctionMode

from loraloom.core.adapter import Adapter
from loraloom.core.mix import AdapterKey, Applied
from loraloom.lora.model import LoraModel

from .strategies import ADAPTERS, mix, tiny
from .test_laws import RESIDENCIES, bits, inputs, same_bits, worn

if TYPE_CHECKING:
    from collections.abc import Iterator


class Failing(dict[AdapterKey, Adapter]):
    """A catalogue that fails at the n-th look-up."""

    def __init__(self, fail_at: int) -> None:
        super().__init__(ADAPTERS)
        self.left = fail_at

    def get(self, key: AdapterKey, default: object = None) -> Adapter | None:  # type: ignore[override]
        self.left -= 1
        if self.left < 0:
            raise MemoryError("injected")
        return super().get(key)


class Writing(TorchFunctionMode):
    """Fails at the n-th write into a weight of a module, and may leave rubbish there."""

    def __init__(self, module: torch.nn.Module, fail_at: int, *, rubbish: bool) -> None:
        super().__init__()
        self.memory = {each.data_ptr() for each in module.parameters()}
        self.left = fail_at
        self.rubbish = rubbish

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        into = (kwargs or {}).get("out", args[0] if func is torch.Tensor.copy_ else None)
        if into is not None and into.data_ptr() in self.memory:
            self.left -= 1
            if self.left == -1:
                if self.rubbish:
                    into.view(-1)[0] = torch.nan
                raise MemoryError("injected")
        return func(*args, **(kwargs or {}))


def failures(writing: Writing, fail_at: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make the n-th computation or write of a weight fail, one after the other."""
    from loraloom.lora import homes, weights

    for subject, name in (
        (weights, "fold"),
        (weights, "digest"),
        (homes, "add"),
        (homes, "add_reversibly"),
        (homes, "subtract"),
        (homes, "digest"),
    ):
        real, count = getattr(subject, name), iter(range(10**6))

        def failing(*args: object, real=real, count=count) -> object:  # type: ignore[no-untyped-def]
            if next(count) == fail_at:
                raise MemoryError("injected")
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(subject, name, failing)
            yield name
    with writing:
        yield "writing"


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("fail_at", [0, 1, 3])
@pytest.mark.parametrize(
    ("before", "want"),
    [
        (Applied(), Applied.rows([mix(all=1), mix(half=1)], fused=mix(all=-0.5, one=0.3))),
        (
            Applied.rows([mix(one=1)], fused=mix(half=0.5)),
            Applied.rows([mix(all=1), mix(half=1)], fused=mix(all=-0.5, attention=1)),
        ),
        (
            Applied(fused=mix(half=0.5)),
            Applied.rows([mix(all=1)] * 2, fused=mix(attention=0.3, one=1)),
        ),
    ],
    ids=["put on", "changed", "taken off and put on"],
)
def test_a_failure_in_the_middle_leaves_weights_and_state_as_they_were(
    residency: str,
    fail_at: int,
    before: Applied,
    want: Applied,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, model = worn(residency=RESIDENCIES[residency])
    model.become(before)
    start, output = bits(module), module(inputs(2))
    failed = set()
    writing = Writing(module, fail_at, rubbish=residency == "snapshot")
    for what in failures(writing, fail_at, monkeypatch):
        try:
            model.become(want)
        except MemoryError:
            failed.add(what)
        else:  # that many are not needed on the way there, but perhaps on the way back
            after = bits(module)
            with suppress(MemoryError):
                model.become(before)
            if model.applied == want:
                failed.add(what)
                assert same_bits(bits(module), after)
                model.become(before)
        assert model.applied == before
        assert same_bits(bits(module), start)
        assert torch.equal(module(inputs(2)), output)
    assert len(failed & {"fold", "add", "add_reversibly", "digest", "writing"}) >= 2
    model.become(want)
    model.become(Applied())
    assert same_bits(bits(module), bits(tiny()))


def test_a_failing_catalogue_changes_nothing() -> None:
    module = tiny()
    model = LoraModel("transformer", module, Failing(1))
    with pytest.raises(MemoryError):
        model.become(Applied(fused=mix(all=1, half=1)))
    assert model.applied == Applied()
    assert same_bits(bits(module), bits(tiny()))
