"""A whole check: the laws on one model, then every path on fresh ones."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.engine.run import Tick
from loraloom.pipelines import media

from .law import Bounds, Finding, Law
from .laws import FAILURES, RESTORED, TRIALS, cases, failed, judge
from .paths import ALIKE, Compared, Path, Take, paths, walk
from .slot import Setting, Slot
from .studio import Attire, Shot, Studio, changed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loraloom.core.provenance import Asked
    from loraloom.core.request import Policy
    from loraloom.engine.loom import Loom
    from loraloom.engine.run import Progress

POLICIES: tuple[Policy, ...] = ("live", "fused")
"""The ways of wearing whose bytes depend on nothing but what is worn."""

ELSEWHERE = "another machine or version sums in another order, carried through every step"
RECORDED_PSNR = Law(
    "recorded picture, PSNR",
    "the picture at the end of a path and that of the record",
    "dB",
    Bounds(45, 25, 30, ELSEWHERE),
    "at least",
)
RECORDED_SSIM = Law(
    "recorded picture, SSIM",
    "the picture at the end of a path and that of the record",
    "",
    Bounds(0.995, 0.9, 0.95, ELSEWHERE),
    "at least",
)
RECORDED_LATENTS = Law(
    "recorded latents",
    "the latents at the end of a path and those of the record, largest difference",
    "of latents",
    Bounds(1e-3, 0.5, 0.1, ELSEWHERE),
)


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """What to check.

    Attributes:
        load: a fresh model with all adapters that are named, at every call.
        names: of the adapters.
        recorded: shots to compare with; may be empty.
    """

    load: Callable[[], Loom]
    names: tuple[str, ...]
    asked: Asked
    recorded: Mapping[Slot, Shot]

    def paths(self, name: str) -> tuple[Path, ...]:
        """Of one adapter, with the one after it as partner."""
        following = self.names[(self.names.index(name) + 1) % len(self.names)]
        return paths(name, following if following != name else None)

    @property
    def slots(self) -> list[Slot]:
        return [
            Slot(name, path.name, policy)
            for name in self.names
            for policy in POLICIES
            for path in self.paths(name)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a check found."""

    setting: Setting
    findings: tuple[Finding, ...]
    takes: tuple[Take, ...]

    @property
    def breaches(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.passed]


def setting_of(loom: Loom, names: Sequence[str], asked: Asked) -> Setting:
    return Setting(
        loom.card.name,
        loom.card.version,
        Studio(loom, asked).dtype,
        asked,
        tuple(loom.adapters.get(name).key for name in names),
        media.versions(),
    )


def run(check: Check, progress: Progress) -> Outcome:
    """Try every law and every path; a breach stops nothing."""
    tried = cases(check.names)
    total = len(tried) * len(TRIALS) + len(check.slots)
    studio = Studio(check.load(), check.asked)
    setting = setting_of(studio.loom, check.names, check.asked)
    findings: list[Finding] = []
    for finding in judge(studio, tried):
        findings.append(finding)
        progress(Tick(len(findings), total, "laws"))
    plain = _plain(check, studio)
    del studio
    takes: list[Take] = []
    for name in check.names:
        for policy in POLICIES:
            for made in _paths(check, name, policy, plain):
                findings += made.findings
                takes += made.takes
            progress(Tick(len(tried) * len(TRIALS) + len(takes), total, name))
    return Outcome(setting, tuple(findings), tuple(takes))


@dataclass(frozen=True, slots=True)
class Goal:
    """An attire and how it is worn."""

    attire: Attire
    policy: Policy


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What one path led to: its findings, and its picture if it could be made."""

    findings: tuple[Finding, ...]
    takes: tuple[Take, ...] = ()


def _plain(check: Check, studio: Studio) -> Mapping[Goal, Shot]:
    """What every path should end in, as far as it can be made."""
    made = {}
    for name in check.names:
        for path in check.paths(name):
            for goal in (Goal(path.goal, policy) for policy in POLICIES):
                try:
                    made[goal] = studio.plain(goal.attire, goal.policy)
                except FAILURES:
                    continue  # the path to it finds that it lacks
    return made


def _paths(check: Check, name: str, policy: Policy, plain: Mapping[Goal, Shot]) -> Iterator[Made]:
    """All paths of one adapter, one after the other on one fresh model."""
    gc.collect()  # the model before this one, whose modules hold each other
    studio = Studio(check.load(), check.asked)
    before = studio.fingerprint()
    for path in check.paths(name):
        yield _path(check, studio, path, Slot(name, path.name, policy), plain)
    bound = RESTORED.bounds.of(studio.dtype)
    off = len(changed(before, studio.fingerprint()))
    yield Made((Finding(RESTORED, f"{name}, all paths, {policy}", off, bound),))


def _path(check: Check, studio: Studio, path: Path, slot: Slot, plain: Mapping[Goal, Shot]) -> Made:
    bound = ALIKE.bounds.of(studio.dtype)
    try:
        shot = walk(studio, path, slot.policy)
        want = plain[Goal(path.goal, slot.policy)]
    except FAILURES as error:
        return Made((failed(ALIKE, str(slot), bound, error),))
    except KeyError:
        said = "what it should equal could not be made"
        return Made((Finding(ALIKE, str(slot), float("nan"), bound, said),))
    held = check.recorded.get(slot)
    recorded = Compared(held, shot.likeness(held)) if held else None
    take = Take(slot, path, shot, Compared(want, shot.likeness(want)), recorded)
    alike = Finding(ALIKE, str(slot), take.want.likeness.differing, bound)
    return Made((alike, *_against(studio, take)), (take,))


def _against(studio: Studio, take: Take) -> Iterator[Finding]:
    if take.recorded is None:
        return
    found = take.recorded.likeness
    for law, figure in (
        (RECORDED_PSNR, found.psnr),
        (RECORDED_SSIM, found.ssim),
        (RECORDED_LATENTS, found.latents),
    ):
        yield Finding(law, str(take.slot), figure, law.bounds.of(studio.dtype))
