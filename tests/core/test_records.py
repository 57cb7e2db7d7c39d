"""Frozen values from JSON: each field of its type, defaults left out, nothing unknown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest

from loraloom.core.records import record
from loraloom.core.request import Lora
from loraloom.core.schedule import Curve
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.errors import RecordError


@dataclass(frozen=True)
class Inner:
    number: int


@dataclass(frozen=True)
class Outer:
    name: str
    share: float = 1.0
    on: bool = True
    kind: Literal["a", "b"] = "a"
    some: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    by_name: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


WHOLE: dict[str, Any] = {
    "name": "x",
    "share": 2,
    "on": False,
    "kind": "b",
    "some": [{"number": 1}, {"number": 2}],
    "maybe": {"number": 3},
    "by_name": {"one": [1, 2.5], "none": []},
}


def test_every_field_is_of_its_type() -> None:
    made = record(Outer, WHOLE, "it")
    assert made == Outer(
        name="x",
        share=2.0,
        on=False,
        kind="b",
        some=(Inner(1), Inner(2)),
        maybe=Inner(3),
        by_name={"one": (1.0, 2.5), "none": ()},
    )
    assert isinstance(made.share, float)


def test_what_has_a_default_may_be_left_out() -> None:
    assert record(Outer, {"name": "x"}, "it") == Outer("x")
    assert record(Outer, {"name": "x", "maybe": None}, "it").maybe is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": None}, "it.name is None, want str"),
        ({"share": "1"}, "it.share is '1', want float"),
        ({"share": True}, "it.share is True, want float"),
        ({"share": None}, "it.share is None, want float"),
        ({"on": 1}, "it.on is 1, want bool"),
        ({"on": None}, "it.on is None, want bool"),
        ({"kind": "c"}, "it.kind is 'c', want one of a, b"),
        ({"some": {}}, "it.some is dict, want a list"),
        ({"some": [1]}, r"it.some\[0\] is int, want an object"),
        ({"some": [{"number": 1}, {"number": True}]}, r"it.some\[1\].number is True, want int"),
        ({"some": [{"number": 1.0}]}, r"it.some\[0\].number is 1.0, want int"),
        ({"some": [{}]}, r"it.some\[0\] has no field 'number'"),
        ({"maybe": 3}, "it.maybe is int, want an object"),
        ({"by_name": []}, "it.by_name is list, want an object"),
        ({"by_name": {"one": 1}}, "it.by_name.one is int, want a list"),
        ({"by_name": {"one": [1, "2"]}}, r"it.by_name.one\[1\] is '2', want float"),
        ({"more": 1}, "it has an unknown field 'more'"),
        ({"maybe": {"number": 1, "more": 2}}, "it.maybe has an unknown field 'more'"),
    ],
)
def test_what_is_no_record_is_refused_at_its_place(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RecordError, match=says):
        record(Outer, {**WHOLE, **change}, "it")


@pytest.mark.parametrize("data", [None, [], "x", 1])
def test_only_an_object_is_a_record(data: object) -> None:
    with pytest.raises(RecordError, match=f"it is {type(data).__name__}, want an object"):
        record(Outer, data, "it")


def test_what_is_needed_may_not_be_left_out() -> None:
    with pytest.raises(RecordError, match="it has no field 'name'"):
        record(Outer, {key: WHOLE[key] for key in WHOLE if key != "name"}, "it")


def test_a_stage_survives_its_json() -> None:
    stage = Stage(
        "base",
        Sigmas(given=(0.9, 0.4), tokens="most", until=0.5),
        0.5,
        "res2s",
        Guidance(Guides(3.0), Guides(7.0, 1.0), blocks=(28,), embedded=3.5),
        (Lora("distilled", 0.25, Curve.window(0, 0.5), stages=(1.0, 0.5)),),
        "transformer_2",
    )
    for each in (stage, Stage("late", None)):
        assert record(Stage, json.loads(json.dumps(asdict(each))), "stage") == each
