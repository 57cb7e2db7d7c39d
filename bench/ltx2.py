"""The runtime on a transformer as large as LTX-2's, with random weights; CUDA only.

No file of 38 GB is written, so that there is no checkpoint to read pristine weights from. The
stages are those of the released model: the second wears the distilled adapter beside the style.
"""

from __future__ import annotations

import gc
from itertools import cycle
from typing import TYPE_CHECKING, Any

import torch
from diffusers import LTX2VideoTransformer3DModel

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import Applied, Mix, Part
from loraloom.lora.model import LoraModel

from .measure import AtMost, Clock, Row, Way
from .report import show
from .subject import COMPONENT, factors, targets

if TYPE_CHECKING:
    from .options import Options

RANKS = {"style": 32, "distilled": 384}
NEEDED = 1.8
"""Memory that is wanted, in bytes of the model: itself, the adapters twice, what fusing keeps."""
SWITCH_S = 1e-4
"""The most that a stage switch may take."""
EXTRA = 0.02
"""The most that fusing may take, as a share of the model and its adapters."""


@torch.no_grad()
def rows(options: Options) -> list[Row]:
    """None, and the reason on the screen, where they cannot be measured."""
    wanted = options.size == "ltx2" or (options.size == "full" and options.cuda)
    if not wanted or not options.chooses("ltx2"):
        return []
    if not options.cuda:
        print("ltx2: not measured, it wants a CUDA device")
        return []
    with torch.device("meta"):
        module: Any = LTX2VideoTransformer3DModel().to(torch.bfloat16)
    needed = NEEDED * sum(parameter.nbytes for parameter in module.parameters())
    gc.collect()
    torch.cuda.empty_cache()  # of the models that were measured before
    free, _ = torch.cuda.mem_get_info(options.device)
    if free < needed:
        print(f"ltx2: not measured, {free / 2**30:.0f} GiB are free, want {needed / 2**30:.0f}")
        return []
    made = _measured(_filled(module, options.device), Clock(options.device, options.runs))
    show(made)
    return made


def _filled(module: Any, device: str) -> Any:
    """Random weights where there was only their shape."""
    torch.manual_seed(0)
    module.to_empty(device=device).requires_grad_(requires_grad=False)
    for parameter in module.parameters():
        parameter.normal_(std=0.02)
    return module


def _measured(module: Any, clock: Clock) -> list[Row]:
    adapters = [_adapter(module, name, clock.device) for name in RANKS]
    loaded = torch.cuda.memory_allocated(clock.device)
    model = LoraModel(COMPONENT, module, {adapter.key: adapter for adapter in adapters})
    first, second = (
        Mix.of([Part(adapter.key, 1.0) for adapter in adapters[:count]]) for count in (1, 2)
    )
    peak = Row(
        "ltx2: peak while fusing, beyond model and adapters",
        _peak(model, Applied(fused=first), clock.device) / loaded - 1,
        None,
        AtMost(EXTRA),
        unit="share",
    )
    live = cycle([Applied.rows([mix]) for mix in (first, second)])
    fused = cycle([Applied(fused=mix) for mix in (first, second)])
    switch, refuse = clock.race(
        Way(lambda: model.become(next(live)), calls=4),
        Way(lambda: model.become(next(fused)), after=lambda: model.become(Applied()), calls=4),
    )
    return [
        Row("ltx2: stage switch, live", switch.median, None, AtMost(SWITCH_S), switch.spread),
        Row("ltx2: stage switch, fused", refuse.median, None, None, refuse.spread),
        peak,
    ]


def _adapter(module: Any, name: str, device: str) -> Adapter:
    generator = torch.Generator(device).manual_seed(RANKS[name])
    updates = {
        site: LowRank(*factors(layer.weight, RANKS[name], generator), 1.0)
        for site, layer in targets(module).items()
    }
    return Adapter.make(name, {COMPONENT: updates})


def _peak(model: LoraModel, want: Applied, device: str) -> int:
    """The most bytes on the device while ``want`` is reached; nothing is worn after it."""
    torch.cuda.reset_peak_memory_stats(device)
    model.become(want)
    most = torch.cuda.max_memory_allocated(device)
    model.become(Applied())
    return most
