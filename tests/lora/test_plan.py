"""The plan touches the sites that change, and no other."""

from __future__ import annotations

from loraloom.core.mix import NOTHING, AdapterKey, Mix, Part
from loraloom.lora.plan import Plan, plan

A, B = (AdapterKey(name, name * 64) for name in "ab")
COVERAGE = {A: frozenset({"x", "y"}), B: frozenset({"y", "z"})}


def mix(a: float = 0, b: float = 0) -> Mix:
    return Mix.of([Part(A, a), Part(B, b)])


def fusing(before: Mix, want: Mix) -> Plan:
    return plan(before, want, COVERAGE)


def test_only_sites_whose_part_of_the_mix_changes_are_fused() -> None:
    step = fusing(mix(a=1), mix(a=1, b=2))
    assert step.fuse == {"y": mix(a=1, b=2), "z": mix(b=2)}
    assert step.restore == frozenset()


def test_sites_that_nobody_covers_any_more_are_restored() -> None:
    step = fusing(mix(a=1, b=2), mix(b=2))
    assert step.restore == {"x"}
    assert step.fuse == {"y": mix(b=2)}
    assert fusing(mix(a=1, b=2), NOTHING).restore == {"x", "y", "z"}


def test_the_same_mix_needs_nothing() -> None:
    for same in (NOTHING, mix(a=1, b=-2)):
        assert plan(same, same, {}) == Plan(frozenset(), {})
