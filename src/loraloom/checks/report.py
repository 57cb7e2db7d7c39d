"""A check's findings as files: a page for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

from loraloom.errors import MediaError

from .page import page
from .paths import attire_text

if TYPE_CHECKING:
    from pathlib import Path

    from .figures import Likeness
    from .law import Finding
    from .paths import Take
    from .run import Outcome


def write(outcome: Outcome, folder: Path) -> Path:
    """``report.json`` and ``report.html`` in a folder that is there; returns the page.

    Raises:
        MediaError: they cannot be written there.
    """
    text = json.dumps(as_dict(outcome), indent=1, allow_nan=False)
    html = folder / "report.html"
    try:
        (folder / "report.json").write_text(text, encoding="utf-8")
        html.write_text(page(outcome), encoding="utf-8")
    except OSError as error:
        raise MediaError(f"the report {folder} cannot be written: {error.strerror}") from error
    return html


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """Everything, with null where a figure is infinite or could not be computed."""
    return {
        "passed": not outcome.breaches,
        "setting": dataclasses.asdict(outcome.setting),
        "findings": [_finding(each) for each in outcome.findings],
        "takes": [_take(each) for each in outcome.takes],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "law": finding.law.name,
        "says": finding.law.says,
        "of": finding.of,
        "figure": _number(finding.figure),
        "unit": finding.law.unit,
        "bound": finding.bound,
        "sense": finding.law.sense,
        "passed": finding.passed,
        "failure": finding.failure,
    }


def _take(take: Take) -> dict[str, Any]:
    return {
        **dataclasses.asdict(take.slot),
        "wears": [attire_text(attire) for attire in take.path.attires],
        "equals": _likeness(take.want.likeness),
        "recorded": _likeness(take.recorded.likeness) if take.recorded else None,
    }


def _likeness(likeness: Likeness) -> dict[str, Any]:
    return {name: _number(value) for name, value in dataclasses.asdict(likeness).items()}


def _number(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None
