"""Linear layers that keep their weight in a form of their own, of several packages."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, OUT = 64, 32


class Net(nn.Module):
    """A layer that is quantised, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, OUT)
        self.last = nn.Linear(OUT, 8)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(hidden_states)
        return out


class Coded(nn.Linear):
    """A weight of bytes in another shape, as GGUF and bitsandbytes keep it."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features)
        self.bias = plain.bias
        self.step = plain.weight.detach().abs().max() / 127
        codes = (plain.weight.detach() / self.step).round().to(torch.int8)
        self.weight = nn.Parameter(codes.view(torch.uint8).reshape(-1, 1), requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        codes = self.weight.view(torch.int8).reshape(self.out_features, self.in_features)
        return functional.linear(hidden, codes * self.step, self.bias)


def ao(name: str, dtype: torch.dtype = torch.float32) -> Callable[[Net], None]:
    """torchao puts a tensor of its own class in place of the weight."""

    def quantise(net: Net) -> None:
        quantization = import_module("torchao.quantization")
        net.to(dtype)
        quantization.quantize_(net.layer, getattr(quantization, name)())

    return quantise


def dynamic(net: Net) -> None:
    """torch's own layer is no ``nn.Linear``, and its weight a method."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that torchao will take this over
        quantise: Any = torch.ao.quantization.quantize_dynamic
        net.layer = quantise(nn.Sequential(net.layer), {nn.Linear}, dtype=torch.qint8)[0]


def coded(net: Net) -> None:
    net.layer = Coded(net.layer)


def gguf(net: Net) -> None:
    """Blocks of 32 entries: a half as their step, then a byte for each."""
    utils = import_module("diffusers.quantizers.gguf.utils")
    blocks = net.layer.weight.detach().reshape(-1, 32)
    step = (blocks.abs().amax(1, keepdim=True) / 127).half()
    codes = (blocks / step).round().clamp(-127, 127).to(torch.int8)
    raw = torch.cat([step.view(torch.uint8), codes.view(torch.uint8)], dim=1).reshape(OUT, -1)
    layer: Any = utils.GGUFLinear(WIDTH, OUT, bias=True, compute_dtype=torch.float32)
    layer.weight = utils.GGUFParameter(raw, quant_type=utils.gguf.GGMLQuantizationType.Q8_0)
    layer.bias = net.layer.bias
    net.layer = layer


def bnb(name: str) -> Callable[[Net], None]:
    def quantise(net: Net) -> None:
        eight = {"has_fp16_weights": False} if name == "Linear8bitLt" else {}
        layer = getattr(import_module("bitsandbytes").nn, name)(WIDTH, OUT, **eight)
        layer.load_state_dict(net.layer.state_dict())
        net.layer = layer.to("cpu")

    return quantise


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to quantise a layer.

    Attributes:
        called: in errors: the layer's class, or its weight's where the layer is torch's own.
        package: what it needs; not all are requirements of the tests.
    """

    quantise: Callable[[Net], None]
    called: str
    package: str = "torch"


KNOWN = {
    "coded": Kind(coded, "Coded"),
    "torch dynamic": Kind(dynamic, "Linear"),
    "torchao int8": Kind(ao("Int8WeightOnlyConfig"), "Int8Tensor", "torchao"),
    "torchao int8 in bfloat16": Kind(
        ao("Int8WeightOnlyConfig", torch.bfloat16), "Int8Tensor", "torchao"
    ),
    "torchao int8 and activations": Kind(
        ao("Int8DynamicActivationInt8WeightConfig"), "Int8Tensor", "torchao"
    ),
    "torchao float8": Kind(ao("Float8WeightOnlyConfig", torch.bfloat16), "Float8Tensor", "torchao"),
    "torchao intx": Kind(ao("IntxWeightOnlyConfig"), "IntxUnpackedToInt8Tensor", "torchao"),
    "gguf": Kind(gguf, "GGUFLinear", "gguf"),
    "bitsandbytes 8": Kind(bnb("Linear8bitLt"), "Linear8bitLt", "bitsandbytes"),
    "bitsandbytes 4": Kind(bnb("Linear4bit"), "Linear4bit", "bitsandbytes"),
}
KINDS = {name: kind for name, kind in KNOWN.items() if find_spec(kind.package)}
"""Those whose package is installed; torchao and bitsandbytes are not requirements of the tests."""
