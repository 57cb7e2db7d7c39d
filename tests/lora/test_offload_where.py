"""Where a weight is while a tool moves it about: what is read from modules, and what decides."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch

from loraloom.lora.offload import Group, Rest, Whereabouts, hooked, look, onload, rest

from .offloading import CPU, WAYS, grouped, groups_of, sequential, simulate_streams
from .strategies import tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CUDA, META = torch.device("cuda", 0), torch.device("meta")
GROUPS = [
    None,
    *(Group(CUDA, CPU, filed=f, copied=c) for f, c in product((False, True), repeat=2)),
]
EVERY = [
    Whereabouts(device, runs, mapped, cast, group)
    for device, runs, mapped, cast, group in product(
        (CPU, CUDA, META), (None, CPU, CUDA), (False, True), (False, True), GROUPS
    )
]


def test_a_weight_is_written_to_only_where_the_next_call_finds_it() -> None:
    for each in EVERY:
        where, group = rest(each), each.group
        filed = group is not None and group.filed
        lost = each.cast or each.mapped or filed or each.device == META
        assert where.writable is not lost, each
        if lost:
            causes = {Rest.CAST: each.cast, Rest.MAP: each.mapped, Rest.FILE: filed}
            assert causes.get(where, each.device == META), each
        else:
            away = group is not None and (group.copied or each.device == CUDA)
            assert where is (Rest.AWAY if away else Rest.LAYER), each


def test_adapters_are_ready_where_the_layer_computes() -> None:
    for each in EVERY:
        wanted = CUDA if each.group else each.runs
        if wanted is None:
            wanted = CPU if each.device == META else each.device
        assert onload(each) == wanted, each


def test_what_is_read_is_of_the_nearest_hooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate_streams(monkeypatch)

    def found(enable: Callable[[torch.nn.Module], None], site: str) -> Whereabouts:
        module = tiny()
        enable(module)
        return look(module.get_parameter(f"{site}.weight"), hooked(module, site))

    own, inner = "time", "blocks.1.ff.0"
    for site in (own, inner):
        assert found(lambda module: None, site) == Whereabouts(CPU)
        assert found(WAYS["whole"], site) == Whereabouts(CPU, runs=CPU)
        assert found(sequential, site) == Whereabouts(META, runs=CPU, mapped=True)
        for way in ("blocks", "leaves", "blocks with a stream", "leaves with a stream"):
            assert found(WAYS[way], site) == Whereabouts(CPU, group=Group(CPU, CPU))
        module = tiny()
        WAYS["leaves with a stream"](module)
        weight = module.get_parameter(f"{site}.weight")
        groups_of(module)[id(weight)].onload_()
        fetched = Whereabouts(CPU, group=Group(CPU, CPU, copied=True))
        assert look(weight, hooked(module, site)) == fetched
        filed = grouped("leaf_level", files=tmp_path)
        assert found(filed, site) == Whereabouts(CPU, group=Group(CPU, CPU, filed=True))
