"""Bytes are counted once each, wherever tensors share them, and gone when they are let go."""

from __future__ import annotations

import gc

import torch
from torch import nn

from bench import held


def test_memory_that_tensors_share_counts_once() -> None:
    whole = torch.zeros(100)
    assert held.covered([whole, whole[:10], whole[5:50], whole.view(10, 10)]) == 400
    assert held.covered([whole[:10], whole[5:20], whole[90:]]) == 120
    assert held.covered([whole[:60], whole[10:20], whole[50:70]]) == 280
    assert held.covered([]) == 0


def test_every_tensor_counts_as_long_as_it_is_there() -> None:
    gc.collect()
    before = held.covered(held.tensors("cpu"))
    held_somewhere = [{"deep": (nn.Linear(1000, 1000, bias=False),)}]
    assert held.covered(held.tensors("cpu")) - before == 4 * 1000**2
    held_somewhere.clear()
    gc.collect()
    assert held.covered(held.tensors("cpu")) == before
