"""`loraloom generate --policy auto`: what it says, and that its files are made again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loraloom.core.request import Manner
from loraloom.engine.auto import Auto
from loraloom.lora.cost import Rates
from loraloom.pipelines import media

from .console import SMALL, STAR, made

if TYPE_CHECKING:
    from loraloom import Loom

FUSES = Rates(call=1.0, flop=0, touch=0, fuse_call=1e-6, fuse=0, fuse_flop=0, restore=0)
LIVES = Rates(call=1e-6, flop=0, touch=0, fuse_call=1.0, fuse=0, fuse_flop=0, restore=0)


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize(("rates", "other"), [(FUSES, LIVES), (LIVES, FUSES)])
def test_a_file_made_with_auto_says_how_and_is_made_again_so(
    tmp_path: Path, files: Path, own: Loom, rates: Rates, other: Rates
) -> None:
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    one = ("--lora", f"one={files / 'one.safetensors'}")
    own.auto = Auto(own.models, lambda: rates)
    said = made(STAR, "-o", first, *one, "--policy", "auto", *SMALL).stdout
    provenance = media.read_provenance(first)
    manner = provenance.worn[0].manner
    assert provenance.policy == "auto"
    assert manner.mode == ("fused" if rates is FUSES else "live")
    assert f"on 7 sites ({manner.mode}: 2 steps live cost" in said
    assert f"({manner})" in provenance.describe()
    own.auto = Auto(own.models, lambda: other)
    made("--like", first, "-o", again, *one)
    assert first.read_bytes() == again.read_bytes()
    made("--like", first, "-o", again, *one, "--policy", "live")
    assert media.read_provenance(again).worn[0].manner == Manner("live")
    own.bare()
