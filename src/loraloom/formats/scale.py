"""The scale of a layer: which alpha counts, and what is divided by."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.errors import AdapterConfigError, AdapterFileError, AdapterValueError

from .config import Config, config_of, wrong_alpha
from .objects import parse_object
from .source import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from loraloom.core.mix import Component

    from .header import Header
    from .names import NameTable, Place
    from .source import Source

METADATA = "lora_adapter_metadata"
"""Where diffusers writes the configurations of a file's components into the file itself."""

CODES = {
    "F16": "<e",
    "F32": "<f",
    "F64": "<d",
    "U8": "<B",
    "I8": "<b",
    "U16": "<H",
    "I16": "<h",
    "U32": "<I",
    "I32": "<i",
    "U64": "<Q",
    "I64": "<q",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """A layer's alpha and the factor that it gives.

    ``other`` is the factor that was said elsewhere for a layer that carries its own alpha.
    """

    alpha: float
    factor: float
    other: float | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What is said of alpha outside the layers: by the caller, beside the file, in the file."""

    given: float | None
    configs: Mapping[Component, tuple[Config, ...]]

    def scale(self, place: Place, rank: int, own: float | None) -> Scale:
        """The scale of a layer of ``rank`` whose ``.alpha`` tensor is ``own``.

        Its own alpha counts first, then the caller's, then the configurations', then the rank. A
        tensor of 0 says nothing, as absence does. rsLoRA divides by √rank, but not an own alpha:
        the trainers that write one have corrected it.

        Raises:
            AdapterConfigError: the configurations contradict the rank or each other.
        """
        alpha, root = self._said(place, rank)
        said = None if alpha is None else alpha / (math.sqrt(rank) if root else rank)
        if own:
            return Scale(own, own / rank, said)
        if alpha is not None and said is not None:
            return Scale(float(alpha), said)
        silent = self.configs.get(place.component, ())
        if silent:
            # the rank would be a guess where a configuration forgets what it is there to say
            raise AdapterConfigError(
                f"{silent[0].where}: lora_alpha is absent, want a finite number other than 0; "
                "an alpha given with the file counts instead"
            )
        return Scale(float(rank), 1.0)

    def _said(self, place: Place, rank: int) -> tuple[float | None, bool]:
        configs = self.configs.get(place.component, ())
        for config in configs:
            wanted = config.rank_of(place.site)
            if wanted is not None and wanted != rank:
                raise AdapterConfigError(
                    f"{config.where}: the rank of layer '{place}' is {wanted}, its tensors have "
                    f"{rank}"
                )
        alphas = {config.where: config.alpha_of(place.site) for config in configs}
        alpha = _agreed("lora_alpha", alphas, place)
        root = _agreed("use_rslora", {c.where: c.rslora for c in configs}, place)
        return (alpha if self.given is None else self.given), bool(root)


def rules_of(source: Source, names: NameTable, alpha: float | None) -> Rules:
    """What is said of alpha for the file at hand; ``alpha`` is the caller's word.

    Raises:
        AdapterConfigError: a configuration or ``alpha`` is malformed.
    """
    wanted = None if alpha is None else wrong_alpha(alpha)
    if wanted:
        raise AdapterConfigError(f"alpha for '{source.path}' is {alpha!r}, want {wanted}")
    beside: tuple[Config, ...] = ()
    if source.config is not None:
        beside = (config_of(source.config, f"'{CONFIG}' beside '{source.path}'"),)
    inside = _metadata(source.header, names)
    return Rules(alpha, {c: (*beside, *inside.get(c, ())) for c in names.components})


def scalars(header: Header, keys: Iterable[str]) -> Mapping[str, float]:
    """The values of tensors of one element, read without torch.

    Raises:
        AdapterConfigError: a tensor has more than one element or no numeric type.
        AdapterValueError: a value is NaN or infinite.
        AdapterFileError: the file has become shorter or cannot be read.
    """
    try:
        with header.path.open("rb") as file:
            values: dict[str, float] = {}
            for key in keys:
                info = header.tensors[key]
                if math.prod(info.shape) != 1 or info.dtype not in {*CODES, "BF16"}:
                    raise AdapterConfigError(
                        f"adapter file '{header.path}': {key!r} is {info.dtype} "
                        f"{list(info.shape)}, want one number"
                    )
                file.seek(info.start)
                values[key] = _scalar(
                    header.path, key, info.dtype, file.read(info.stop - info.start)
                )
            return values
    except OSError as error:
        raise AdapterFileError(f"adapter file '{header.path}' cannot be read: {error}") from error


def _scalar(path: Path, key: str, dtype: str, raw: bytes) -> float:
    # a bfloat16 is the upper half of a float32
    code, raw = ("<f", b"\0\0" + raw) if dtype == "BF16" else (CODES[dtype], raw)
    if len(raw) != struct.calcsize(code):
        raise AdapterFileError(f"adapter file '{path}' was changed while it was read")
    value = float(struct.unpack(code, raw)[0])
    if not math.isfinite(value):
        raise AdapterValueError(f"adapter file '{path}': {key!r} is {value}, want a finite number")
    return value


def _agreed(field: str, said: Mapping[str, float | None], place: Place) -> float | None:
    """The one value that all who speak give; None where nobody speaks."""
    values = {where: value for where, value in said.items() if value is not None}
    if len(set(values.values())) > 1:
        each = " and ".join(f"{value} in {where}" for where, value in values.items())
        raise AdapterConfigError(f"{field} of layer '{place}' is {each}, want one value")
    return next(iter(values.values()), None)


def _metadata(header: Header, names: NameTable) -> Mapping[Component, tuple[Config, ...]]:
    """The configurations in the file, spelled ``<component>.<field>`` or bare for the default."""
    text = header.metadata.get(METADATA)
    if text is None:
        return {}
    where = f"'{METADATA}' in '{header.path}'"
    try:
        fields = parse_object(text)
    except ValueError as error:
        raise AdapterConfigError(f"{where} is unreadable: {error}") from error
    said: dict[Component, dict[str, object]] = {}
    for name, value in fields.items():
        component, _, field = name.rpartition(".")
        said.setdefault(component or names.default, {})[field] = value
    ours = {component: each for component, each in said.items() if component in names.components}
    if said and not ours:
        raise AdapterConfigError(
            f"{where} speaks of {', '.join(sorted(said)[:8])[:200]}, "
            f"want {' or '.join(names.components)}"
        )
    return {c: (config_of(each, f"{where}, component {c!r}"),) for c, each in ours.items()}
