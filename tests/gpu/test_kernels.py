"""The laws of the tiles, compiled for the device that is there."""

from __future__ import annotations

import pytest
from triton.runtime.jit import JITFunction

from loraloom.kernels import segments_triton
from tests.kernels.triton_laws import *  # noqa: F403 -- every law there is a test here

pytestmark = pytest.mark.cuda


def test_the_kernels_are_compiled_and_not_interpreted() -> None:
    assert isinstance(segments_triton.shrink, JITFunction)
    assert isinstance(segments_triton.expand, JITFunction)
