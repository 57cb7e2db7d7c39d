"""All settings of a server: flags go before the environment, a TOML file, and the defaults.

The only place that reads the environment and settings files.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from loraloom.core.lora import Policy
from loraloom.engine.resources import Offload, Residency, parse_bytes
from loraloom.errors import InvalidRequestError, SettingsError, closest, hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PREFIX = "LORALOOM_"
"""Of every variable; none is left that begins so and means nothing."""

CONFIG = PREFIX + "CONFIG"
"""The variable that names a settings file where no flag does."""

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_bytes(value, "")
    except InvalidRequestError:
        raise ValueError("want bytes with a unit, e.g. 80G") from None


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)", value.strip())
    if found is None:
        raise ValueError("want seconds, or a number with s, m, h or d, e.g. 15m")
    return float(found[1]) * SECONDS[found[2]]


def _words(value: object) -> object:
    """One text holds several values as a shell's words, or as a JSON list."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.lstrip().startswith("[") else shlex.split(value)
    except ValueError:
        raise ValueError("want words as a shell reads them, or a JSON list") from None


def _path(value: object) -> object:
    if value == "":
        raise ValueError("want a path")
    return Path(value).expanduser() if isinstance(value, str | Path) else value


Bytes: TypeAlias = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
Seconds: TypeAlias = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Place: TypeAlias = Annotated[Path, BeforeValidator(_path)]
Words: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_words)]
Places: TypeAlias = Annotated[tuple[Place, ...], BeforeValidator(_words)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535)]


def _setting(said: str, shown: str = "", *, default: Any = None) -> Any:
    """A field, what help says of it, and how its value is shown there."""
    return Field(default, description=said, json_schema_extra={"shown": shown})


class Settings(BaseModel):
    """What a server is started with. Built by hand it holds what is given; :func:`load` reads."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    model: str = _setting("A bundled name, a folder or a hub id.", "MODEL", default="mini")

    host: str = _setting("Address to listen at.", "ADDRESS", default="127.0.0.1")
    port: Port = _setting("Where to listen; 0 is any that is free.", "NUMBER", default=8000)
    api_key_file: Place | None = _setting("Keys of clients, one a line.", "FILE")
    admin_key_file: Place | None = _setting(
        "Keys of those who may change adapters, one a line.", "FILE"
    )
    allowed_host: Words = _setting(
        "Another name that this server is called by; repeat for several.", "NAME", default=()
    )

    lora: Words = _setting(
        "Publish this adapter at the start; repeat for several.",
        "NAME[@COMPONENT]=PATH[:STRENGTH]",
        default=(),
    )
    default_lora: Words = _setting(
        "What requests wear that say nothing of adapters; repeat to mix.",
        "NAME[:STRENGTH]",
        default=(),
    )
    adapter_root: Places = _setting(
        "A folder whose adapters may be published by their path; repeat for several.",
        "FOLDER",
        default=(),
    )
    pipeline: str | None = _setting("Through which stages requests go that name none.", "NAME")
    allow_hub: bool = _setting("Whether adapters may be fetched from the hub.", default=False)
    offline: bool = _setting("Fetch nothing, take what was fetched before.", default=False)
    hub: str = _setting("Where the hub is.", "URL", default="https://huggingface.co")
    state: Place = _setting(
        "Where adapters, jobs and results are kept.", "FOLDER", default="~/.local/state/loraloom"
    )

    device: str = _setting("Where to compute.", "auto|cpu|cuda[:N]", default="auto")
    dtype: str | None = _setting(
        "The type to compute in; else float32 on a CPU, bfloat16 elsewhere.",
        "float32|bfloat16|float16",
    )
    device_budget: Bytes | None = _setting("Of adapters on the device, e.g. 4G.", "BYTES")
    host_budget: Bytes | None = _setting("Of adapters on the host, e.g. 16G.", "BYTES")
    residency: Residency = _setting("How what stages wear is kept.", default="original")
    offload: Offload = _setting("When components are on the device.", default="together")
    policy: Policy = _setting(
        "Wear adapters beside the weights, in them, or whichever is faster.", default="live"
    )
    warmup: bool = _setting("Make something small before saying ready.", default=True)

    max_queue: Count = _setting("Jobs that may wait.", "NUMBER", default=256)
    max_batch: Count = _setting("Results that are computed together.", "NUMBER", default=8)
    max_work: Count | None = _setting(
        "Frames × pixels × steps of one result.", "NUMBER", default=20_000_000_000
    )
    max_pixels: Count = _setting(
        "Of an image that is uploaded or asked for.", "NUMBER", default=2**24
    )
    max_upload: Bytes = _setting(
        "Of an adapter that is uploaded or fetched.", "BYTES", default="4G"
    )
    timeout: Seconds = _setting("For a job, waiting and running.", "SECONDS", default="10m")
    keep_for: Seconds = _setting("How long results are kept.", "SECONDS", default="7d")
    keep_bytes: Bytes = _setting("Of results that are kept.", "BYTES", default="10G")
    patience: Seconds = _setting("How long a stop waits for what runs.", "SECONDS", default="30s")
    resume: bool = _setting("Run again what the last stop interrupted.", default=False)

    log_format: Literal["text", "json"] = _setting("Of what is logged.", default="text")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "The least that is logged.", default="info"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("want no truth value")
        return value

    @field_validator("allowed_host")
    @classmethod
    def _hosts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if set(name) & set(",/"):  # a list that is one name, or an address, would match nothing
                raise ValueError(f"want names of hosts, e.g. loraloom.example, {name!r} is none")
        return names

    @field_validator("state")
    @classmethod
    def _from_anywhere(cls, state: Path) -> Path:
        return state.absolute()  # the catalogue holds absolute paths of what is kept in it


@dataclass(frozen=True, slots=True)
class Source:
    """Values by the names of settings, and how a setting is spelled where they come from."""

    values: Mapping[str, object]
    spelled: Callable[[str], str]
    where: str = ""

    def told(self, name: str) -> str:
        return f"{self.spelled(name)}{self.where}"


def load(
    flags: Mapping[str, object],
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings of a command line, an environment and a settings file.

    Args:
        flags: by the names of :class:`Settings`; ``None`` where a flag is not given.
        config: the settings file; ``None`` for that of ``LORALOOM_CONFIG``, if any.
        environment: in the place of this process's own.

    Raises:
        SettingsError: a value cannot be, or a name is unknown; it says of which source.
    """
    variables = os.environ if environment is None else environment
    given = {name: value for name, value in flags.items() if value is not None}
    sources = [Source(given, _flag), Source(_own(variables), _variable)]
    if path := config or _named(variables):
        sources.append(Source(_read(path), str, f" in {path}"))
    sources.append(Source(_usual(variables), USUAL.__getitem__))
    for source in sources:
        _check_names(source)
    said: dict[str, Source] = {}
    for source in sources:
        said = {**dict.fromkeys(source.values, source), **said}
    try:
        return Settings.model_validate({name: source.values[name] for name, source in said.items()})
    except ValidationError as error:
        raise SettingsError("; ".join(_refusals(error, said))) from None


