"""What a model and its adapters take, from the headers of their files. No torch here."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from loraloom.memory.residency import live_budget
from loraloom.memory.staging import Sizes

from .checkpoint import held
from .find import name_table, upsampler
from .folder import header

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loraloom.core.request import Canvas
    from loraloom.core.stage import Stages
    from loraloom.formats.names import NameTable
    from loraloom.formats.reading import Reading

    from .card import Card

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of a number of each type that models are computed in."""

WEIGHTLESS = ("tokenizer", "tokenizer_2", "scheduler")
UPSAMPLER = "latent_upsampler"


def sizes(card: Card, brought: Sequence[Reading], own: Sequence[Reading], dtype: str) -> Sizes:
    """Bytes of a model, of the adapters that requests bring, and of those of its stages.

    Raises:
        ModelError: the files of a component cannot be read.
    """
    width = BYTES[dtype]
    folders = {part: card.root / part for part in card.family.parts if part not in WEIGHTLESS}
    numbers = {part: _numbers(folder, card) for part, folder in folders.items()}
    if card.upsampler is not None:
        numbers[UPSAMPLER] = _numbers(upsampler(card), card)
    names = name_table(card)
    changed = {entry.place for reading in own for entry in reading.entries}
    users, stages = (width * sum(_factors(e, names) for e in some) for some in (brought, own))
    # several are laid side by side as well, as long as their budget has room for that
    room = live_budget(width * numbers[card.family.wears[0]])
    times = 2 if len([*brought, *own]) > 1 and 2 * (users + stages) <= room else 1
    return Sizes(
        {part: width * count for part, count in numbers.items()},
        adapters=times * users,
        own=times * stages,
        changed=width * sum(prod(names.shape(place)) for place in changed),
    )


def uses(card: Card, stages: Stages) -> tuple[tuple[str, ...], ...]:
    """The components of every act of a run through ``stages``, whose requests may show images."""
    parts = card.family.parts
    acts: list[tuple[str, ...]] = [tuple(p for p in parts if p.startswith("text_encoder"))]
    before = stages[0]
    for stage in stages:
        if stage.size != before.size:
            acts.append((UPSAMPLER,) if card.upsampler is not None else ("vae",))
        if stage.sigmas is not None and "connectors" in parts:
            acts.append(("connectors", "vae"))  # small both, and the second for images alone
        acts.append((stage.component or card.family.wears[0],))
        before = stage
    acts.append(("vae",))
    heard = tuple(part for part in ("audio_vae", "vocoder") if part in parts)
    return tuple(acts) + ((heard,) if heard else ())


def working(card: Card, canvas: Canvas, dtype: str) -> int:
    """About how many bytes one video takes beside weights and adapters, while it is computed.

    A rule of thumb, measured: a transformer holds at most two dozen numbers for every token and
    channel at once, a VAE that decodes or encodes at most 44 for every pixel.
    """
    config, width = card.config, BYTES[dtype]
    heads, size = (
        config.get(f"{part}", 1) for part in ("num_attention_heads", "attention_head_dim")
    )
    frames = card.grid.latent(canvas.frames - 1) + 1
    tokens = frames * (canvas.width // card.grid.pixels) * (canvas.height // card.grid.pixels)
    pixels = canvas.frames * canvas.width * canvas.height
    return width * max(24 * tokens * int(heads) * int(size), 44 * pixels)


def mixes(stages: Stages) -> int:
    """How many different mixes ``stages`` bring."""
    return len({stage.wears for stage in stages if any(lora.strength for lora in stage.wears)})


def _factors(reading: Reading, names: NameTable) -> int:
    """Numbers in the factors of an adapter."""
    total = 0
    for entry in reading.entries:
        out, *width = names.shape(entry.place)
        total += entry.rank * (out + prod(width))
    return total


def _numbers(path: Path, card: Card) -> int:
    """Numbers in a component's folder, or in the one file that it is."""
    if path.is_file():
        return sum(prod(info.shape) for info in header(path, card.name).tensors.values())
    return sum(prod(each.shape) for each in held(path, card.name).values())
