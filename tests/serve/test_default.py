"""The default mix: a value that changes whole, for all threads, and lasts."""

from __future__ import annotations

import os
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from loraloom.core.lora import Lora, Manner
from loraloom.core.mix import Scope
from loraloom.core.schedule import Curve, Knot
from loraloom.errors import SettingsError, StorageFullError
from loraloom.serve.default import DefaultMix, Piece, Standing

if TYPE_CHECKING:
    from pathlib import Path

NEON, SKETCH = Lora("neon", 0.8), Lora("sketch", 0.5, target="transformer")
RICH = Lora(
    "rich",
    -0.25,
    Curve((Knot(0.0, 0.0), Knot(1.0, 1.0))),
    (Scope("*.attn1.*", 0.5),),
    Manner("fused", "because"),
    (1.0, 0.5),
    "transformer",
)


def test_a_default_mix_is_the_same_after_a_restart(tmp_path: Path) -> None:
    mix = DefaultMix(tmp_path / "mix.json")
    mix.set([RICH, NEON])
    again = DefaultMix(tmp_path / "mix.json")
    assert again.mix == (RICH, NEON)
    assert again.standing == mix.standing
    assert [path.name for path in tmp_path.iterdir()] == ["mix.json"]


def test_what_is_taken_off_is_remembered_over_a_restart(tmp_path: Path) -> None:
    mix = DefaultMix(tmp_path / "mix.json", [NEON])
    mix.change(lambda now: Standing(tuple(Piece(p.lora, 0.0) for p in now.pieces)))
    again = DefaultMix(tmp_path / "mix.json")
    assert again.mix == ()
    assert again.standing.pieces == (Piece(NEON, 0.0),)


def test_what_is_given_at_the_start_goes_before_what_was_kept(tmp_path: Path) -> None:
    DefaultMix(tmp_path / "mix.json").set([NEON])
    assert DefaultMix(tmp_path / "mix.json", [SKETCH]).mix == (SKETCH,)
    assert DefaultMix(tmp_path / "mix.json").mix == (SKETCH,)


def test_a_factor_multiplies_strengths_and_an_adapter_of_strength_0_stays() -> None:
    off = Lora("distilled", 0.0)
    standing = Standing((Piece(NEON, 0.5), Piece(off), Piece(SKETCH, 0.0)))
    assert standing.mix == (Lora("neon", 0.4), off)


def test_a_change_that_cannot_be_kept_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix = DefaultMix(tmp_path / "mix.json", [NEON])

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFullError, match="default mix"):
        mix.set([SKETCH])
    monkeypatch.undo()
    assert mix.mix == (NEON,)
    assert DefaultMix(tmp_path / "mix.json").mix == (NEON,)
    assert [path.name for path in tmp_path.iterdir()] == ["mix.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"pieces": [{"lora": {"name": 3}}]}'])
def test_a_spoilt_file_is_named_and_not_taken_for_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mix.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"mix\.json"):
        DefaultMix(file)


def test_changes_of_many_threads_are_all_there(tmp_path: Path) -> None:
    mix = DefaultMix(tmp_path / "mix.json")

    def add(number: int) -> None:
        piece = Piece(Lora(f"adapter-{number}"))
        mix.change(lambda now: Standing((*now.pieces, piece)))

    threads = [Thread(target=add, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {lora.name for lora in mix.mix} == {f"adapter-{number}" for number in range(16)}
    assert DefaultMix(tmp_path / "mix.json").standing == mix.standing


def test_leaving_out_a_name_says_whether_it_was_there() -> None:
    mix = DefaultMix(None, [NEON, SKETCH])
    assert mix.without("neon")
    assert not mix.without("neon")
    assert mix.mix == (SKETCH,)