def _flag(name: str) -> str:
    return "MODEL" if name == "model" else "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _own(variables: Mapping[str, str]) -> dict[str, str]:
    """Of the environment what is ours; an empty variable says nothing."""
    return {
        key.removeprefix(PREFIX).lower(): value
        for key, value in variables.items()
        if key.startswith(PREFIX) and key != CONFIG and value
    }


def _named(variables: Mapping[str, str]) -> Path | None:
    return Path(variables[CONFIG]).expanduser() if variables.get(CONFIG) else None


USUAL = {"hub": "HF_ENDPOINT", "offline": "HF_HUB_OFFLINE", "state": "XDG_STATE_HOME"}
"""Settings that other programs' variables speak of, too, and those variables."""


def _usual(variables: Mapping[str, str]) -> dict[str, object]:
    """What other programs' variables say, where nothing of ours does."""
    found: dict[str, object] = {}
    if endpoint := variables.get(USUAL["hub"]):
        found["hub"] = endpoint
    if variables.get(USUAL["offline"], "").lower() in {"1", "true", "yes", "on"}:
        found["offline"] = True
    if folder := variables.get(USUAL["state"]):
        found["state"] = Path(folder) / "loraloom"
    return found


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{path} is no TOML file: {error}") from None


def _check_names(source: Source) -> None:
    known = Settings.model_fields
    for name in source.values:
        if name not in known:
            near = [source.spelled(each) for each in closest(name.replace("-", "_"), known)]
            names = map(source.spelled, known)
            raise SettingsError(f"there is no setting {source.told(name)}{hint(near, names)}")


def _refusals(error: ValidationError, said: Mapping[str, Source]) -> Iterator[str]:
    for each in error.errors(include_url=False):
        name, wanted = str(each["loc"][0]), each["msg"].removeprefix("Value error, ")
        wanted = wanted.replace("Input should be", "want", 1).replace("Input", "this value", 1)
        yield f"{said[name].told(name)} is {said[name].values[name]!r}, {wanted}"
