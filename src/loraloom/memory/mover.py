"""Carries out a plan: components come to the device before their act and leave it after."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn

from .staging import Act

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from .staging import Plan


@dataclass(eq=False)
class Rest:
    """One component that comes and goes; its weights rest in the memory that they were loaded to.

    What was not written to on the device need not travel back.

    Attributes:
        here: by tensor, how often it had been written to when it came; empty while it rests.
    """

    module: nn.Module
    device: torch.device
    resting: dict[Tensor, Tensor] = field(default_factory=dict)
    here: dict[Tensor, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.resting = {each: _pinned(each.data, self.device) for each in self._tensors()}
        self.leave()

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self.resting.values())

    def come(self) -> None:
        """Bring every tensor to the device; where that fails, all of them are at rest again."""
        try:
            for tensor in self._tensors():
                resting = self.resting.setdefault(tensor, tensor.data)
                there = torch.empty_like(resting, device=self.device)
                tensor.data = there.copy_(resting, non_blocking=True)
                self.here[tensor] = tensor._version
        except BaseException:
            self.leave()
            raise

    def arrive(self, stream: torch.cuda.Stream | None) -> None:
        """Wait for what came meanwhile on ``stream``, and let its memory be used here."""
        if stream is None:
            return
        now = torch.cuda.current_stream()
        now.wait_stream(stream)
        for tensor in self._tensors():
            tensor.data.record_stream(now)

    def leave(self) -> None:
        """Let go of the device's memory."""
        for tensor in self._tensors():
            resting = self.resting.get(tensor)
            if resting is None or tensor._version != self.here.get(tensor, tensor._version):
                resting = self.resting[tensor] = _pinned(tensor.data.to("cpu"), self.device)
            tensor.data = resting
        self.here.clear()

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.module.parameters()
        yield from self.module.buffers()


class Mover:
    """The components of a plan whose acts do not have all of them on the device.

    A hook on every component begins the next act that uses it when it is called, so that no call
    has to be told; :meth:`reach` is for what is done to a component before it is called.

    Args:
        modules: by name, on the host.
    """

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device, plan: Plan) -> None:
        self.plan = plan
        self.rests = {name: Rest(module, device) for name, module in modules.items()}
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.index = -1
        for name, module in modules.items():
            add_hook_to_module(module, _Arrival(self, name, device), append=True)

    @property
    def here(self) -> frozenset[str]:
        """What is on the device."""
        return frozenset(name for name, rest in self.rests.items() if rest.here)

    def reach(self, name: str) -> None:
        """Be in an act that uses a component: in this one, or in the next one that does."""
        acts = self.plan.acts
        if self.index >= 0 and name in acts[self.index].uses and self.rests[name].here:
            return
        following = [*range(self.index + 1, len(acts)), *range(self.index + 1)]
        found = [index for index in following if name in acts[index].uses]
        if not found:  # another run than the plan is for
            self._enter(Act((name,), frozenset((name,))))
            return
        self._enter(acts[found[0]])
        self.index = found[0]

    def _enter(self, act: Act) -> None:
        """Who leaves makes room for who comes; who comes ahead of its act does so meanwhile."""
        for name in self.here - act.present:
            self.rests[name].leave()
        for name in sorted(set(act.uses) & self.here):
            self.rests[name].arrive(self.stream)
        for name in sorted(set(act.uses) - self.here):
            self.rests[name].come()
        with torch.cuda.stream(self.stream) if self.stream is not None else nullcontext():
            for name in sorted(act.present - self.here):
                self.rests[name].come()

    def close(self) -> None:
        """Leave every component on the host, without hooks."""
        for rest in self.rests.values():
            remove_hook_from_module(rest.module)
            rest.leave()
        self.index = -1


class _Arrival(ModelHook):  # type: ignore[misc]  # untyped base
    """Has a component on the device before it is called; says where that is."""

    def __init__(self, mover: Mover, name: str, device: torch.device) -> None:
        self.mover = mover
        self.name = name
        self.execution_device = device

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        del module
        self.mover.reach(self.name)
        return args, kwargs


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Pinned memory travels to a GPU on its own while something else is computed there."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
