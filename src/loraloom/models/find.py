"""From a name, a folder or a hub id to a card. Reads configurations and headers, no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from loraloom.core.records import record
from loraloom.errors import ModelError, RecordError
from loraloom.formats.names import NameTable

from .card import Card, Defaults, Grid
from .folder import first_line, read_json, sites
from .ltx2 import LTX2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .card import Family

FAMILIES = (LTX2,)
BUNDLED = {"mini": Path(__file__).parent / "mini" / "weights"}
"""Models that come with the package, by name."""

_ENDS = 1 << 20

SMALL = ("model_index.json", "loraloom.json", "adapters/*")
PICKLES = ["*.bin", "*.ckpt", "*.pt", "*.pth"]
MARKS = {
    "tokenizer": ("tokenizer.json", "tokenizer.model"),
    "scheduler": ("scheduler_config.json",),
}
"""The file without which a component is not there; else ``config.json``."""


def card(model: str) -> Card:
    """The card of a bundled model, of a folder in diffusers' layout, or of a hub id.

    Raises:
        ModelError: there is no such model, it is of no known family, or a component is missing.
    """
    root = _root(model)
    kind = read_json(root / "model_index.json", model).get("_class_name")
    family = next((each for each in FAMILIES if kind in each.pipelines), None)
    if family is None:
        known = ", ".join(name for each in FAMILIES for name in each.pipelines)
        raise ModelError(f"model {model!r} is a {kind}, want one of {known}")
    if _is_hub_id(model):
        root = _fetch(model, [*SMALL, *(f"{part}/*" for part in family.parts)])
    _check_parts(root, family, model)
    said = root / "loraloom.json"
    return Card(
        name=model,
        root=root,
        family=family,
        grid=_grid(root, model),
        defaults=_recommended(said, model) if said.is_file() else family.defaults,
        version=_version(root, family),
        adapters={path.name: path for path in sorted((root / "adapters").glob("*/"))},
    )


def name_table(of: Card) -> NameTable:
    """The sites of a model and their shapes, from the headers of its checkpoints.

    Raises:
        ModelError: a checkpoint of a component cannot be read.
    """
    components = {part: sites(of.root / part, of.name) for part in of.family.wears}
    return NameTable(components=components, default=of.family.wears[0])


def _root(model: str) -> Path:
    """The folder of a model; of a hub id only what says which family it is."""
    if model in BUNDLED:
        return BUNDLED[model]
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not _is_hub_id(model):
        raise ModelError(
            f"model {model!r} is no folder, no hub id of the form owner/name and not bundled; "
            f"bundled are {', '.join(BUNDLED)}"
        )
    return _fetch(model, SMALL)


def _is_hub_id(model: str) -> bool:
    spelled = model.count("/") == 1 and not model.startswith((".", "/", "~"))
    return spelled and model not in BUNDLED and not Path(model).exists()


def _fetch(model: str, patterns: Sequence[str]) -> Path:
    """A snapshot of what matches, from the hub or its cache; never pickles."""
    try:
        return Path(
            snapshot_download(model, allow_patterns=list(patterns), ignore_patterns=PICKLES)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model {model!r} cannot be fetched from the hub: {first_line(error)}"
        ) from error


def _check_parts(root: Path, family: Family, model: str) -> None:
    missing = [
        part
        for part in family.parts
        if not any((root / part / name).is_file() for name in MARKS.get(part, ("config.json",)))
    ]
    if missing:
        raise ModelError(
            f"model {model!r} lacks the component {', '.join(missing)} in {root}; "
            f"{family.name} wants {', '.join(family.parts)}"
        )


def _recommended(path: Path, model: str) -> Defaults:
    try:
        return record(Defaults, read_json(path, model), path.name)
    except RecordError as error:
        raise ModelError(f"model {model!r}: {error}, in {path.parent}") from error


def _grid(root: Path, model: str) -> Grid:
    """The VAE's compression as its class computes it, of which pipelines want 32 at least."""
    config = read_json(root / "vae" / "config.json", model)
    halvings = sum(config.get("spatio_temporal_scaling", (True, True, True)))
    pixels = config.get("spatial_compression_ratio") or config.get("patch_size", 4) * 2**halvings
    frames = config.get("temporal_compression_ratio") or config.get("patch_size_t", 1) * 2**halvings
    scheduler = read_json(root / "scheduler" / "scheduler_config.json", model)
    # stretching the sigmas to a terminal value divides by what one step leaves: zero
    steps = 2 if scheduler.get("shift_terminal") else 1
    return Grid(pixels=max(pixels, 32), frames=frames, steps=steps)


def _version(root: Path, family: Family) -> str:
    """A digest that tells two states of a folder apart without reading all of its weights.

    Each file of the model counts by name, size and both ends of its content.
    """
    sha = hashlib.sha256()
    files = [path for part in family.parts for path in sorted((root / part).rglob("*"))]
    for path in (*files, root / "model_index.json", root / "loraloom.json"):
        if not path.is_file():
            continue
        size = path.stat().st_size
        sha.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            sha.update(file.read(_ENDS))
            file.seek(max(size - _ENDS, 0))
            sha.update(file.read(_ENDS))
    return sha.hexdigest()
