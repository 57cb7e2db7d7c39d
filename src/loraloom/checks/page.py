"""The report for people: one static page that needs nothing beside it."""

from __future__ import annotations

import base64
import math
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from .law import Finding, number
from .paths import attire_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from .figures import Likeness
    from .law import Law
    from .paths import Take
    from .run import Outcome
    from .slot import Setting

SHOWN = 128
"""Pixels that a picture is wide on the page; larger ones are embedded at twice that."""

ABSENT = "<td><small>not made</small></td>"

STYLE = Path(__file__).with_name("report.css")


def page(outcome: Outcome) -> str:
    """The whole page; its pictures are in it, and it asks no other host for anything."""
    title = f"Loraloom check of {outcome.setting.model}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _verdict(outcome),
        _setting(outcome.setting),
        _breaches(outcome.breaches),
        _laws(outcome.findings),
        _pictures(outcome.takes),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>\n"
        "<body>\n" + "\n".join(part for part in body if part) + "\n</body></html>\n"
    )


def by_law(findings: Sequence[Finding]) -> dict[Law, list[Finding]]:
    """In the order in which the laws were first tried."""
    grouped: dict[Law, list[Finding]] = {}
    for finding in findings:
        grouped.setdefault(finding.law, []).append(finding)
    return grouped


def worst_of(findings: Sequence[Finding]) -> Finding:
    """The one that is furthest from holding."""

    def badness(finding: Finding) -> float:
        if math.isnan(finding.figure):
            return math.inf
        return -finding.figure if finding.law.sense == "at least" else finding.figure

    return max(findings, key=badness)


def _verdict(outcome: Outcome) -> str:
    laws, tried = len(by_law(outcome.findings)), len(outcome.findings)
    if not outcome.breaches:
        return f'<p class="verdict good">✓ All {laws} laws hold, in {tried} trials.</p>'
    broken = len(by_law(outcome.breaches))
    return (
        f'<p class="verdict bad">✗ {broken} of {laws} laws broken, in {len(outcome.breaches)} of '
        f"{tried} trials.</p>"
    )


def _setting(setting: Setting) -> str:
    asked = setting.asked
    facts = {
        "Model": f"{setting.model}, {setting.dtype}, version {setting.model_version[:12]}",
        "Adapters": ", ".join(map(str, setting.adapters)),
        "Prompt": asked.prompt,
        "Picture": f"{asked.canvas.width}×{asked.canvas.height}, seed {asked.seed}",
        "Stages": "; ".join(stage.describe(asked.canvas) for stage in asked.stages),
        "Versions": str(setting.versions),
    }
    rows = [f"<dt>{name}</dt><dd>{escape(said)}</dd>" for name, said in facts.items()]
    return f"<dl>{''.join(rows)}</dl>"


def _breaches(breaches: Sequence[Finding]) -> str:
    if not breaches:
        return ""
    rows = [
        f"<tr><th>{escape(each.law.name)}</th><td>{escape(each.of)}</td>"
        f'<td class="number bad">{each.figure_text}</td>'
        f'<td class="number">{escape(each.bound_text)}</td><td>{escape(each.failure)}</td></tr>'
        for tried in by_law(breaches).values()
        for each in tried
    ]
    return _section(
        "What does not hold", ("Law", "Of", "#Figure", "#Bound", "Failure"), "".join(rows)
    )


def _laws(findings: Sequence[Finding]) -> str:
    rows = "".join(_law(law, tried) for law, tried in by_law(findings).items())
    return _section("Laws", ("Law", "Compared", "#Worst figure", "#Bound", ""), rows)


def _law(law: Law, tried: Sequence[Finding]) -> str:
    worst = worst_of(tried)
    kept = all(finding.passed for finding in tried)
    each = "".join(
        f'<tr><td>{escape(f.of)}</td><td class="number {"" if f.passed else "bad"}">'
        f"{f.figure_text}</td></tr>"
        for f in tried
    )
    tone, mark = ("good", "✓ holds") if kept else ("bad", "✗ broken")
    return (
        f"<tr><th>{escape(law.name)}</th>"
        f'<td class="says">{escape(law.says)}.<br><small>The bound: '
        f"{escape(law.bounds.why)}.</small>"
        f"<details><summary>{len(tried)} trials</summary><table>{each}</table></details></td>"
        f'<td class="number {tone}">{worst.figure_text}{_share(worst)}</td>'
        f'<td class="number">{escape(worst.bound_text)}</td>'
        f'<td class="number {tone}">{mark}</td></tr>'
    )


