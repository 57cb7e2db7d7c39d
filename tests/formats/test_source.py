from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from loraloom.errors import AdapterConfigError, AdapterFileError
from loraloom.formats.source import source_of

from .files import factors, write

if TYPE_CHECKING:
    from pathlib import Path


def refused(path: Path, error: type[AdapterFileError] = AdapterFileError) -> str:
    with pytest.raises(error) as caught:
        source_of(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "pytorch_lora_weights.safetensors", "mine.safetensors"]
)
def test_a_folder_is_its_adapter_file_and_the_configuration_beside_it(
    tmp_path: Path, name: str
) -> None:
    write(tmp_path, factors(), config={"r": 2}).rename(tmp_path / name)
    (tmp_path / "README.md").write_text("hello")
    for given in (tmp_path, tmp_path / name):
        source = source_of(given)
        assert source.path == tmp_path / name
        assert source.config == {"r": 2}


def test_the_usual_name_counts_among_others(tmp_path: Path) -> None:
    write(tmp_path, factors()).rename(tmp_path / "adapter_model.safetensors")
    write(tmp_path, factors()).rename(tmp_path / "optimizer.safetensors")
    assert source_of(tmp_path).path.name == "adapter_model.safetensors"
    assert source_of(tmp_path).config is None


@pytest.mark.parametrize(
    "held",
    [
        ["a.safetensors", "b.safetensors"],
        ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"],
    ],
)
def test_a_folder_of_several_adapters_is_refused_with_their_names(
    tmp_path: Path, held: list[str]
) -> None:
    for name in held:
        write(tmp_path, factors()).rename(tmp_path / name)
    message = refused(tmp_path)
    assert all(name in message for name in held)
    assert "give the path of one" in message


def test_a_folder_without_adapter_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    assert "holds nothing" in refused(tmp_path)
    (tmp_path / "README.md").write_text("hello")
    assert "README.md" in refused(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"PK\x03\x04")
    message = refused(tmp_path)
    assert "adapter_model.bin" in message
    assert "loraloom adapters convert" in message


def test_an_absent_path_is_refused(tmp_path: Path) -> None:
    assert "is absent" in refused(tmp_path / "nothing")


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"r": 1, "r": 2}', '{"lora_alpha": NaN}', "", "\xff"]
)
def test_a_configuration_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, factors())
    config = tmp_path / "adapter_config.json"
    config.write_bytes(text.encode("latin-1"))
    with pytest.raises(AdapterConfigError) as caught:
        source_of(path)
    assert str(config) in str(caught.value)


def test_a_configuration_of_another_folder_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 99}))
    inner = tmp_path / "inner"
    inner.mkdir()
    assert source_of(write(inner, factors())).config is None
