"""From a name, a folder or a hub id to a card. Reads configurations and headers, no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from loraloom.core.records import record
from loraloom.errors import ModelError, RecordError
from loraloom.formats.names import NameTable

from .card import PIPELINE, Card, Defaults
from .checkpoint import config, held
from .flux import FLUX
from .folder import first_line, read_json
from .ltx2 import released
from .ltx2.configs import version
from .ltx2.family import DISTILLED, LTX2
from .ltx2.names import FOREIGN
from .wan import FOREIGN as WAN_FOREIGN
from .wan import WAN, WAN_SINGLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loraloom.core.mix import Shape, Site

    from .card import Configs, Family
    from .ltx2.configs import Version

FAMILIES = (LTX2, WAN, WAN_SINGLE, FLUX)
SPELLINGS = {"ltx2": FOREIGN, "wan": WAN_FOREIGN}
"""How others spell the layers of a family, by its name."""

BUNDLED = {"mini": Path(__file__).parent / "mini" / "weights"}
"""Models that come with the package, by name."""

_ENDS = 1 << 20

SMALL = ("model_index.json", "loraloom.json", "adapters/*")
PICKLES = ["*.bin", "*.ckpt", "*.pt", "*.pth"]
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
MARKS = {
    "tokenizer": _TOKENIZER,
    "tokenizer_2": _TOKENIZER,
    "scheduler": ("scheduler_config.json",),
}
"""The file without which a component is not there; else ``config.json``."""


def card(model: str) -> Card:
    """The card of a bundled model, of a folder or of a hub id.

    A folder has diffusers' layout, or holds a released checkpoint with the text encoder beside it.

    Raises:
        ModelError: there is no such model, it is of no known family, or a component is missing.
    """
    root = _root(model)
    family = _family(root, model)
    if _is_hub_id(model):
        root = _fetch_all(model, family)
    _check_parts(root, family, model)
    said = root / "loraloom.json"
    configs = _configs(root, model)
    transformer = configs(family.wears[0])
    return Card(
        name=model,
        root=root,
        family=family,
        grid=family.grid(configs),
        defaults=_recommended(said, model) if said.is_file() else family.defaults(configs),
        version=_version(root, family, model),
        adapters=_adapters(root, model, version(transformer)),
        config=transformer,
        upsampler=released.upsampler(root, model, version(transformer)),
    )


def name_table(of: Card) -> NameTable:
    """The sites of a model and their shapes, from the headers of its checkpoints.

    Raises:
        ModelError: a checkpoint of a component cannot be read.
    """
    return NameTable(
        components={part: _sites(of.root / part, of.name) for part in of.family.wears},
        default=of.family.wears[0],
        foreign=SPELLINGS.get(of.family.name, ()),
    )


def upsampler(of: Card) -> Path:
    """Where the model's upsampler lies, if there is one that doubles its latents.

    Raises:
        ModelError: there is none, or it takes other latents, scales otherwise or is of another
            version.
    """
    if of.upsampler is None:
        names = ", ".join((f"{released.LATENT_UPSAMPLER}/config.json", *released.UPSAMPLERS))
        raise ModelError(f"model {of.name!r} has no upsampler in {of.root}; looked for {names}")
    said = {**_UPSAMPLER, **released.upsampler_said(of.upsampler, of.name)}
    vae = {"latent_channels": 128, **config(of.root / "vae", of.name)}
    who = f"upsampler '{of.upsampler}' does not fit model {of.name!r} in {of.root}"
    if said["in_channels"] != vae["latent_channels"]:
        got = f"it takes {said['in_channels']} channels"
        raise ModelError(f"{who}: {got}, the latents have {vae['latent_channels']}")
    if (said["rational_spatial_scale"], said["temporal_upsample"]) != (2.0, False):
        time = " and doubles the frames" if said["temporal_upsample"] else ""
        scale = f"it scales by {said['rational_spatial_scale']:g}{time}"
        raise ModelError(f"{who}: {scale}, want by 2 in space alone")
    told, release = released.told(of.upsampler, of.name), version(of.config)
    if told not in (None, release):
        raise ModelError(f"{who}: it is of version {told}, the model of {release}")
    return of.upsampler


_UPSAMPLER = {"in_channels": 128, "rational_spatial_scale": 2.0, "temporal_upsample": False}
"""What diffusers' class takes where a configuration says nothing."""


