"""Packed layers of diffusers: adapters of their members do what they do on separate layers."""

from __future__ import annotations

import ast
import re
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxAttnProcessor
from diffusers.models.transformers.transformer_ltx2 import LTX2Attention
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import nn

from loraloom.core.adapter import Adapter
from loraloom.core.mix import NOTHING, Applied, Mix, Part
from loraloom.errors import AdapterMismatchError
from loraloom.lora.model import LoraModel
from loraloom.lora.packs import CONVENTIONS, CROSS, IMAGE, JOINT, SELF, idle, packs
from tests.families.tiny import build

from .projections import add, models_of, projections, sizes_of, updates_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.families.family import Family

FUSED = {"flux": 3, "flux 2": 2, "sd3": 4, "sdxl": 8, "animatediff": 22, "wan 2.2": 4}
"""Families that diffusers fuses on request, and how many packed layers there are then."""


def family_of(name: str) -> Family:
    """A family as the pipelines are tested, with what diffusers can fuse."""
    family = build(name)
    if (
        name == "sd3"
    ):  # a second attention and norms are not for diffusers to fuse: it fails, and forgets them
        torch.manual_seed(0)
        config = {**family.pipe.transformer.config, "dual_attention_layers": (), "qk_norm": None}
        family.pipe.transformer = SD3Transformer2DModel.from_config(config)
        family.pipe.transformer.eval().requires_grad_(requires_grad=False)
    return family


@cache
def fused_family(name: str) -> Family:
    family = family_of(name)
    with torch.no_grad():
        denoiser(family).fuse_qkv_projections()
    return family


def denoiser(family: Family) -> Any:
    return getattr(family.pipe, family.denoisers[0])


def latents(family: Family) -> torch.Tensor:
    return family.latents((0, 1), next(iter(family.guidance)))


@pytest.mark.parametrize("name", FUSED)
def test_an_adapter_of_separate_projections_acts_on_fused_ones(name: str) -> None:
    plain = family_of(name)
    assert packs(denoiser(plain)) == {}
    assert idle(denoiser(plain)) == frozenset()
    base = latents(plain)
    updates = updates_of(sizes_of(denoiser(plain), projections(denoiser(plain))))
    add(denoiser(plain), updates)
    want = latents(plain)

    fused = fused_family(name)
    found = packs(denoiser(fused))
    assert len(found) == FUSED[name]
    worn = Adapter.make("a", {"it": updates})
    assert worn.sites("it").keys() & idle(denoiser(fused))
    model = LoraModel("it", denoiser(fused), {worn.key: worn})
    mix = Mix.of([Part(worn.key, 1.0)])
    for state in (Applied.rows([mix]), Applied(fused=mix)):
        with model.wearing(state):
            assert float((latents(fused) - want).abs().max()) < 1e-4
    with model.wearing(Applied.rows([NOTHING, mix])):
        mixed = latents(fused)
    model.release()
    assert float((mixed[1] - want[1]).abs().max()) < 1e-4
    assert float((mixed[0] - base[0]).abs().max()) < 1e-4
    assert float((want - base).abs().max()) > 1e-2


@pytest.mark.parametrize("name", FUSED)
def test_rows_of_a_fused_weight_are_its_members(name: str) -> None:
    module = denoiser(fused_family(name))
    for packed in packs(module).values():
        weight = module.get_submodule(packed.site).weight
        assert weight.shape == packed.shape
        for member in packed.members:
            rows = weight[member.start : member.stop]
            assert torch.equal(rows, module.get_submodule(member.site).weight), member


@pytest.mark.parametrize("name", FUSED)
def test_what_is_idle_does_nothing_and_all_else_something(name: str) -> None:
    family = fused_family(name)
    called: set[str] = set()

    def note(site: str) -> Any:
        return lambda *_: called.add(site)

    linear = {n: m for n, m in denoiser(family).named_modules() if isinstance(m, nn.Linear)}
    hooks = [layer.register_forward_hook(note(site)) for site, layer in linear.items()]
    latents(family)
    for hook in hooks:
        hook.remove()
    assert idle(denoiser(family)) == linear.keys() - called


@pytest.mark.parametrize("name", FUSED)
def test_unfused_again_the_projections_are_called(name: str) -> None:
    module = denoiser(family_of(name))
    with torch.no_grad():
        module.fuse_qkv_projections()
    left = set(packs(module))
    module.unfuse_qkv_projections()
    assert packs(module) == {}
    # some models leave the packed layers behind, and nobody calls them
    assert idle(module) == {site for site in left if site in dict(module.named_modules())}


def test_a_model_that_knows_no_fusing_keeps_its_projections() -> None:
    family = build("qwen-image")
    module = denoiser(family)
    base = latents(family)
    module.fuse_qkv_projections()
    assert packs(module) == {}
    for each in module.modules():
        if isinstance(each, Attention):
            with torch.no_grad():
                each.fuse_projections()
    assert packs(module) == {}
    assert len(idle(module)) == 4
    add(module, updates_of(sizes_of(module, idle(module)), seed=1))
    assert torch.equal(latents(family), base)
    add(module, updates_of(sizes_of(module, projections(module))))
    assert not torch.allclose(latents(family), base, atol=1e-2)


def test_ltx2_makes_a_packed_layer_that_its_processor_does_not_call() -> None:
    attention = LTX2Attention(16, heads=2, kv_heads=2, dim_head=8).requires_grad_(
        requires_grad=False
    )
    attention.fuse_projections()
    assert packs(attention) == {}
    assert idle(attention) == {"to_qkv"}


