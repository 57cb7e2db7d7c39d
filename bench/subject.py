"""What the runtime is measured on: a random Flux three times, adapters in files, inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file
from torch import nn

from loraloom.formats.names import NameTable

from .peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from loraloom.core.mix import Site

COMPONENT = "transformer"
RANK = 16
CHANGE = 0.03
"""‖ΔW‖ / ‖W‖ of every adapter at every site."""
TARGETS = re.compile(
    r"(single_)?transformer_blocks\.\d+\..*"
    r"(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out|net\.0\.proj|net\.2|proj_mlp|proj_out)"
)
"""The linear layers of attention and feed-forward."""

Inputs: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many tokens of a picture and of a text a forward pass has."""

    image: int
    text: int

    def __str__(self) -> str:
        return f"{self.image}+{self.text}"


@dataclass(frozen=True, slots=True)
class Size:
    """How large everything is.

    Attributes:
        config: of the transformer.
        long: tokens of a pass in which arithmetic prevails.
        short: tokens of a pass in which everything beside it shows.
        few: tokens of every row of a batch that is almost nothing but its rows.
    """

    config: Mapping[str, Any]
    long: Tokens
    short: Tokens
    few: Tokens


SIZES = {
    "tiny": Size(
        {
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "joint_attention_dim": 64,
            "pooled_projection_dim": 32,
            "axes_dims_rope": (8, 12, 12),
        },
        long=Tokens(64, 16),
        short=Tokens(16, 8),
        few=Tokens(4, 4),
    ),
    # hidden 1536: 395 M parameters, of which 283 M lie in the 54 linears that adapters change
    "full": Size(
        {"num_layers": 2, "num_single_layers": 6, "num_attention_heads": 12},
        long=Tokens(1024, 128),
        short=Tokens(256, 128),
        few=Tokens(16, 16),
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One model three times: untouched, for ours, and for the peer.

    Attributes:
        folder: holds the model as diffusers saves it, and adapter files.
    """

    size: Size
    device: str
    folder: Path
    plain: Any
    module: Any
    peer: Peer

    @property
    def files(self) -> tuple[Path, ...]:
        """Eight adapters."""
        return tuple(sorted(self.folder.glob("style*.safetensors")))

    def inputs(self, tokens: Tokens, rows: int = 1) -> Inputs:
        """Of one forward pass; the same in every call."""
        config = self.plain.config
        generator = torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.device, torch.bfloat16)

        return {
            "hidden_states": noise(rows, tokens.image, config.in_channels),
            "encoder_hidden_states": noise(rows, tokens.text, config.joint_attention_dim),
            "pooled_projections": noise(rows, config.pooled_projection_dim),
            "timestep": torch.full((rows,), 0.5, device=self.device, dtype=torch.bfloat16),
            "img_ids": torch.zeros(tokens.image, 3, device=self.device),
            "txt_ids": torch.zeros(tokens.text, 3, device=self.device),
            "return_dict": False,
        }

    def passes(self, module: nn.Module, tokens: Tokens, rows: int = 1) -> Callable[[], Tensor]:
        """A forward pass of one of the three."""
        inputs = self.inputs(tokens, rows)
        return lambda: module(**inputs)[0]


def make(size: Size, device: str, folder: Path) -> Subject:
    """The model, written and read again, and eight adapters for it."""
    torch.manual_seed(0)
    FluxTransformer2DModel(**size.config).to(torch.bfloat16).save_pretrained(folder / COMPONENT)
    plain, module, peers = (read(folder, device) for _ in range(3))
    for number in range(8):
        write_adapter(plain, folder / f"style{number}.safetensors", number)
    return Subject(size, device, folder, plain, module, Peer(peers))


def read(folder: Path, device: str) -> Any:
    """The model, in memory of its own: what diffusers maps would be a view of the file."""
    module = FluxTransformer2DModel.from_pretrained(
        folder / COMPONENT, torch_dtype=torch.bfloat16, local_files_only=True
    )
    module.eval().requires_grad_(requires_grad=False)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(device, copy=True)
    return module.to(device)


def targets(module: nn.Module) -> dict[Site, nn.Linear]:
    """The layers that the adapters change."""
    return {
        site: layer
        for site, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and TARGETS.fullmatch(site)
    }


def names(module: nn.Module) -> NameTable:
    layers = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    sites = {site: tuple(layer.weight.shape) for site, layer in layers.items()}
    return NameTable({COMPONENT: sites}, default=COMPONENT)


def factors(weight: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random ``down [rank, in]`` and ``up [out, rank]`` that change ``weight`` by ``CHANGE``."""
    high, wide = weight.shape
    down = torch.randn(rank, wide, generator=generator, device=generator.device)
    up = torch.randn(high, rank, generator=generator, device=generator.device)
    # ‖up·down‖² is the sum over the product of the two Gram matrices
    norm = ((up.T @ up) * (down @ down.T)).sum().sqrt()
    up *= CHANGE * weight.norm(dtype=torch.float32).to(up.device) / norm
    return down.to(weight.dtype), up.to(weight.dtype)


def write_adapter(module: nn.Module, path: Path, seed: int) -> None:
    """An adapter as diffusers saves it."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for site, layer in targets(module).items():
        down, up = factors(layer.weight, RANK, generator)
        state[f"{COMPONENT}.{site}.lora_A.weight"] = down
        state[f"{COMPONENT}.{site}.lora_B.weight"] = up
    save_file(state, path, {"format": "pt"})
