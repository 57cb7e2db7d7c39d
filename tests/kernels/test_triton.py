"""Starts the laws of the tiles in Triton."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

LAWS = Path(__file__).parent / "triton_laws.py"

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton has no wheel for this platform"
)


@needs_triton
def test_the_laws_hold_in_a_process_of_their_own() -> None:
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(LAWS)]
    run = subprocess.run(
        command,
        env=environment,
        cwd=LAWS.parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


@needs_triton
@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("capability", "even"), [(80, 1), (90, 16)])
def test_the_kernels_compile_and_multiply_float32_as_it_is(
    name: str, capability: int, even: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No GPU is needed to compile for one; tf32, a GPU's default, the interpreter has not."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from loraloom.kernels import segments_triton

    sizes = {"ROWS": 16, "RANKS": 16, "DEEP": 32, "WIDE": 128, "EVEN": even}
    for kernel in (segments_triton.shrink, segments_triton.expand):
        code = compiled(kernel, name, sizes, capability)
        assert "tf32" not in code
        products = ("fma.rn.f32",) if name == "fp32" else ("mma.sync", "wgmma")
        assert any(product in code for product in products)


def compiled(kernel: Any, name: str, sizes: dict[str, int], capability: int) -> str:
    """The machine code of a kernel for factors, x and y of a type as Triton spells it."""
    import triton
    from triton.backends.compiler import GPUTarget

    tables = {"items": "i64", "tiles": "i64", "spans": "i64", "scales": "fp32"}
    tables |= {"blocks": "i32", "worn": "i32"} | dict.fromkeys(("x", "y", "hidden"), name)
    kinds = {
        a: f"*{tables[a]}" if a in tables else "constexpr" if a in sizes else "i32"
        for a in kernel.arg_names
    }
    given = {a: sizes[a] for a in kernel.arg_names if a in sizes}
    source = triton.compiler.ASTSource(kernel, signature=kinds, constexprs=given)
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
    assert isinstance(code, str)
    return code


def test_the_folder_needs_no_triton() -> None:
    """Nor does choosing a kernel for the CPU import it."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch, loraloom.kernels.choose as c; "
        "import loraloom.kernels.launch, loraloom.kernels.cost, loraloom.kernels.reference; "
        "print(c.kernel_for(torch.device('cpu')).way.value)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.stdout == "torch\n", run.stderr
