"""JPEGs that carry a text of any length, in as many comments as it takes."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

COMMENT = b"\xff\xfe"
MOST = 65533  # bytes of one comment: its length, two bytes, counts itself


def commented(image: Image.Image, text: str, quality: int) -> bytes:
    """A JPEG (no subsampling of colours) with ``text``, which is ASCII, in its comments.

    They stand behind the JFIF header, which is to come first (ITU-T T.871).
    """
    file = BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:4:4", optimize=True)
    whole, said = file.getvalue(), text.encode("ascii")
    start = 4 + int.from_bytes(whole[4:6], "big")  # two markers, then the header's length
    return whole[:start] + b"".join(_comments(said)) + whole[start:]


def comments_of(image: Image.Image) -> str | None:
    """The text of all comments of an open JPEG; ``None`` if it has none."""
    found = b"".join(data for marker, data in getattr(image, "applist", ()) if marker == "COM")
    return found.decode("ascii", errors="replace") or None


def _comments(text: bytes) -> list[bytes]:
    parts = [text[i : i + MOST] for i in range(0, len(text), MOST)]
    return [COMMENT + (len(part) + 2).to_bytes(2, "big") + part for part in parts]
