"""Pickles become adapter files without running what is in them."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from .console import adapter_file, names, refused, run

if TYPE_CHECKING:
    from collections.abc import Callable

AB = {"x.lora_A.weight": torch.randn(2, 8), "x.lora_B.weight": torch.randn(8, 2)}


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_tensors_come_out_bit_for_bit(tmp_path: Path, zipped: bool, nested: bool) -> None:
    tensors = {**AB, "x.alpha": torch.tensor(4, dtype=torch.bfloat16), "h": torch.ones(3).half()}
    said = {"state_dict": tensors, "epoch": 3} if nested else tensors
    torch.save(said, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    result = run("adapters", "convert", tmp_path / "a.bin", tmp_path / "a.safetensors")
    assert result.exit_code == 0, result.output
    assert "4 tensors" in result.output
    got = load_file(tmp_path / "a.safetensors")
    assert got.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert got[key].dtype == tensor.dtype
        assert torch.equal(got[key], tensor)
    assert names(tmp_path) == ["a.bin", "a.safetensors"]


def test_what_was_an_adapter_is_one_again_and_fits(tmp_path: Path) -> None:
    file = adapter_file(tmp_path / "one.safetensors", 1)
    torch.save(load_file(file), tmp_path / "one.bin")
    message = refused("adapters", "inspect", tmp_path / "one.bin")
    assert "loraloom adapters convert FILE.bin OUT.safetensors" in message
    assert (
        run("adapters", "convert", tmp_path / "one.bin", tmp_path / "two.safetensors").exit_code
        == 0
    )
    said = [
        json.loads(run("adapters", "inspect", tmp_path / name, "--json").output)
        for name in ("one.safetensors", "two.safetensors")
    ]
    assert said[0]["entries"] == said[1]["entries"]


def test_shared_and_transposed_memory_and_numbers_are_written_plainly(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    said = {"a": whole, "b": whole.T, "c": whole[1:], "x.alpha": 8, "y.alpha": 0.5}
    torch.save(said, tmp_path / "a.pt")
    assert run("adapters", "convert", tmp_path / "a.pt", tmp_path / "a.safetensors").exit_code == 0
    got = load_file(tmp_path / "a.safetensors")
    assert torch.equal(got["b"], whole.T)
    assert torch.equal(got["c"], whole[1:])
    assert (got["x.alpha"].item(), got["y.alpha"].item()) == (8, 0.5)


def test_the_configuration_beside_goes_along(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    torch.save(AB, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    out = tmp_path / "out" / "adapter_model.safetensors"
    assert run("adapters", "convert", tmp_path / "adapter_model.bin", out).exit_code == 0
    assert names(tmp_path / "out") == ["adapter_config.json", "adapter_model.safetensors"]
    assert out.with_name("adapter_config.json").read_text() == '{"r": 2, "lora_alpha": 4}'
    # beside each other it serves both, and is there already
    same = tmp_path / "adapter_model.safetensors"
    assert run("adapters", "convert", tmp_path / "adapter_model.bin", same).exit_code == 0


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    torch.save(AB, tmp_path / "a.bin")
    (tmp_path / "adapter_config.json").write_text('{"r": 2}')
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    assert "is there already" in refused("adapters", "convert", tmp_path / "a.bin", taken)
    assert taken.read_bytes() == b"mine"
    other = tmp_path / "out" / "adapter_config.json"
    other.write_text('{"r": 8}')
    out = tmp_path / "out" / "a.safetensors"
    assert "is another than" in refused("adapters", "convert", tmp_path / "a.bin", out)
    assert other.read_text() == '{"r": 8}'
    assert names(tmp_path / "out") == ["adapter_config.json"]


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({**AB, "evil": Evil(mark)}, tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(pickle.dumps({"evil": Evil(mark)}))
    for name in ("a.bin", "b.bin"):
        message = refused("adapters", "convert", tmp_path / name, tmp_path / "a.safetensors")
        assert "could run code" in message
    assert names(tmp_path) == ["a.bin", "b.bin"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([1, 2], "holds list, want a dict of tensors"),
        ({}, "holds dict, want"),
        ({"a": "text"}, "has 'a' as str, want a plain tensor"),
        ({"a": True}, "has 'a' as bool"),
        ({"a": {"b": torch.ones(2)}}, "has 'a' as dict"),
        ({3: torch.ones(2)}, "has the key '3', want names"),
        ({"a" * 600: torch.ones(2)}, "has the key 'aaaa"),
        ({"a": torch.eye(3).to_sparse()}, "has 'a' as torch.sparse_coo"),
    ],
)
def test_what_is_no_dict_of_tensors_is_refused(tmp_path: Path, said: object, message: str) -> None:
    torch.save(said, tmp_path / "a.bin")
    out = tmp_path / "a.safetensors"
    assert message in refused("adapters", "convert", tmp_path / "a.bin", out)
    assert names(tmp_path) == ["a.bin"]


def test_files_that_are_broken_or_absent_and_wrong_names_are_refused(tmp_path: Path) -> None:
    torch.save(AB, tmp_path / "whole.bin")
    whole = (tmp_path / "whole.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.bin").write_text("hello")
    (tmp_path / "empty.bin").write_bytes(b"")
    out = tmp_path / "a.safetensors"
    for name in ("cut.bin", "text.bin", "empty.bin"):
        assert f"{name}'" in refused("adapters", "convert", tmp_path / name, out)
    assert "is absent" in refused("adapters", "convert", tmp_path / "none.bin", out)
    assert "cannot be read" in refused("adapters", "convert", tmp_path, out)
    wrong = refused("adapters", "convert", tmp_path / "whole.bin", tmp_path / "a.bin")
    assert "want a name that ends in .safetensors" in wrong
    nowhere = tmp_path / "none" / "a.safetensors"
    assert "is no folder" in refused("adapters", "convert", tmp_path / "whole.bin", nowhere)
    assert names(tmp_path) == ["cut.bin", "empty.bin", "text.bin", "whole.bin"]
