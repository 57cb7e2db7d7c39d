"""Where a weight is while a tool moves it about: where to wear beside it, and where to write it.

The tools are diffusers' group offloading and layerwise casting, and accelerate's offloading of
whole models and of single layers. What they hang on modules is only read here, and what decides is
pure; neither package is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from loraloom.core.mix import Site


class Rest(Enum):
    """Where the bytes of a weight are between two calls of its layer."""

    LAYER = "in the layer"
    AWAY = "in the layer, but fetched from its group's memory, to which it has yet to go back"
    FILE = "in a file of its offloaded group"
    MAP = "in accelerate's map of offloaded weights"
    CAST = "in a type that it is only stored in"
    NOWHERE = "not in memory"

    @property
    def writable(self) -> bool:
        """Whether what is written to the weight is there at the next call."""
        return self in {Rest.LAYER, Rest.AWAY}


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that diffusers moves together.

    Attributes:
        onload: where they compute.
        offload: where they are otherwise.
        filed: otherwise they are in a file alone.
        copied: the group keeps its weights in memory of its own, and the weight is a copy now.
    """

    onload: torch.device
    offload: torch.device
    filed: bool = False
    copied: bool = False


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What tells where one weight is.

    Attributes:
        device: where it is now.
        runs: where a tool other than a group says that the layer computes.
        mapped: it is taken out of a map for every call.
        cast: it is cast to another type for every call.
        group: the group that the layer belongs to.
    """

    device: torch.device
    runs: torch.device | None = None
    mapped: bool = False
    cast: bool = False
    group: Group | None = None


def onload(facts: Whereabouts) -> torch.device:
    """Where the layer computes, so that what acts beside its weight is made ready there."""
    said = facts.runs if facts.group is None else facts.group.onload
    if said is not None:
        return said
    return torch.device("cpu") if facts.device.type == "meta" else facts.device


def rest(facts: Whereabouts) -> Rest:
    """Where the weight's bytes are, so that they can be written there, or not at all."""
    if facts.cast:
        return Rest.CAST
    if facts.mapped:
        return Rest.MAP
    group = facts.group
    if group is not None and group.filed:
        return Rest.FILE
    if facts.device.type == "meta":
        return Rest.NOWHERE
    if group is not None and (group.copied or facts.device != group.offload):
        return Rest.AWAY
    return Rest.LAYER


def hooked(module: nn.Module, site: Site) -> list[nn.Module]:
    """The layer at ``site`` of ``module``, and outwards what holds it, where a tool left hooks."""
    found, at = [module], module.__dict__
    for name in site.split(".") if site else ():
        found.append(at["_modules"][name])  # at every change: getattr takes longer
        at = found[-1].__dict__
    return [each for each in found[::-1] if marked(each.__dict__)]


def marked(module: Mapping[str, Any]) -> bool:
    """Whether tools left hooks among the attributes of a module."""
    return "_diffusers_hook" in module or "_hf_hook" in module


def look(weight: Tensor, above: Sequence[nn.Module]) -> Whereabouts:
    """The whereabouts of a weight; ``above`` is what :func:`hooked` gives."""
    hooks = [(module, hook) for module in above for hook in _accelerate(module)]
    runs = (getattr(hook, "execution_device", None) for _, hook in hooks)
    said = next((device for device in runs if device is not None), None)
    group = _group(above)
    return Whereabouts(
        weight.device,
        runs=None if said is None else torch.device(said),
        mapped=any(_takes(hook, module, weight) for module, hook in hooks),
        cast=casting(above) is not None,
        group=None if group is None else _described(group, weight),
    )


def casting(above: Sequence[nn.Module]) -> torch.dtype | None:
    """The type that a weight is cast to for every call, ``None`` where it stays as it is."""
    for module in above:
        for hook in (_diffusers(module, "layerwise_casting"), *_accelerate(module)):
            kind = getattr(hook, "compute_dtype", None)
            if isinstance(kind, torch.dtype):
                return kind
    return None


def settle(weight: Tensor, above: Sequence[nn.Module]) -> None:
    """Let the weight's group go back to where it rests, so that what is written there stays."""
    group = _group(above)
    if group is None or rest(look(weight, above)) is not Rest.AWAY:
        return
    if group.stream is not None:
        group.stream.synchronize()  # it may still be fetching from the memory to be written to
    group.offload_()


def follow(weight: nn.Parameter, before: nn.Parameter, above: Sequence[nn.Module]) -> None:
    """Let ``weight``, which replaces ``before``, lie where that does, in its group too."""
    if weight is before:
        return
    weight.data = weight.data.to(before.device)
    group = _group(above)
    if group is None or group.stream is None:
        return
    if not group.low_cpu_mem_usage:
        weight.data = weight.data.pin_memory()
    group.cpu_param_dict[weight] = weight.data
    if not any(before is other for module in group.modules for other in module.parameters()):
        group.cpu_param_dict.pop(before, None)


def _takes(hook: Any, module: nn.Module, weight: Tensor) -> bool:
    """Whether accelerate's hook of ``module`` takes ``weight`` out of its map for every call."""
    if getattr(hook, "offload", False) is not True:
        return False
    own = module.parameters(recurse=hook.place_submodules)
    return any(weight is each for each in own)


def _described(group: Any, weight: Tensor) -> Group:
    kept = group.cpu_param_dict.get(weight) if type(weight) is nn.Parameter else None
    return Group(
        group.onload_device,
        group.offload_device,
        filed=group.offload_to_disk_path is not None,
        copied=kept is not None and kept.data_ptr() != weight.data_ptr(),
    )


def _group(above: Sequence[nn.Module]) -> Any | None:
    """The group that moves a layer: that of the nearest module that has one."""
    hooks = (_diffusers(module, "group_offloading") for module in above)
    return next((hook.group for hook in hooks if hook is not None), None)


def _diffusers(module: nn.Module, name: str) -> Any | None:
    registry = vars(module).get("_diffusers_hook")
    return None if registry is None else registry.get_hook(name)


def _accelerate(module: nn.Module) -> Iterator[Any]:
    hook = vars(module).get("_hf_hook")
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))
