from __future__ import annotations

import pickle
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from loraloom.errors import AdapterFileError
from loraloom.formats.header import LONGEST_HEADER, read_header

from .files import factors, raw, write

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def refused(path: Path) -> str:
    """The message with which ``path`` is refused."""
    with pytest.raises(AdapterFileError) as caught:
        read_header(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_header_says_what_safetensors_says(tmp_path: Path) -> None:
    dtypes = (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.bool),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.complex64, torch.uint16),
    )
    tensors = {str(dtype): torch.ones(3, 5).to(dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {"trigger": "neon", "format": "pt"})
    header = read_header(path)
    content = path.read_bytes()
    assert header.metadata == {"trigger": "neon", "format": "pt"}
    with safe_open(path, framework="pt") as file:
        assert set(header.tensors) == set(file.keys())
        for key, info in header.tensors.items():
            seen = file.get_slice(key)
            assert (info.dtype, list(info.shape)) == (seen.get_dtype(), seen.get_shape())
            flat = file.get_tensor(key).flatten().view(torch.uint8)
            assert content[info.start : info.stop] == flat.numpy().tobytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("whole"), factors(rank=1)).read_bytes()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_file_cut_at_any_byte_is_refused(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    length = 8 + struct.unpack("<Q", whole[:8])[0]
    near = st.sampled_from([0, 1, 7, 8, 9, length - 1, length, length + 1, len(whole) - 1])
    cut = data.draw(near | st.integers(0, len(whole) - 1))
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(whole[:cut])
    assert "truncated" in refused(path)


def test_absent_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert "is absent" in refused(tmp_path / "nothing.safetensors")
    assert "is a folder" in refused(tmp_path)
    assert "is a device or pipe" in refused(Path("/dev/null"))


def test_pickles_are_refused_by_their_bytes_with_the_way_to_convert_them(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "zip.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for protocol in range(2, 6):
        (tmp_path / f"pickle{protocol}.pt").write_bytes(pickle.dumps({"a": 1}, protocol))
    for path in sorted(tmp_path.iterdir()):
        message = refused(path)
        assert "pickle" in message
        assert "loraloom adapters convert FILE.bin OUT.safetensors" in message


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    # 0x0280, the first bytes of a pickle of protocol 2, and 640 bytes of header
    text = '{"__metadata__":{"a":"b"}}'
    path = raw(tmp_path / "x.safetensors", text + " " * (0x0280 - len(text)))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert read_header(path).metadata == {"a": "b"}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"<!doctype html><html></html>", "web page"),
        (b"GGUF\x03\x00\x00\x00" + bytes(40), "GGUF"),
        (struct.pack("<Q", LONGEST_HEADER + 1) + b"{}", str(LONGEST_HEADER + 1)),
        (struct.pack("<Q", 2**64 - 1) + b"{}", str(2**64 - 1)),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert named in refused(path)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("{nonsense", "no JSON"),
        ("[1, 2]", "want an object"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": {}, "a": {}}', "'a' appears 2 times"),
        ({"a": 3}, "describes tensor 'a'"),
        ({"a": {**F32, "dtype": "F33"}}, "F33"),
        ({"a": {**F32, "shape": [-2]}}, "[-2]"),
        ({"a": {**F32, "shape": [True, 2]}}, "[True, 2]"),
        ({"a": {**F32, "data_offsets": [0]}}, "two data_offsets"),
        ({"a": {**F32, "data_offsets": [8, 0]}}, "gives tensor 'a' -8 bytes"),
        ({"a": {**F32, "shape": [3]}}, "gives tensor 'a' 8 bytes, F32 [3] has 12"),
        ({"a": F32, "b": F32}, "overlaps"),
        ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, "overlaps"),
        ({"a": {**F32, "data_offsets": [4, 12]}}, "leaves a gap"),
        ({"a": F32, "b": {**F32, "data_offsets": [8, 16]}}, "truncated: "),
        ({"a": {**F32, "data_offsets": [10**30, 10**30 + 8]}}, "leaves a gap"),
        ({"__metadata__": {"a": 1}, "a": F32}, "metadata"),
        ({"__metadata__": [], "a": F32}, "metadata"),
        ({}, "8 bytes after its last tensor"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(
    tmp_path: Path, header: object, named: str
) -> None:
    assert named in refused(raw(tmp_path / "x.safetensors", header, bytes(8)))


def test_header_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 4) + b'{"\xff\xfe')
    assert "no UTF-8" in refused(path)
