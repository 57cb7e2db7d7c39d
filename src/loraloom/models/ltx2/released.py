"""The released files of LTX-2 and LTX-2.3: one checkpoint, and beside it upsampler and adapter.

A file is known by what its header holds. Names tell only what to look for on the hub, and which of
several files is meant.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, get_args

from loraloom.errors import ModelError
from loraloom.models.folder import header, read_json

from . import coders, configs
from .configs import SCHEDULER, Clues, Version, version
from .names import MODEL, UNUSED, names, part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from loraloom.formats.header import Header

    from .configs import Config

CHECKPOINTS = (
    "ltx-2.3-22b-dev.safetensors",
    "ltx-2-19b-dev.safetensors",
    "ltx-2.3-22b-distilled-1.1.safetensors",
    "ltx-2.3-22b-distilled.safetensors",
    "ltx-2-19b-distilled.safetensors",
)
UPSAMPLERS = (
    "ltx-2.3-spatial-upscaler-x2-1.1.safetensors",
    "ltx-2.3-spatial-upscaler-x2-1.0.safetensors",
    "ltx-2-spatial-upscaler-x2-1.0.safetensors",
)
DISTILLED = (
    "ltx-2.3-22b-distilled-lora-384-1.1.safetensors",
    "ltx-2.3-22b-distilled-lora-384.safetensors",
    "ltx-2.3-20b-distilled-lora-384.safetensors",
    "ltx-2-19b-distilled-lora-384.safetensors",
)
"""Names of the releases, those to be preferred first."""

LATENT_UPSAMPLER = "latent_upsampler"
"""The folder of an upsampler in diffusers' layout."""

_RELEASE = re.compile(r"(?:^|-)ltx-(?P<number>2|2\.[3-9])-")


def checkpoint(root: Path, model: str) -> Header | None:
    """The checkpoint that lies in a folder, None if none does.

    Of several it is the one that is named as the full one of all, ``…-dev.safetensors``.

    Raises:
        ModelError: several are there, and not exactly one is named so.
    """
    held = _files(root, model, _is_checkpoint)
    full = [each for each in held if each.path.stem.endswith("-dev")]
    if len(held) > 1 and len(full) != 1:
        listed = ", ".join(each.path.name for each in held)
        raise ModelError(
            f"model {model!r} has {len(held)} checkpoints in {root} ({listed}), want one, or one "
            "whose name ends in -dev.safetensors"
        )
    return next(iter(full or held), None)


def upsampler(root: Path, model: str, release: Version) -> Path | None:
    """The folder or file of the upsampler for latents, None if there is none.

    Of several files, one named for ``release`` and of them the newest.
    """
    if (root / LATENT_UPSAMPLER / "config.json").is_file():
        return root / LATENT_UPSAMPLER
    return _newest(_files(root, model, _is_upsampler), release)


def distilled(root: Path, model: str, release: Version) -> Path | None:
    """The file of the distilled adapter, None if there is none; of several as :func:`upsampler`."""
    held = _files(root, model, _is_adapter)
    return _newest((each for each in held if "distilled" in each.path.name), release)


def _files(root: Path, model: str, are: Callable[[Header], bool]) -> list[Header]:
    found = (header(file, model) for file in sorted(root.glob("*.safetensors")))
    return [each for each in found if are(each)]


def _newest(held: Iterable[Header], release: Version) -> Path | None:
    def age(path: Path) -> tuple[bool, str]:
        return _named(path) == release, path.stem

    return max((each.path for each in held), key=age, default=None)


def _named(path: Path) -> Version | None:
    """The version that a file is named for."""
    match = _RELEASE.search(path.name)
    if match is None:
        return None
    return next((v for v in get_args(Version) if v.removesuffix(".0") == match["number"]), None)


def _is_checkpoint(file: Header) -> bool:
    return f"{MODEL}audio_patchify_proj.weight" in file.tensors