def test_the_keys_and_values_of_an_image_are_packed_too() -> None:
    torch.manual_seed(0)
    attention = WanAttention(
        16, 2, 8, added_kv_proj_dim=12, cross_attention_dim_head=8, processor=WanAttnProcessor()
    ).requires_grad_(requires_grad=False)
    x = torch.randn(2, 5, 16)
    # the prompt is the last 512 entries, the image those before
    seen = torch.randn(2, 512 + 3, 16)
    attention.add_k_proj, attention.add_v_proj = nn.Linear(16, 16), nn.Linear(16, 16)
    separate = deepcopy(attention)
    updates = updates_of(sizes_of(attention, projections(attention)), seed=1)
    assert {"add_k_proj", "to_k"} <= updates.keys()
    add(separate, updates)
    with torch.no_grad():
        base, want = attention(x, seen), separate(x, seen)
        attention.fuse_projections()
        found = packs(attention)
        assert set(found) == {"to_kv", "to_added_kv"}
        assert idle(attention) == {"to_k", "to_v", "add_k_proj", "add_v_proj"}
        add(attention, updates, found)
        torch.testing.assert_close(attention(x, seen), want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(want, base, atol=1e-2)


def test_a_packed_layer_is_called_while_the_attention_says_so() -> None:
    attention = FluxAttention(16, heads=2, dim_head=8, processor=FluxAttnProcessor())
    attention.requires_grad_(requires_grad=False).fuse_projections()
    assert set(packs(attention)) == {"to_qkv"}
    attention.fused_projections = False
    assert packs(attention) == {}
    assert idle(attention) == {"to_qkv"}


def test_blocks_that_do_not_make_up_the_rows_are_refused() -> None:
    attention = FluxAttention(16, heads=2, dim_head=8, processor=FluxAttnProcessor())
    attention.to_k, attention.to_v = nn.Linear(16, 8), nn.Linear(16, 8)
    attention.requires_grad_(requires_grad=False).fuse_projections()
    with pytest.raises(AdapterMismatchError, match=r"to_qkv has 32 rows, its members \[10, 10"):
        packs(attention)


class Stranger(nn.Module):
    """Has layers of these names for reasons of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(4, 4) for _ in range(3))
        self.to_qkv = nn.Linear(4, 12)


def test_layers_that_nobody_fused_are_left_alone() -> None:
    assert packs(Stranger()) == {}
    assert idle(Stranger()) == frozenset()


class Mine:
    """A processor of somebody else."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = attn.to_qkv(hidden_states)
        return out


def test_an_unknown_processor_of_a_fused_attention_is_refused() -> None:
    attention = Attention(16, heads=2, dim_head=8).requires_grad_(requires_grad=False)
    attention.set_processor(Mine())
    assert packs(attention) == {}
    attention.fuse_projections()
    with pytest.raises(AdapterMismatchError, match=r"Mine calls to_qkv or the projections"):
        packs(attention)
    with pytest.raises(AdapterMismatchError):
        idle(attention)


def test_a_processor_that_inherits_reads_as_its_parent() -> None:
    processor = type("Sub", (type(Attention(16).processor),), {})()
    attention = Attention(16, heads=2, dim_head=8).requires_grad_(requires_grad=False)
    attention.set_processor(processor)
    attention.fuse_projections()
    assert packs(attention) == {}
    assert idle(attention) == {"to_qkv"}


def calls(node: ast.AST, reach: Mapping[str, set[str]]) -> set[str]:
    """Layers that code calls as ``attn.layer(…)``, itself or through functions of its module."""
    called = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    own = {each.attr for each in called if isinstance(each, ast.Attribute)}
    return own.union(*(reach.get(each.id, ()) for each in called if isinstance(each, ast.Name)))


def test_every_processor_of_diffusers_that_calls_packed_layers_is_known() -> None:
    layers = {each.layer: each.readers for each in CONVENTIONS if each.layer.startswith("to_")}
    found: dict[str, set[str]] = {}
    for path in models_of("diffusers").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if not re.search(r"attn\.(to_qkv|to_kv|to_added_q?kv)\(", text):
            continue
        body = ast.parse(text).body
        reach: dict[str, set[str]] = {}
        for helper in [node for node in body if isinstance(node, ast.FunctionDef)] * 2:
            reach[helper.name] = calls(helper, reach)
        for node in body:
            # these always have packed layers alone, which adapters name
            own = isinstance(node, ast.ClassDef) and re.match("StableAudio3|SAME", node.name)
            if isinstance(node, ast.ClassDef) and "Processor" in node.name and not own:
                found.setdefault(node.name, set()).update(calls(node, reach) & layers.keys())
    readers = {layer: {name for name in found if layer in found[name]} for layer in layers}
    assert readers == {layer: set(known) for layer, known in layers.items()}
    assert readers["to_qkv"] == SELF | CROSS | JOINT | IMAGE


def test_projections_fused_under_a_model_are_an_error_and_not_silence() -> None:
    family = family_of("flux")
    module = denoiser(family)
    updates = updates_of(sizes_of(module, projections(module)))
    worn = Adapter.make("a", {"it": updates})
    model = LoraModel("it", module, {worn.key: worn})
    module.fuse_qkv_projections()
    for state in (
        Applied.rows([Mix.of([Part(worn.key, 1.0)])]),
        Applied(fused=Mix.of([Part(worn.key, 1.0)])),
    ):
        with pytest.raises(AdapterMismatchError, match="fused or taken apart after its layers"):
            model.become(state)
    model.release()
    LoraModel("it", module, {worn.key: worn}).become(Applied.rows([Mix.of([Part(worn.key, 1.0)])]))
