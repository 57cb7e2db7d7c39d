"""The shape of the house: imports point down, files and functions stay small, no cycle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "loraloom"

FLOORS = [
    {"errors"},
    {"core"},
    {"formats", "kernels", "memory"},
    {"lora", "store"},
    {"models"},
    {"pipelines"},
    {"engine"},
    {"settings"},
    {"client", "serve"},
    {"checks"},
    {"cli"},
]
"""Bottom to top; a folder imports only folders of lower floors."""

RECORDS = {
    "Request": 11,
    "Lora": 8,
    "Asked": 9,
    "Card": 9,
    "Worn": 10,
    "Stage": 9,
    "Ticket": 9,
    "Settings": 34,
    "Facts": 11,
}
"""Frozen values that are filled in by name, most of whose attributes are left out: how many."""

FILES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [path for part in ("src", "training", "bench") for path in (ROOT / part).rglob("*.py")]


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(path: Path) -> set[tuple[str, ...]]:
    """Modules of the package that a file imports when it runs or under TYPE_CHECKING."""
    inside = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {tuple(name[1:]) for name in names if name[0] == "loraloom"}
        elif isinstance(node, ast.ImportFrom):
            stem = node.module.split(".") if node.module else []
            if node.level:
                base = inside[: len(inside) - node.level + 1]
                target = (*base, *stem)
            elif stem and stem[0] == "loraloom":
                target = tuple(stem[1:])
            else:
                continue
            for alias in node.names:
                deeper = (*target, alias.name)
                exists = PACKAGE.joinpath(*deeper).with_suffix(".py").is_file()
                found.add(deeper if exists else target)
    return found - {()}


def floor(folder: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if folder in names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_folder_imports_only_folders_below_it(path: Path) -> None:
    own = module_of(path)
    if not own:
        return  # the package exports from every floor
    for target in imported(path):
        if target[0] != own[0]:
            assert floor(target[0]) < floor(own[0]), f"{path} imports {'.'.join(target)}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {module_of(path): imported(path) for path in FILES if module_of(path)}
    done: set[tuple[str, ...]] = set()

    def visit(module: tuple[str, ...], trail: tuple[tuple[str, ...], ...]) -> None:
        assert module not in trail, " -> ".join(".".join(m) for m in (*trail, module))
        if module in done:
            return
        for target in graph.get(module, ()):
            visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_functions_and_classes_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{path} is too long"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= 60, f"{path}:{node.lineno} {node.name} has {lines} lines"
        if isinstance(node, ast.ClassDef):
            fields = {
                target.attr
                for inner in ast.walk(node)
                if isinstance(inner, ast.Attribute)
                and isinstance(inner.ctx, ast.Store)
                and isinstance(inner.value, ast.Name)
                and inner.value.id == "self"
                for target in [inner]
            }
            declared = {
                inner.target.id
                for inner in node.body
                if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name)
            }
            most = RECORDS.get(node.name, 7)
            assert len(fields | declared) <= most, f"{path}:{node.lineno} {node.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_begins_by_saying_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_planning_needs_no_torch() -> None:
    for name in ("lora/plan.py", "engine/batch.py", "core/mix.py", "core/request.py"):
        tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            (node.module or "").split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and not node.level
        }
        assert "torch" not in names, name
