"""Packed layers of a real module: where one layer does what adapters know as several."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch import nn

from loraloom.core.packing import Packed
from loraloom.errors import AdapterMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loraloom.core.mix import Site


class Split(Enum):
    """How many rows of a packed weight every member has."""

    EVEN = "as many as the others"
    HEADS = "a head's times the heads of queries, of keys, of values"


@dataclass(frozen=True, slots=True)
class Convention:
    """A packed layer as the code that calls it takes its output apart, in contiguous blocks.

    Attributes:
        layer: its name in the module that owns it.
        members: the names, beside it, that its blocks have in adapters.
        readers: classes whose ``forward``, or ``__call__`` of an attention processor, calls it.
    """

    layer: str
    members: tuple[str, ...]
    split: Split
    readers: frozenset[str]


SELF = frozenset({"Flux3AttnProcessor", "FusedCogVideoXAttnProcessor2_0", "MiniMaxH3AttnProcessor"})
"""Processors of diffusers that call ``to_qkv``."""

CROSS = frozenset(
    {
        "FusedAttnProcessor2_0",
        "FusedHunyuanAttnProcessor2_0",
        "HeliosAttnProcessor",
        "WanAnimate2AttnProcessor",
        "WanAnimateFaceBlockAttnProcessor",
    }
)
"""Those that call ``to_qkv``, or ``to_q`` and ``to_kv`` where they attend to something else."""

JOINT = frozenset(
    {
        "BriaAttnProcessor",
        "BriaFiboAttnProcessor",
        "Flux2AttnProcessor",
        "Flux2KVAttnProcessor",
        "FluxAttnProcessor",
        "FluxIPAdapterAttnProcessor",
        "FusedAuraFlowAttnProcessor2_0",
        "FusedJointAttnProcessor2_0",
        "LongCatImageAttnProcessor",
        "OvisImageAttnProcessor",
    }
)
"""Those that call ``to_qkv``, and ``to_added_qkv`` of the prompt."""

IMAGE = frozenset({"SkyReelsV2AttnProcessor", "WanAnimate2CrossAttnProcessor", "WanAttnProcessor"})
"""Those that do as ``CROSS`` and call ``to_added_kv`` of an image."""

ALWAYS = frozenset(name for name in SELF | CROSS | JOINT if name.startswith("Fused"))
"""Those that do so without asking the attention's ``fused_projections``."""

GATED = frozenset(
    {
        "DiaMLP",
        "Dots3NoteAudioMLP",
        "EsmFold2SwiGLU",
        "Glm4MLP",
        "Glm4vTextMLP",
        "GlmImageTextMLP",
        "GlmMLP",
        "GlmOcrTextMLP",
        "MiniMaxM3VLDenseMLP",
        "Phi3MLP",
        "Phi4MultimodalMLP",
    }
)
"""Feed-forwards of transformers that take the gate first; some others take it last."""

QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
LLAMA = ("q_proj", "k_proj", "v_proj")

CONVENTIONS = (
    Convention("to_qkv", QKV, Split.EVEN, SELF | CROSS | JOINT | IMAGE),
    Convention("to_kv", QKV[1:], Split.EVEN, CROSS | IMAGE),
    Convention("to_added_qkv", ADDED, Split.EVEN, JOINT),
    Convention("to_added_kv", ADDED[1:], Split.EVEN, IMAGE),
    Convention(
        "qkv_proj", LLAMA, Split.HEADS, frozenset({"Phi3Attention", "Phi4MultimodalAttention"})
    ),
    Convention("gate_up_proj", ("gate_proj", "up_proj"), Split.EVEN, GATED),
)
"""Layouts read in diffusers 0.42 and transformers 5.23.

A layer of the same name that another class calls is no packed layer: GPT-NeoX and CodeGen
interleave heads, the audio encoder of Phi-4 takes the gate last. Adapters that name parts of those
name layers that are not there.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A packed layer, its members that are there beside it, and which of the two is called."""

    packed: Packed
    present: frozenset[Site]
    called: bool


