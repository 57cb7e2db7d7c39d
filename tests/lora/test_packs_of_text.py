"""Packed layers of transformers: blocks of grouped heads, of gate and up, and what is no block."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    CodeGenConfig,
    CodeGenModel,
    Glm4Config,
    Glm4Model,
    GPTNeoXConfig,
    GPTNeoXModel,
    LlamaConfig,
    LlamaModel,
    Phi3Config,
    Phi3Model,
    Phi4MultimodalAudioConfig,
)
from transformers.models.phi4_multimodal.modeling_phi4_multimodal import Phi4MultimodalAudioMLP

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.algebra import reference
from loraloom.core.packing import shapes
from loraloom.errors import AdapterMismatchError
from loraloom.lora.model import LoraModel
from loraloom.lora.packs import GATED, idle, packs

from .projections import add, models_of, projections, sizes_of, updates_of

SMALL = {
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
WORDS = torch.tensor([[1, 5, 9, 3], [2, 2, 7, 11]])


def hidden(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=WORDS).last_hidden_state
    return out


def phi3_and_llama() -> tuple[nn.Module, nn.Module]:
    """Phi-3 and a Llama that computes the same with separate projections."""
    torch.manual_seed(0)
    phi, llama = Phi3Model(Phi3Config(**SMALL)), LlamaModel(LlamaConfig(**SMALL))
    state = {}
    for key, value in phi.state_dict().items():
        if "qkv_proj" in key:
            for name, rows in zip("qkv", value.split([32, 16, 16]), strict=True):
                state[key.replace("qkv_proj", f"{name}_proj")] = rows
        elif "gate_up_proj" in key:
            for name, rows in zip(("gate", "up"), value.chunk(2), strict=True):
                state[key.replace("gate_up_proj", f"{name}_proj")] = rows
        else:
            state[key] = value
    llama.load_state_dict({**llama.state_dict(), **state})
    return tuple(each.eval().requires_grad_(requires_grad=False) for each in (phi, llama))


@pytest.mark.parametrize("seed", range(3))
def test_phi3_with_grouped_heads_wears_an_adapter_of_llama(seed: int) -> None:
    phi, llama = phi3_and_llama()
    base = hidden(llama)
    torch.testing.assert_close(hidden(phi), base)
    found = packs(phi)
    assert shapes(found) == {
        site: tuple(size) for site, size in sizes_of(llama, projections(llama)).items()
    }
    assert idle(phi) == frozenset()
    updates = updates_of(sizes_of(llama, projections(llama)), seed)
    add(llama, updates)
    add(phi, updates, found)
    torch.testing.assert_close(hidden(phi), hidden(llama), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(hidden(llama), base, atol=1e-2)


def test_a_feed_forward_that_packs_gate_and_up() -> None:
    torch.manual_seed(0)
    model = Glm4Model(Glm4Config(**SMALL, head_dim=8)).requires_grad_(requires_grad=False)
    found = packs(model)
    assert set(found) == {f"layers.{i}.mlp.gate_up_proj" for i in range(2)}
    mlp: Any = model.layers[0].mlp
    updates = updates_of(shapes(found), seed=1)
    x = torch.randn(3, 32)
    gate, up = mlp.gate_up_proj.weight.chunk(2)
    site = "layers.0.mlp"
    assert f"{site}.gate_proj" in updates
    gate = reference(gate, [updates[f"{site}.gate_proj"]], [1.0]).float()
    if f"{site}.up_proj" in updates:
        up = reference(up, [updates[f"{site}.up_proj"]], [1.0]).float()
    want = mlp.down_proj(mlp.activation_fn(x @ gate.T) * (x @ up.T))
    add(model, updates, found)
    torch.testing.assert_close(mlp(x), want, rtol=1e-4, atol=1e-5)


NEOX = {key: SMALL[key] for key in SMALL if key not in ("num_key_value_heads", "rms_norm_eps")}
CODEGEN = {"vocab_size": 20, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lambda: GPTNeoXModel(GPTNeoXConfig(**NEOX)), "query_key_value"),
        (lambda: CodeGenModel(CodeGenConfig(**CODEGEN)), "qkv_proj"),
    ],
    ids=["gpt-neox", "codegen"],
)
def test_interleaved_heads_are_no_blocks_and_members_are_refused(model: Any, name: str) -> None:
    module = model().requires_grad_(requires_grad=False)
    found = packs(module)
    assert found == {}
    site = next(key for key, _ in module.named_modules() if key.endswith(name))
    part = site.replace(name, "q_proj")
    for worn_site, out in ((part, 32), (site, 96)):
        update = LowRank(torch.ones(1, 32), torch.ones(out, 1), 1.0)
        worn = Adapter.make("a", {"it": {worn_site: update}})
        wearer = LoraModel("it", module, {})
        if worn_site == part:
            with pytest.raises(AdapterMismatchError, match="there is no such layer"):
                wearer.fitter.check(worn)
        else:
            wearer.fitter.check(worn)
        wearer.release()


def test_a_gate_that_comes_last_is_no_member() -> None:
    mlp = Phi4MultimodalAudioMLP(Phi4MultimodalAudioConfig(hidden_size=8, intermediate_size=12))
    assert isinstance(mlp.gate_up_proj, nn.Linear)
    assert packs(mlp) == {}


def test_every_feed_forward_of_transformers_that_takes_the_gate_first_is_known() -> None:
    found = set()
    for path in models_of("transformers").glob("*/modeling_*.py"):
        text = path.read_text(encoding="utf-8")
        for block in re.split(r"^(?=class )", text, flags=re.MULTILINE):
            if "self.gate_up_proj = nn.Linear" in block and re.search(
                r"gate, up\w* = \w+\.chunk\(2", block
            ):
                found.add(re.match(r"class (\w+)", block)[1])  # type: ignore[index]
    assert found == GATED
