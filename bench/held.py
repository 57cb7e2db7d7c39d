"""How many bytes are on a device, found by looking at every tensor that there is.

What a plan says is not asked: what was forgotten somewhere counts. On a CPU everything is in one
memory, and what a device would leave to the host does not count.
"""

from __future__ import annotations

import gc
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from loraloom.lora.homes import Copied
from loraloom.memory.residency import Home

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loraloom import Loom

INSIDE = ("", "decoder")
"""What of a component is called: VAEs are by their methods."""


@contextmanager
def watched(loom: Loom, others: int) -> Iterator[list[int]]:
    """The bytes on the device after every call of a component; ``others`` are not the loom's."""
    found: list[int] = []
    device = loom.pipe._execution_device.type

    def look(*_: object) -> None:
        host = () if device == "cuda" else on_host(loom)
        found.append(covered(tensors(device)) - covered(host) - others)

    with ExitStack() as hooks:
        for module in loom.denoiser.components.values():
            for name, inside in module.named_modules():
                if name in INSIDE:
                    hooks.callback(inside.register_forward_hook(look).remove)
        yield found


def tensors(device: str) -> Iterator[Tensor]:
    """Every tensor on a device that Python knows of."""
    for each in gc.get_objects():
        # isinstance would ask objects for their class, which wakes modules that load lazily
        if issubclass(type(each), Tensor) and each.device.type == device and _lies(each):
            yield each


def _lies(tensor: Tensor) -> bool:
    """Whether it lies in memory; what compilers leave behind does not."""
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


def on_host(loom: Loom) -> Iterator[Tensor]:
    """What would be in the host's memory: components and adapters at rest, and copies."""
    if loom.mover is not None:
        for rest in loom.mover.rests.values():
            yield from rest.resting.values()
    for model in loom.models:
        weights = model.weights
        if weights.ground.residency.home is Home.HOST:
            kept = (weights.copies.find(key) for key in list(weights.copies))
            yield from (copy for copy in kept if copy is not None)
            yield from (home.read() for home in weights.homes.values() if isinstance(home, Copied))
    ready = {key for model in loom.models for key in model.wardrobe.kept}
    for key, adapter in loom.adapters.by_key.items():
        if key not in ready:
            for updates in adapter.updates.values():
                yield from (part for update in updates.values() for part in update.tensors)


def covered(tensors: Iterable[Tensor]) -> int:
    """Bytes of memory that tensors lie in, every byte once."""
    spans = sorted((each.data_ptr(), each.data_ptr() + each.nbytes) for each in tensors)
    total = end = 0
    for start, stop in spans:
        total += max(stop - max(start, end), 0)
        end = max(end, stop)
    return total