def distilled(of: Card) -> Path:
    """The distilled adapter that comes with the model.

    Raises:
        ModelError: there is none.
    """
    if DISTILLED not in of.adapters:
        names = ", ".join((f"adapters/{DISTILLED}/", *released.DISTILLED))
        raise ModelError(
            f"model {of.name!r} has no distilled adapter in {of.root}; looked for {names}"
        )
    return of.adapters[DISTILLED]


def _sites(folder: Path, model: str) -> dict[Site, Shape]:
    """Every ``weight`` of two axes or more in the checkpoint of one component."""
    return {
        name.removesuffix(".weight"): place.shape
        for name, place in held(folder, model).items()
        if name.endswith(".weight") and len(place.shape) >= 2
    }


def _family(root: Path, model: str) -> Family:
    index = root / "model_index.json"
    if not index.is_file() and released.checkpoint(root, model):
        return LTX2
    if not index.is_file():
        names = ", ".join(released.CHECKPOINTS)
        raise ModelError(
            f"model {model!r} lacks {index.name} in {root} and is no released checkpoint such as "
            f"{names}"
        )
    said = read_json(index, model)
    kind = said.get("_class_name")
    families = [each for each in FAMILIES if kind in each.pipelines]
    if not families:
        known = ", ".join(dict.fromkeys(name for each in FAMILIES for name in each.pipelines))
        raise ModelError(f"model {model!r} is a {kind}, want one of {known}")
    listed = {part for part, value in said.items() if value not in (None, [None, None])}
    return next((each for each in families if listed.issuperset(each.parts)), families[0])


def _adapters(root: Path, model: str, release: Version) -> Mapping[str, Path]:
    """What lies under ``adapters``, and the distilled adapter as it is released."""
    own = {path.name: path for path in sorted((root / "adapters").glob("*/"))}
    file = released.distilled(root, model, release)
    return {DISTILLED: file, **own} if file else own


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
    root = _fetch(model, SMALL)
    indexed = (root / "model_index.json").is_file()
    return root if indexed else _fetch_first(model, released.CHECKPOINTS)


def _fetch_all(model: str, family: Family) -> Path:
    """What a model consists of; of the releases' files only those that are preferred."""
    wanted = (*family.parts, released.LATENT_UPSAMPLER)
    root = _fetch(model, [*SMALL, *(f"{part}/*" for part in wanted)])
    if not (root / released.LATENT_UPSAMPLER).is_dir():
        _fetch_first(model, released.UPSAMPLERS)
    if not (root / "adapters" / DISTILLED).is_dir():
        _fetch_first(model, released.DISTILLED)
    return root


def _fetch_first(model: str, names: Sequence[str]) -> Path:
    """A snapshot with the first of ``names`` that the hub has."""
    for name in names:
        root = _fetch(model, [*SMALL, name])
        if (root / name).is_file():
            break
    return root


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
    indexed = (root / "model_index.json").is_file()
    single = None if indexed else released.checkpoint(root, model)
    inside = released.parts(single) if single else set()
    missing = [
        f"{part} ({part}/{' or '.join(_marks(part))})"
        for part in family.parts
        if part not in inside and not any((root / part / name).is_file() for name in _marks(part))
    ]
    if missing:
        where = f"{root} and its {single.path.name}" if single else str(root)
        raise ModelError(
            f"model {model!r} lacks the component {', '.join(missing)} in {where}; "
            f"{family.name} wants {', '.join(family.parts)}"
        )


def _marks(part: str) -> tuple[str, ...]:
    return MARKS.get(part, ("config.json",))


def _recommended(path: Path, model: str) -> Defaults:
    try:
        said = record(Defaults, read_json(path, model), path.name)
    except RecordError as error:
        raise ModelError(f"model {model!r}: {error}, in {path.parent}") from error
    if not said.pipelines:
        raise ModelError(f"model {model!r}: {path.name} has no pipelines, in {path.parent}")
    return said


def _configs(root: Path, model: str) -> Configs:
    def said(part: str) -> Mapping[str, Any]:
        if part == PIPELINE:
            return read_json(root / "model_index.json", model)
        return config(root / part, model)

    return said


def _version(root: Path, family: Family, model: str) -> str:
    """A digest that tells two states of a folder apart without reading all of its weights.

    Each file of the model counts by name, size and both ends of its content.
    """
    sha = hashlib.sha256()
    files = [path for part in family.parts for path in sorted((root / part).rglob("*"))]
    single = None if (root / "model_index.json").is_file() else released.checkpoint(root, model)
    files += [single.path] if single else []
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