def _is_upsampler(file: Header) -> bool:
    """Whether it scales space alone: the releases have upsamplers of time, too."""
    if "post_upsample_res_blocks.0.conv1.weight" not in file.tensors:
        return False
    config = upsampler_config(file)
    return config["spatial_upsample"] and not config["temporal_upsample"]


def _is_adapter(file: Header) -> bool:
    return any(key.endswith(".lora_A.weight") for key in file.tensors)


def config(file: Header, of: str) -> Config:
    """The configuration of diffusers' class for one component of a checkpoint.

    Raises:
        ModelError: the file lacks what tells it, or its metadata is malformed.
    """
    if of == "scheduler":
        return dict(SCHEDULER)
    try:
        return _config(file, of)
    except (AttributeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise ModelError(
            f"the metadata of {of} in checkpoint '{file.path}' are malformed: {error}"
        ) from error


def _config(file: Header, of: str) -> Config:
    match of:
        case "connectors":
            return configs.connectors(_clues(file, of, "transformer"))
        case "vae":
            return coders.vae(_clues(file, of), _release(file))
        case "audio_vae":
            return coders.audio_vae(_clues(file, of))
        case "vocoder":
            return coders.vocoder(_clues(file, of))
    assert of == "transformer", of
    video = coders.vae(_clues(file, "vae"), _release(file))
    sound = coders.audio_vae(_clues(file, "audio_vae"))
    pixels = video["spatial_compression_ratio"]
    return {
        **configs.transformer(_clues(file, of)),
        "vae_scale_factors": [video["temporal_compression_ratio"], pixels, pixels],
        "audio_sampling_rate": sound["sample_rate"],
        "audio_hop_length": sound["mel_hop_length"],
    }


def _release(file: Header) -> Version:
    modulated = f"{MODEL}transformer_blocks.0.prompt_scale_shift_table" in file.tensors
    return version({"cross_attn_mod": modulated})


def _clues(file: Header, of: str, said_of: str = "") -> Clues:
    held = names(file.tensors, of)
    said = _said(file).get(said_of or of, {})
    shapes = {name: file.tensors[key].shape for name, key in held.items()}
    return Clues(f"{of} in checkpoint '{file.path}'", shapes, said)


def _said(file: Header) -> Mapping[str, Any]:
    """What ``config`` in the metadata says, by component."""
    try:
        said = json.loads(file.metadata.get("config", "{}"))
    except ValueError as error:
        raise ModelError(f"the metadata of '{file.path}' are no JSON: {error}") from error
    if not isinstance(said, dict):
        raise ModelError(f"the metadata of '{file.path}' hold no JSON object")
    return said


def upsampler_config(file: Header) -> Config:
    """Of a file that holds an upsampler alone, under the names that diffusers has, too."""
    shapes = {key: info.shape for key, info in file.tensors.items()}
    return coders.upsampler(Clues(f"upsampler '{file.path}'", shapes, _said(file)))


def upsampler_said(path: Path, model: str) -> Config:
    """The configuration of the upsampler in a folder or a file.

    Raises:
        ModelError: it cannot be read.
    """
    if path.is_dir():
        return read_json(path / "config.json", model)
    return upsampler_config(header(path, model))


def told(path: Path, model: str) -> Version | None:
    """The version that an upsampler says it is of, in its metadata or by its name."""
    said = {} if path.is_dir() else header(path, model).metadata
    number = said.get("model_version", "")
    return next((v for v in get_args(Version) if number.startswith(v)), None) or _named(path)


def parts(file: Header) -> set[str]:
    """The components that a checkpoint holds, and the scheduler, which is as in all releases."""
    return {found for key in file.tensors if (found := part(key))} | {"scheduler"}


def strangers(file: Header) -> list[str]:
    """Tensors of a checkpoint that no component takes, or that are there under a second name."""
    taken = {key for of in parts(file) for key in names(file.tensors, of).values()}
    return [key for key in file.tensors if key not in taken and not UNUSED.fullmatch(key)]