def packs(module: nn.Module) -> Mapping[Site, Packed]:
    """The packed layers that a forward pass calls, by site, and the rows of their members.

    Raises:
        AdapterMismatchError: an attention has its projections twice, packed and not, and nothing
            tells which of them its processor calls; or its members do not make up its rows.
    """
    return {found.packed.site: found.packed for found in _found(module) if found.called}


def idle(module: nn.Module) -> frozenset[Site]:
    """Layers that are there but that a forward pass never calls: what is on them does nothing.

    They are the members of packed layers that were fused at run time, and packed layers that
    were left behind.

    Raises:
        AdapterMismatchError: as :func:`packs`.
    """
    sites: set[Site] = set()
    for found in _found(module):
        sites |= found.present if found.called else {found.packed.site}
    return frozenset(sites)


def _found(module: nn.Module) -> Iterator[Found]:
    for name, owner in module.named_modules():
        for convention in CONVENTIONS:
            found = _at(f"{name}." if name else "", owner, convention)
            if found is not None:
                yield found


def _at(prefix: str, owner: nn.Module, convention: Convention) -> Found | None:
    """What an owner has of a convention; nothing, if it does not follow it."""
    layer, site = owner._modules.get(convention.layer), prefix + convention.layer
    rows, width = (getattr(layer, name, None) for name in ("out_features", "in_features"))
    if not isinstance(rows, int) or not isinstance(width, int):
        return None
    there = {
        prefix + name: isinstance(getattr(owner, name, None), nn.Module)
        for name in convention.members
    }
    called = _calls(owner, convention)
    if not called:
        if not (all(there.values()) and hasattr(owner, "fuse_projections")):
            return None
        _check_known(owner, site)
    sizes = _sizes(owner, rows, convention)
    if sum(sizes) != rows:
        raise AdapterMismatchError(f"{site} has {rows} rows, its members {sizes}, want as many")
    packed = Packed.of(site, dict(zip(there, sizes, strict=True)), width)
    return Found(packed, frozenset(member for member in there if there[member]), called)


def _calls(owner: nn.Module, convention: Convention) -> bool:
    """Whether the code that an owner runs calls the packed layer of a convention."""
    readers = {_definer(type(owner), "forward").__name__, _processor(owner).__name__}
    fused = getattr(owner, "fused_projections", True) or readers & ALWAYS
    return bool(readers & convention.readers and fused)


def _processor(owner: nn.Module) -> type[Any]:
    """The class whose code an attention runs; of a module without a processor, its own."""
    processor = getattr(owner, "processor", None)
    kind = type(owner if processor is None else processor)
    return _definer(kind, "__call__")


def _definer(kind: type[Any], method: str) -> type[Any]:
    """The class that a method comes from: whoever inherits it reads as that class does."""
    return next((each for each in kind.__mro__ if method in vars(each)), kind)


def _sizes(owner: nn.Module, rows: int, convention: Convention) -> list[int]:
    """Rows of every member of a layer that has ``rows``."""
    if convention.split is Split.EVEN:
        return [rows // len(convention.members)] * len(convention.members)
    config: Any = owner.config
    head: Any = owner.head_dim
    grouped = config.num_key_value_heads * head
    return [config.num_attention_heads * head, grouped, grouped]


def _check_known(owner: nn.Module, site: Site) -> None:
    """Return if an attention that has its projections twice is known to call the separate ones.

    Raises:
        AdapterMismatchError: its processor is not of diffusers, where all that call packed layers
            are in ``CONVENTIONS``.
    """
    processor = _processor(owner)
    if processor.__module__.partition(".")[0] != "diffusers":
        raise AdapterMismatchError(
            f"nothing tells whether {processor.__name__} calls {site} or the projections that it "
            "was made of, want a processor of diffusers or unfused projections"
        )
