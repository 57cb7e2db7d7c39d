"""What every training stage shares: a wall-time budget, float32 masters, Muon, contact sheets."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

Choose = Callable[[str, nn.Parameter], bool]


@dataclass(slots=True)
class Budget:
    """Progress by wall time, so that a schedule always ends inside its minutes."""

    minutes: float
    warmup: float = 0.02
    start: float = field(default_factory=time.monotonic)

    @property
    def progress(self) -> float:
        return min(1.0, (time.monotonic() - self.start) / (60 * self.minutes))

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def rate(self, floor: float = 0.02) -> float:
        """Linear warm-up, flat to 40 %, then cosine to `floor`."""
        done = self.progress
        fall = max(0.0, (done - 0.4) / 0.6)
        return min(1.0, (done + 1e-3) / self.warmup) * (
            floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fall))
        )


def orthogonalise(matrix: Tensor) -> Tensor:
    """Five quintic Newton-Schulz steps (Jordan, Muon) on a batch of wide matrices [N, R, C]."""
    x = matrix.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.float()


@dataclass(frozen=True, slots=True)
class Rates:
    matrix: float
    other: float
    decay: float = 0.0


class Masters:
    """float32 copies of bfloat16 parameters; Muon for the matrices, AdamW for the rest."""

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], rates: Rates, muon: Choose
    ) -> None:
        pairs = [(name, p) for name, p in named if p.requires_grad]
        self.live = [p for _, p in pairs]
        self.copies = [p.detach().float().clone() for p in self.live]
        self.rates = rates
        chosen = [muon(name, p) for name, p in pairs]
        self.groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, (yes, p) in enumerate(zip(chosen, self.live, strict=True)):
            if yes:
                rows, columns = p.shape[0], p[0].numel()
                self.groups[min(rows, columns), max(rows, columns)].append(index)
        self.momenta = [torch.zeros_like(c) for c in self.copies]
        self.rest = [i for i, yes in enumerate(chosen) if not yes]
        self.adam = torch.optim.AdamW(
            [self.copies[i] for i in self.rest], lr=1.0, betas=(0.9, 0.98), weight_decay=0.0
        )

    @torch.no_grad()
    def step(self, rate: float, clip: float = 1.0) -> float:
        """Apply the gradients in the live parameters at `rate` of the full rates."""
        grads = [torch.zeros_like(c) if p.grad is None else p.grad.float() for p, c in self.pairs()]
        norm = float(torch.stack([g.norm() for g in grads]).norm())
        if not math.isfinite(norm):
            self.clear()
            return norm
        if norm > clip:
            torch._foreach_mul_(grads, clip / norm)
        for index in self.rest:
            self.copies[index].grad = grads[index]
        for group in self.adam.param_groups:
            group["lr"] = self.rates.other * rate
        self.adam.step()
        for shape, indices in self.groups.items():
            self._muon(shape, indices, grads, rate * self.rates.matrix)
        for p, c in self.pairs():
            p.copy_(c)
        self.clear()
        return norm

    def _muon(
        self, shape: tuple[int, int], indices: list[int], grads: list[Tensor], lr: float
    ) -> None:
        for i in indices:
            self.momenta[i].lerp_(grads[i], 0.05)
        mixed = [grads[i].lerp(self.momenta[i], 0.95) for i in indices]
        nesterov = [m.reshape(m.shape[0], -1) for m in mixed]
        tall = [m.shape[0] > m.shape[1] for m in nesterov]
        stack = torch.stack([m.mT if t else m for m, t in zip(nesterov, tall, strict=True)])
        update = orthogonalise(stack) * 0.2 * math.sqrt(shape[1])
        for i, u, t in zip(indices, update, tall, strict=True):
            self.copies[i].mul_(1 - lr * self.rates.decay)
            self.copies[i].sub_((u.mT if t else u).reshape(self.copies[i].shape), alpha=lr)

    def pairs(self) -> Iterable[tuple[nn.Parameter, Tensor]]:
        return zip(self.live, self.copies, strict=True)

    def clear(self) -> None:
        for p in self.live:
            p.grad = None


class Average:
    """Exponential average of the masters; the horizon grows with the run."""

    def __init__(self, masters: Masters, horizon: float = 250) -> None:
        self.masters, self.horizon, self.steps = masters, horizon, 0
        self.values = [c.clone() for c in masters.copies]

    def update(self) -> None:
        self.steps += 1
        weight = 1 / min(self.horizon, 1 + self.steps / 5)
        torch._foreach_lerp_(self.values, self.masters.copies, weight)

    @torch.no_grad()
    def write(self) -> None:
        """Put the averages into the live parameters."""
        for p, value in zip(self.masters.live, self.values, strict=True):
            p.copy_(value)


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def sheet(rows: list[list[Tensor]], path: Path, scale: int = 1) -> None:
    """Save rows of [3, H, W] pictures in -1..1 as one image."""
    image = torch.cat([torch.cat(row, -1) for row in rows], -2).float()
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    made = Image.fromarray(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.resize((made.width * scale, made.height * scale), Image.Resampling.NEAREST).save(path)
