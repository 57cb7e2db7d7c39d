"""From a name, a folder or a hub id to a card. Reads configurations and headers, no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from loraloom.core.request import Canvas, Sampling
from loraloom.errors import AdapterFileError, ModelError
from loraloom.formats.header import read_header
from loraloom.formats.names import NameTable

from .card import Card, Defaults, Grid
from .ltx2 import LTX2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loraloom.core.mix import Shape, Site

FAMILIES = (LTX2,)
BUNDLED = {"mini": Path(__file__).parent / "mini" / "weights"}
"""Models that come with the package, by name."""

_ENDS = 1 << 20


def card(model: str) -> Card:
    """The card of a bundled model, of a folder in diffusers' layout, or of a hub id.

    Raises:
        ModelError: there is no such model, it is of no known family, or a component is missing.
    """
    root = _root(model)
    index = _json(root / "model_index.json", model)
    kind = index.get("_class_name")
    family = next((each for each in FAMILIES if kind in each.pipelines), None)
    if family is None:
        known = ", ".join(name for each in FAMILIES for name in each.pipelines)
        raise ModelError(f"model {model!r} is a {kind}, want one of {known}")
    missing = [part for part in family.parts if not (root / part).is_dir()]
    if missing:
        raise ModelError(
            f"model {model!r} lacks the component {', '.join(missing)} in {root}; "
            f"{family.name} wants {', '.join(family.parts)}"
        )
    said = _json(root / "loraloom.json", model) if (root / "loraloom.json").is_file() else {}
    return Card(
        name=model,
        root=root,
        family=replace(family, options={**family.options, **said.get("options", {})}),
        grid=_grid(root, model),
        defaults=_defaults(family.defaults, said),
        version=_version(root),
        adapters={path.name: path for path in sorted((root / "adapters").glob("*/"))},
    )


def name_table(of: Card) -> NameTable:
    """The sites of a model and their shapes, from the headers of its checkpoints.

    Raises:
        ModelError: a checkpoint of a component cannot be read.
    """
    components = {part: _sites(of.root / part, of.name) for part in of.family.wears}
    return NameTable(components=components, default=of.family.wears[0])


def _root(model: str) -> Path:
    if model in BUNDLED:
        return BUNDLED[model]
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise ModelError(
            f"model {model!r} is no folder, no hub id of the form owner/name and not bundled; "
            f"bundled are {', '.join(BUNDLED)}"
        )
    try:
        return Path(snapshot_download(model, ignore_patterns=["*.bin", "*.ckpt", "*.pt"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"model {model!r} cannot be fetched from the hub: {reason}") from error


def _json(path: Path, model: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"model {model!r} lacks {path.name} in {path.parent}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} of model {model!r} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} of model {model!r} holds no JSON object")
    return content


def _defaults(family: Defaults, said: Mapping[str, Any]) -> Defaults:
    """The family's defaults where the model's own ``loraloom.json`` says nothing else."""
    return Defaults(
        picture=Canvas(**said["picture"]) if "picture" in said else family.picture,
        video=Canvas(**said["video"]) if "video" in said else family.video,
        sampling=Sampling(**said["sampling"]) if "sampling" in said else family.sampling,
        negative_prompt=said.get("negative_prompt", family.negative_prompt),
    )


def _grid(root: Path, model: str) -> Grid:
    """The VAE's compression as its class computes it, of which pipelines want 32 at least."""
    config = _json(root / "vae" / "config.json", model)
    halvings = sum(config.get("spatio_temporal_scaling", (True, True, True)))
    pixels = config.get("spatial_compression_ratio") or config.get("patch_size", 4) * 2**halvings
    frames = config.get("temporal_compression_ratio") or config.get("patch_size_t", 1) * 2**halvings
    scheduler = _json(root / "scheduler" / "scheduler_config.json", model)
    # stretching the sigmas to a terminal value divides by what one step leaves: zero
    steps = 2 if scheduler.get("shift_terminal") else 1
    return Grid(pixels=max(pixels, 32), frames=frames, steps=steps)


def _version(root: Path) -> str:
    """A digest that tells two states of a folder apart without reading all of its weights.

    Configurations count whole, other files by name, size and both ends.
    """
    sha = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if not path.is_file() or "adapters" in path.relative_to(root).parts:
            continue
        size = path.stat().st_size
        sha.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            sha.update(file.read(_ENDS))
            file.seek(max(size - _ENDS, 0))
            sha.update(file.read(_ENDS))
    return sha.hexdigest()


def _sites(folder: Path, model: str) -> dict[Site, Shape]:
    """Every ``weight`` of two axes or more in the checkpoints of one component."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"model {model!r} has no *.safetensors in {folder}")
    sites: dict[Site, Shape] = {}
    for file in files:
        try:
            tensors = read_header(file).tensors
        except AdapterFileError as error:
            raise ModelError(f"model {model!r}: {error}") from error
        for key, info in tensors.items():
            if key.endswith(".weight") and len(info.shape) >= 2:
                sites[key.removesuffix(".weight")] = info.shape
    return sites
