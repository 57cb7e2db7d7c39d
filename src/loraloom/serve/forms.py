"""Bodies, JSON or multipart, as one and the same schema; and the pictures that come with them."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import Message
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar

from PIL import ExifTags, Image
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from .errors import Refusal
from .failures import invalid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from starlette.requests import Request

S = TypeVar("S", bound=BaseModel)

JSON, FORM = "application/json", "multipart/form-data"

PICTURES = ("PNG", "JPEG", "WEBP")
"""The formats that pictures are taken in; every other decoder stays closed."""

FIELD_BYTES = 2**20
"""The most bytes of a form's field that is no file."""

UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where warnings are errors
)
"""What Pillow raises for a file that it can make no sense of."""


@dataclass(frozen=True, slots=True)
class Received(Generic[S]):
    """A body that fits its schema, and the files beside it, by their fields."""

    body: S
    files: Mapping[str, Sequence[UploadFile]] = field(default_factory=dict)


async def read_json(request: Request, schema: type[S]) -> S:
    """The body of a request that is JSON.

    Raises:
        Refusal: it is something else, or does not fit the schema.
    """
    check_type(request, JSON)
    return parsed(await request.body(), schema)


@asynccontextmanager
async def reading_form(
    request: Request, schema: type[S], files: Collection[str]
) -> AsyncIterator[Received[S]]:
    """The body of a request that is a form, whose ``files`` are there until the block ends.

    Raises:
        Refusal: it is something else, or does not fit the schema.
    """
    check_type(request, FORM)
    limits = {"max_files": 8, "max_fields": 100, "max_part_size": FIELD_BYTES}
    async with request.form(**limits) as form:
        fields: dict[str, Any] = {}
        held: dict[str, list[UploadFile]] = {}
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                _check_file(name, files)
                held.setdefault(name, []).append(value)
            else:
                _check_field(name, fields)
                fields[name] = meant(schema, name, value)
        yield Received(parsed(json.dumps(fields).encode(), schema), held)


def check_type(request: Request, *wanted: str) -> str:
    """The type of a body, one of ``wanted``.

    Raises:
        Refusal: it is another one.
    """
    message = Message()
    message["content-type"] = given = request.headers.get("content-type", "")
    kind = message.get_content_type() if given else "nothing"
    if kind not in wanted:
        raise Refusal(
            "unsupported_media_type",
            f"the body is said to be {kind[:100]}, want the header Content-Type: "
            f"{' or '.join(wanted)}",
        )
    return kind


def parsed(text: bytes, schema: type[S]) -> S:
    """JSON as its schema.

    Raises:
        Refusal: it does not fit.
    """
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False), schema) from error


def meant(schema: type[BaseModel], name: str, text: str) -> Any:
    """The JSON value that a form's field stands for: its text, where the schema takes a text."""
    known = _properties(schema).get(name, {})
    if any(each.get("type") == "string" for each in (known, *known.get("anyOf", ()))):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@cache
def _properties(schema: type[BaseModel]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schema.model_json_schema()["properties"]
    return found


def _check_file(name: str, files: Collection[str]) -> None:
    if name == "mask":
        raise Refusal(
            "invalid_value",
            "a mask is given, which is not supported: strength says how much of the whole picture "
            "is redrawn",
            name,
        )
    if name not in files:
        wanted = " or ".join(files) or "no file"
        raise Refusal("unknown_field", f"file {name!r} is not known, want {wanted}", name)


def _check_field(name: str, fields: Mapping[str, Any]) -> None:
    if found := re.match(r"(loras|mixes)\[", name):
        raise Refusal(
            "invalid_value",
            f"field {name!r} holds one part of a list, and which parts belong together is lost in "
            f"a form; send {found[1]} as one field with JSON, e.g. "
            f'{found[1]}=[{{"name": "neon", "scale": 0.8}}]',
            found[1],
        )
    if name in fields:
        raise Refusal("invalid_value", f"field {name!r} is given twice, want it once", name)


def picture_of(text: str, name: str, most: int) -> Image.Image:
    """A picture in a JSON body: base64, or a data URL.

    Raises:
        Refusal: it is neither, or no picture.
    """
    data = text.partition(",")[2] if text.startswith("data:") else text
    if text[:8].lower().startswith(("http:", "https:", "file:")):
        raise Refusal(
            "invalid_value",
            f"{name} is a link, which is not fetched; send the file, b64_json or a data URL",
            name,
        )
    try:
        held = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal("invalid_value", f"{name} is no base64: {error}", name) from error
    return picture(io.BytesIO(held), name, most)


def picture(file: BinaryIO, name: str, most: int) -> Image.Image:
    """A picture as RGB, turned as its camera says, on white where it is transparent.

    Its size is read from its header and refused before anything is decoded.

    Args:
        name: of the field, for errors.
        most: pixels.

    Raises:
        Refusal: it is no PNG, JPEG or WebP, is larger, or ends too early.
    """
    try:
        image = Image.open(file, formats=PICTURES)
    except UNREADABLE as error:
        raise Refusal(
            "invalid_value", f"{name} is no picture, want {' or '.join(PICTURES)}", name
        ) from error
    with image:
        _check_pixels(image, name, most)
        try:
            turned = _upright(image)
        except UNREADABLE as error:
            raise Refusal(
                "invalid_value",
                f"{name} begins as {image.format} and cannot be read to its end",
                name,
            ) from error
    if not turned.has_transparency_data:
        return turned.convert("RGB")
    white = Image.new("RGBA", turned.size, "white")
    return Image.alpha_composite(white, turned.convert("RGBA")).convert("RGB")


TURNS: Mapping[int, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
"""What stands a picture up, by the orientation that its camera noted; Exif 2.32, 4.6.4 A."""


def _upright(image: Image.Image) -> Image.Image:
    """The pixels as they are to be seen, of 8 bits each.

    Not :func:`PIL.ImageOps.exif_transpose`, which writes all that the camera noted anew and fails
    where that is damaged.
    """
    image.load()
    if image.mode == "P" and image.palette is None:
        raise ValueError("no palette")
    turn = _turn(image)
    turned = image if turn is None else image.transpose(turn)
    if turned.mode.startswith("I"):  # 16 bits: Pillow would cut off whatever is above 255
        return turned.convert("I").point(lambda value: value / 257).convert("L")
    return turned


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (UserWarning, *UNREADABLE):  # damaged notes say nothing
        return None


def _check_pixels(image: Image.Image, name: str, most: int) -> None:
    if image.width * image.height > most:
        raise Refusal(
            "invalid_value",
            f"{name} has {image.width}x{image.height} pixels, want at most {most}",
            name,
        )
