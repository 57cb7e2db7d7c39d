"""What a safetensors file holds, read from its header with the standard library alone."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.errors import AdapterFileError

from .objects import parse_object

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path
    from typing import BinaryIO

LONGEST_HEADER = 25_000_000
"""Bytes, as huggingface_hub's limit; the specification allows four times as many.

The header of a model of thousands of layers has a few hundred thousand.
"""

MOST_TENSORS = 50_000
LONGEST_KEY = 512
"""Characters; the keys of adapters have some hundred."""

LARGEST = 2**128
"""What no number of bytes reaches; Python's numbers have no end of their own."""

MOST_AXES = 16

BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E8M0": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
"""Width of one element by the name of its type."""

CONVERT = (
    "convert it once, which runs no code of the file: "
    "loraloom adapters convert FILE.bin OUT.safetensors"
)


@dataclass(frozen=True, slots=True)
class Foreign:
    """Another kind of file, by its first bytes."""

    starts: bytes
    what: str


FOREIGN = (
    Foreign(b"PK\x03\x04", f"a zip archive, as torch.save writes pickles; {CONVERT}"),
    *(Foreign(bytes((0x80, n)), f"a pickle, which can run code; {CONVERT}") for n in range(2, 6)),
    Foreign(b"version https://git-lfs", "a Git LFS pointer; fetch the file itself"),
    Foreign(b"GGUF", "a GGUF file, want safetensors"),
    Foreign(b"<", "a web page, want the safetensors file itself"),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: its data are the bytes ``start`` to ``stop`` exclusive of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """All that a file says before its data; ``modified`` is the time of its last change in ns."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    modified: int


def read_header(path: Path) -> Header:
    """The header of a safetensors file, after proof that the data are all there.

    Raises:
        AdapterFileError: the file is absent, no safetensors, truncated, or contradicts itself.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a device or pipe"
        raise AdapterFileError(f"adapter file '{path}' is {what}, want a safetensors file")
    try:
        with path.open("rb") as file:
            return _Parser(path).header(file)
    except FileNotFoundError as error:
        raise AdapterFileError(f"adapter file '{path}' is absent") from error
    except OSError as error:
        raise AdapterFileError(f"adapter file '{path}' cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class _Parser:
    path: Path

    def bad(self, what: str) -> AdapterFileError:
        return AdapterFileError(f"adapter file '{self.path}' {what}")

    def header(self, file: BinaryIO) -> Header:
        file.seek(0, 2)
        size = file.tell()
        file.seek(0)
        length = self._length(file.read(32), size)
        file.seek(8)
        try:
            fields = parse_object(file.read(length))
        except ValueError as error:
            raise self.bad(f"has no valid safetensors header: {error}") from error
        metadata = self._metadata(fields.pop("__metadata__", {}))
        self._bound(fields)
        tensors = {key: self._info(key, said, 8 + length) for key, said in fields.items()}
        self._cover(tensors, 8 + length, size)
        return Header(self.path, tensors, metadata, self.path.stat().st_mtime_ns)

    def _length(self, begin: bytes, size: int) -> int:
        # a length can look like a pickle's first bytes, but then the JSON begins at byte 8
        if begin[8:9] != b"{":
            for foreign in FOREIGN:
                if begin.startswith(foreign.starts):
                    raise self.bad(f"is {foreign.what}")
        if size < 8:
            raise self.bad(f"is truncated: {size} bytes, want at least the 8 of a length")
        length: int = struct.unpack("<Q", begin[:8])[0]
        if length > LONGEST_HEADER:
            raise self.bad(f"announces a header of {length} bytes, at most {LONGEST_HEADER} are")
        if 8 + length > size:
            raise self.bad(f"is truncated in its header: {size} bytes, want {8 + length} and data")
        return length

    def _bound(self, keys: Collection[str]) -> None:
        if len(keys) > MOST_TENSORS:
            raise self.bad(f"has {len(keys)} tensors, at most {MOST_TENSORS} are")
        for key in keys:
            if len(key) > LONGEST_KEY:
                what = f"a key of {len(key)} characters, at most {LONGEST_KEY} are"
                raise self.bad(f"has {what}: {key[:80]!r}...")
            if not key.isprintable():
                raise self.bad(f"has a key with a character that cannot be printed: {key!r}")

    def _metadata(self, said: object) -> Mapping[str, str]:
        if not isinstance(said, dict) or not all(isinstance(v, str) for v in said.values()):
            raise self.bad(f"has metadata {str(said)[:80]!r}, want an object of strings")
        return said

    def _info(self, key: str, said: object, data: int) -> TensorInfo:
        match said:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]} if (
                dtype in BITS
                and len(shape) <= MOST_AXES
                and all(type(n) is int and 0 <= n < LARGEST for n in (*shape, start, stop))
            ):
                bits = BITS[dtype] * math.prod(shape)
                if bits == 8 * (stop - start):
                    return TensorInfo(dtype, tuple(shape), data + start, data + stop)
                raise self.bad(
                    f"gives tensor {key!r} {stop - start} bytes, {dtype} {shape} has {bits / 8:g}"
                )
        raise self.bad(
            f"describes tensor {key!r} as {str(said)[:120]}, "
            "want a known dtype, a shape and two data_offsets"
        )

    def _cover(self, tensors: Mapping[str, TensorInfo], data: int, size: int) -> None:
        """The tensors lie end to end, from the header to the end of the file."""
        reached = data
        for key, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
            if info.start != reached:
                how = "overlaps" if info.start < reached else "leaves a gap after"
                raise self.bad(
                    f"has tensor {key!r} at byte {info.start}, which {how} what ends at {reached}"
                )
            reached = info.stop
        if size < reached:
            raise self.bad(f"is truncated: {size} bytes, its header announces {reached}")
        if size > reached:
            raise self.bad(f"has {size - reached} bytes after its last tensor at {reached}")
