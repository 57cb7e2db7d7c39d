"""The laws of wearing on a CUDA device, where nothing is summed in the order of a processor."""

from __future__ import annotations

import pytest
import torch

from loraloom.core.mix import NOTHING, Applied, Mix
from loraloom.lora.homes import Ledgered
from loraloom.lora.model import LoraModel
from loraloom.memory.residency import Home, Residency
from tests.lora.strategies import ADAPTERS, Tiny, mix, tiny
from tests.lora.test_laws import RESIDENCIES, bits, error, float64, inputs, same_bits, worn

pytestmark = pytest.mark.cuda

CUDA = torch.device("cuda")
TYPES = (torch.float32, torch.bfloat16, torch.float16)
PATH = (
    Applied(fused=mix(all=0.7, half=-1.3)),
    Applied.rows([mix(one=1), NOTHING], fused=mix(all=1)),
    Applied(fused=mix(attention=2, one=1e-3)),
    Applied.rows([mix(half=0.5)], fused=mix(all=-0.5, attention=0.25)),
)


def there(
    dtype: torch.dtype, residency: Residency = RESIDENCIES["original"]
) -> tuple[Tiny, LoraModel]:
    """A transformer on the device that wears nothing."""
    module = tiny(dtype).to(CUDA)
    return module, LoraModel("transformer", module, ADAPTERS, residency=residency)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_taking_everything_off_restores_every_bit(dtype: torch.dtype, residency: str) -> None:
    module, model = there(dtype, RESIDENCIES[residency])
    start = bits(module)
    x = inputs(2).to(CUDA, dtype)
    output = module(x)
    for state in (*PATH, *reversed(PATH)):
        model.become(state)
        module(x)
    model.become(Applied())
    assert same_bits(bits(module), start)
    assert torch.equal(module(x), output)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_weights_depend_on_the_mix_and_not_on_the_path(dtype: torch.dtype) -> None:
    results = []
    for path in (PATH, (PATH[-1],)):
        module, model = there(dtype, Residency(Home.LEDGER))
        for state in path:
            model.become(state)
        results.append(bits(module))
    assert same_bits(*results)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("ways", [(CUDA, "cpu"), ("cpu", CUDA)], ids=["to host", "to device"])
def test_a_ledger_undoes_on_another_device_what_was_done_on_one(
    dtype: torch.dtype, ways: tuple[torch.device | str, torch.device | str]
) -> None:
    module, model = worn(dtype, Residency(Home.LEDGER))
    start = bits(module)
    module.to(ways[0])
    model.become(PATH[0])
    assert all(isinstance(home, Ledgered) for home in model.weights.homes.values())
    module.to(ways[1])
    model.become(Applied(fused=mix(attention=1)))
    model.become(Applied())
    assert {weight.device.type for weight in module.parameters()} == {torch.device(ways[1]).type}
    assert same_bits(bits(module.to("cpu")), start)


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str
)
@pytest.mark.parametrize("wanted", [mix(all=1), mix(all=0.5, attention=-1), mix(half=2, one=0.25)])
def test_fused_and_live_and_float64_agree(wanted: Mix, dtype: torch.dtype, most: float) -> None:
    module, model = there(dtype)
    want = float64(wanted)(inputs(2).double())
    for state in (Applied(fused=wanted), Applied.rows([wanted])):
        with model.wearing(state):
            assert error(module(inputs(2).to(CUDA, dtype)).cpu(), want) < most
    assert error(module(inputs(2).to(CUDA, dtype)).cpu(), want) > 5 * most


def test_a_row_of_a_mixed_batch_equals_the_row_alone() -> None:
    module, model = there(torch.float32)
    mixes = [mix(all=1), NOTHING, mix(half=-2, one=0.5), mix(attention=1)]
    x = inputs(2 * len(mixes)).to(CUDA)
    base = module(x)
    with model.wearing(Applied.rows(mixes, fused=mix(one=0.5))):
        together = module(x)
    for row in range(len(x)):
        with model.wearing(Applied.rows([mixes[row % len(mixes)]], fused=mix(one=0.5))):
            assert error(together[row : row + 1], module(x[row : row + 1])) < 1e-5
    with model.wearing(Applied.rows(mixes)):
        assert torch.equal(module(x)[1], base[1])
