"""The ground truth of a check as a folder: latents, pictures, and what they were made with.

``record.json`` is written last: a folder without it is no record.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.core.records import record
from loraloom.errors import LoraloomError, MediaError, RecordError
from loraloom.pipelines import media

from .slot import Setting, Slot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .studio import Shot

NAME = "record.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture of a record; ``digest`` of its latents tells two records apart at a glance."""

    slot: Slot
    digest: str


@dataclass(frozen=True, slots=True)
class Record:
    """What a record's folder says of itself."""

    setting: Setting
    takes: tuple[Entry, ...]


def read(folder: Path) -> Record:
    """What the record in ``folder`` was made with.

    Raises:
        RecordError: there is none, or it is broken.
    """
    path = folder / NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{folder} holds no {NAME}: no record, or an incomplete one") from error
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is no JSON: {error}") from error
    try:
        return record(Record, data, NAME)
    except LoraloomError as error:
        raise RecordError(f"{path} is broken: {error}") from error


def shots(folder: Path, about: Record, slots: Sequence[Slot]) -> Mapping[Slot, Shot]:
    """The shots of ``slots``, all of them before any work is done.

    Raises:
        RecordError: the record lacks one, or a file of it cannot be read.
    """
    held = {entry.slot for entry in about.takes}
    for slot in slots:
        if slot not in held:
            raise RecordError(f"the record in {folder} lacks the picture of {slot}")
    return {slot: _shot(folder, about.setting, slot) for slot in slots}


def write(folder: Path, setting: Setting, made: Mapping[Slot, Shot]) -> None:
    """Store a check's shots, in place of a record that is there.

    Raises:
        MediaError: it cannot be written there.
    """
    from safetensors.torch import save_file  # noqa: PLC0415 - imports torch

    from loraloom.core.hashing import digest  # noqa: PLC0415 - imports torch

    check_folder(folder)
    try:
        (folder / NAME).unlink(missing_ok=True)
        entries = []
        for slot, shot in made.items():
            stem = _stem(setting, slot)
            latents = shot.latents.detach().cpu().contiguous()
            save_file({"latents": latents}, folder / f"{stem}.safetensors")
            media.save_sheet(shot.picture, folder / f"{stem}.png")
            entries.append(Entry(slot, digest([("latents", [latents])])))
        text = json.dumps(dataclasses.asdict(Record(setting, tuple(entries))), indent=1)
        (folder / NAME).write_text(text, encoding="utf-8")
    except OSError as error:
        raise MediaError(f"the record {folder} cannot be written: {error.strerror}") from error


def check_folder(folder: Path) -> None:
    """Make ``folder`` if it is absent, and return if files can be written to it.

    Raises:
        MediaError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"folder {folder} cannot be made: {error.strerror}") from error
    media.check_target(folder / "picture.png", "picture")


def _shot(folder: Path, setting: Setting, slot: Slot) -> Shot:
    from safetensors import SafetensorError  # noqa: PLC0415 - with the line below
    from safetensors.torch import load_file  # noqa: PLC0415 - imports torch

    from .studio import Shot  # noqa: PLC0415 - imports torch

    path = folder / f"{_stem(setting, slot)}.safetensors"
    try:
        held = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{path} of the record cannot be read: {_said(error)}") from error
    if held.keys() != {"latents"}:
        raise RecordError(f"{path} of the record holds {sorted(held)}, want latents")
    picture = media.load_image(path.with_suffix(".png"))
    canvas = setting.asked.canvas
    if picture.size != (canvas.width, canvas.height):
        raise RecordError(
            f"{path.with_suffix('.png')} of the record is {picture.width}x{picture.height}, "
            f"want {canvas.width}x{canvas.height}"
        )
    # a copy: a check may store its own record over the file that this is mapped from
    return Shot(held["latents"].clone(), picture)


def _stem(setting: Setting, slot: Slot) -> str:
    """A file name whatever the adapter is called; its number tells similar names apart."""
    number = [key.name for key in setting.adapters].index(slot.adapter) + 1
    return "-".join(
        re.sub(r"[^\w.]+", "_", word)
        for word in (f"{number}", slot.adapter, slot.path, slot.policy)
    )


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