def _share(finding: Finding) -> str:
    """How much of the bound is used, where that can be told."""
    if finding.law.sense == "at least" or finding.bound == 0 or math.isnan(finding.figure):
        return ""
    share = min(finding.figure / finding.bound, 1)
    return f'<span class="share"><i style="width:{max(share, 0.01):.0%}"></i></span>'


def _pictures(takes: Sequence[Take]) -> str:
    names = list(dict.fromkeys(take.slot.adapter for take in takes))
    parts = [_adapter(name, [t for t in takes if t.slot.adapter == name]) for name in names]
    about = (
        "<p>For each adapter and each way of wearing it, live beside the weights or fused into "
        "them, a model is loaded afresh; its first call wears the adapter (start-up), and the "
        "other paths follow. Below each picture is how alike it is to what it should equal: the "
        "last attire of its path, put on a bare model in the same way.</p>"
    )
    return "<h2>Pictures</h2>" + about + "".join(parts) if parts else ""


def _adapter(name: str, takes: Sequence[Take]) -> str:
    """A column a path, a row a way of wearing."""
    made = {(take.path, take.slot.policy): take for take in takes}
    columns = list(dict.fromkeys(path for path, _ in made))
    head = "".join(
        f"<th>{escape(path.name)}<small>{escape(' → '.join(map(attire_text, path.attires)))}"
        "</small></th>"
        for path in columns
    )
    rows: list[str] = []
    for policy in dict.fromkeys(policy for _, policy in made):
        worn = [made.get((path, policy)) for path in columns]
        if not rows:
            rows.append(_row(f"on a bare model, {policy}", [_goal(take) for take in worn]))
        rows.append(_row(policy, [_end(take) for take in worn]))
        if any(take and take.recorded for take in worn):
            rows.append(_row(f"{policy}, recorded", [_held(take) for take in worn]))
    return (
        f'<h3>{escape(name)}</h3><div class="wide"><table class="pictures"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _goal(take: Take | None) -> str:
    return _cell(take.want.shot.picture) if take else ABSENT


def _end(take: Take | None) -> str:
    if take is None:
        return ABSENT
    said = _likeness_text(take.want.likeness)
    return _cell(take.shot.picture, said, "off" if take.want.likeness.differing else "")


def _held(take: Take | None) -> str:
    if take is None or take.recorded is None:
        return ABSENT
    return _cell(take.recorded.shot.picture, _likeness_text(take.recorded.likeness))


def _row(label: str, cells: Sequence[str]) -> str:
    return f"<tr><th>{escape(label)}</th>{''.join(cells)}</tr>"


def _cell(picture: Image, said: str = "", tone: str = "") -> str:
    shape = "tiny" if picture.width < SHOWN else ""
    return (
        f'<td class="{tone}"><img alt="" class="{shape}" src="{_data(picture)}">'
        f"<small>{said}</small></td>"
    )


def _likeness_text(likeness: Likeness) -> str:
    """Figures for people."""
    if not likeness.differing and math.isinf(likeness.psnr):
        return '<span class="good">equal to the bit</span><br>PSNR ∞, SSIM 1<br>max |diff| 0'
    ratio = "∞" if math.isinf(likeness.psnr) else f"{likeness.psnr:.1f} dB"
    return (
        f"PSNR {ratio}<br>SSIM {likeness.ssim:.4f}<br>"
        f"max |diff| {likeness.levels} of 255<br>"
        f"latents {number(likeness.latents)}"
    )


def _data(picture: Image) -> str:
    shown = picture.copy()
    shown.thumbnail((2 * SHOWN, 2 * SHOWN))
    file = BytesIO()
    shown.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _section(title: str, heads: Sequence[str], rows: str) -> str:
    """A headed table; the name of a column of numbers begins with #."""
    cells = "".join(
        f'<th class="number">{head[1:]}</th>' if head.startswith("#") else f"<th>{head}</th>"
        for head in heads
    )
    return (
        f'<h2>{title}</h2><div class="wide"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
