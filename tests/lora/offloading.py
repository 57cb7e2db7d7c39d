"""Tools that move a module's weights about, on a CPU: real hooks, and what stands for a stream."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_submodules
from diffusers.hooks import apply_group_offloading
from diffusers.hooks import group_offloading as groups
from torch import nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import pytest

    from loraloom.core.mix import Site

CPU = torch.device("cpu")


class Twice(nn.Module):
    """Two layers of one block that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        one, other = nn.Linear(4, 4), nn.Linear(4, 4)
        other.weight = one.weight
        self.blocks = nn.ModuleList([nn.Sequential(one, other)])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.blocks[0](hidden_states)
        return out


class Stream(torch.cpu.Stream):
    """A CPU's stream has nothing to wait for; diffusers asks it to."""

    def synchronize(self) -> None:
        pass


def simulate_streams(patch: pytest.MonkeyPatch) -> None:
    """Let diffusers' groups with a stream do on a CPU what they do with a device.

    The host's weights are copied into pinned memory, which stays; fetching copies them out of it.
    """

    @contextmanager
    def pinned(self: Any) -> Iterator[Mapping[torch.Tensor, torch.Tensor]]:
        yield self.cpu_param_dict

    def fetch(self: Any, tensor: torch.Tensor, source: torch.Tensor, _stream: object) -> None:
        tensor.data = source.to(self.onload_device, copy=True)

    def to_cpu(tensor: torch.Tensor, _low: object) -> torch.Tensor:
        return tensor.data.clone()

    patch.setattr(groups.ModuleGroup, "_pinned_memory_tensors", pinned)
    patch.setattr(groups.ModuleGroup, "_transfer_tensor_to_device", fetch)
    patch.setattr(groups.ModuleGroup, "_to_cpu", staticmethod(to_cpu))
    patch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    patch.setattr(torch.cpu, "current_stream", Stream)


def grouped(
    kind: str, *, per_group: int = 1, streamed: bool = False, files: Path | None = None
) -> Callable[[nn.Module], None]:
    """Layers in groups, by ``block_level`` or ``leaf_level``."""

    def enable(module: nn.Module) -> None:
        options = {"num_blocks_per_group": per_group}
        if not streamed:
            path = None if files is None else str(files)
            apply_group_offloading(module, CPU, CPU, kind, **options, offload_to_disk_path=path)
            return
        config = groups.GroupOffloadingConfig(
            onload_device=CPU,
            offload_device=CPU,
            offload_type=groups.GroupOffloadingType(kind),
            non_blocking=True,
            record_stream=False,
            low_cpu_mem_usage=False,
            stream=Stream(),
            **options,
        )
        groups._apply_group_offloading(module, config)

    return enable


def whole(module: nn.Module) -> None:
    """The whole model moves when it is called."""
    cpu_offload_with_hook(module, execution_device=CPU)


def sequential(module: nn.Module) -> None:
    """Weights are taken from a map for every call, and are on no device otherwise."""
    cpu_offload(module, execution_device=CPU)


WAYS: Mapping[str, Callable[[nn.Module], None]] = {
    "blocks": grouped("block_level"),
    "all blocks together": grouped("block_level", per_group=2),
    "leaves": grouped("leaf_level"),
    "blocks with a stream": grouped("block_level", streamed=True),
    "leaves with a stream": grouped("leaf_level", streamed=True),
    "whole": whole,
}
"""Under which adapters can be fused."""


def disable(module: nn.Module) -> None:
    """Take the hooks of every tool away; weights stay where they are."""
    for each in module.modules():
        registry = getattr(each, "_diffusers_hook", None)
        if registry is not None:
            for name in [*registry.hooks]:
                registry.remove_hook(name, recurse=False)
    remove_hook_from_submodules(module)


def groups_of(module: nn.Module) -> dict[int, Any]:
    """Every group of a module, by the identity of each weight that it moves."""
    found: dict[int, Any] = {}
    for each in module.modules():
        registry = getattr(each, "_diffusers_hook", None)
        hook = None if registry is None else registry.get_hook("group_offloading")
        if hook is not None:
            for part in hook.group.modules:
                found |= {id(weight): hook.group for weight in part.parameters()}
    return found


MOVES = {"to", "cpu", "cuda", "pin_memory"}


class Watch(TorchFunctionMode):
    """The sites whose weight is moved (``moved``) or written to (``written``), as it happens."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        weights = {name.removesuffix(".weight"): each for name, each in module.named_parameters()}
        self.sites: dict[int, Site] = {id(weight): site for site, weight in weights.items()}
        self.weights = weights
        self.moved: list[Site] = []
        self.written: list[Site] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = getattr(func, "__name__", "")
        if name in MOVES or func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            self.moved += [self.sites[id(args[0])]] if id(args[0]) in self.sites else []
        into = (kwargs or {}).get("out", args[0] if name in {"copy_", "addmm_", "add_"} else None)
        if into is not None:
            self.written += [s for s, w in self.weights.items() if _within(into, w)]
        return func(*args, **(kwargs or {}))


def _within(tensor: torch.Tensor, weight: torch.Tensor) -> bool:
    memory = weight.untyped_storage().data_ptr()
    return memory != 0 and tensor.untyped_storage().data_ptr() == memory
