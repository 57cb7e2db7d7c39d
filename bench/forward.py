"""Rows: what wearing adapters costs in a forward pass, alone and in a batch of requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from loraloom.core.mix import Applied

from .measure import AtLeast, Row, Way, row
from .sides import ours, peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .measure import Clock, Times
    from .peer import Peer, Strengths
    from .sides import Ours
    from .subject import Subject, Tokens

SAME = 0.01
"""The most that two outputs in bfloat16 may differ, relative to one."""
TOLD = 0.2
"""The most relative to what the adapters do to the output: else one side could be doing less."""
STRONG = 10.0
"""Times the strengths that are measured, so that what adapters do stands out of the rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Both:
    """Ours and the peer with the same adapters."""

    subject: Subject
    ours: Ours
    peer: Peer

    def bare(self, tokens: Tokens, rows: int = 1) -> Way:
        """The model that nobody put anything on."""
        return Way(self.subject.passes(self.subject.plain, tokens, rows))

    def mine(self, worn: Sequence[Strengths], tokens: Tokens) -> Way:
        """A pass of as many rows as ``worn`` has, each wearing its own."""
        run = self.subject.passes(self.subject.module, tokens, len(worn))
        want = Applied.rows([self.ours.mix(each) for each in worn])
        return Way(run, before=lambda: self.ours.model.become(want))

    def mine_at_once(self, worn: Sequence[Strengths], tokens: Tokens) -> Way:
        """The same with putting on what each wears in the time."""
        way = self.mine(worn, tokens)

        def at_once() -> None:
            way.before()
            way.run()

        return Way(at_once)

    def theirs(self, worn: Strengths, tokens: Tokens) -> Way:
        run = self.subject.passes(self.peer.module, tokens)
        return Way(run, before=lambda: self.peer.wear(worn))

    def theirs_in_turn(self, worn: Sequence[Strengths], tokens: Tokens) -> Way:
        """One pass for every request, as nothing else gives each its own."""
        run = self.subject.passes(self.peer.module, tokens)

        def one_by_one() -> None:
            for each in worn:
                self.peer.wear(each)
                run()

        return Way(one_by_one)


def solo(subject: Subject) -> Strengths:
    return {subject.files[0].stem: 1.0}


def blend(subject: Subject) -> Strengths:
    """Four adapters that together change the weights as much as one."""
    return {path.stem: 0.5 for path in subject.files[:4]}


def check(subject: Subject) -> None:
    """Ours and the peer compute the same, or nothing here is worth a measurement."""
    tokens = subject.size.few
    each = [{path.stem: STRONG} for path in subject.files]
    with ours(subject, 8) as side, peer(subject, 8) as other:
        both = Both(subject, side, other)
        bare = _output(both.bare(tokens))
        for weak in (solo(subject), blend(subject)):
            worn = {name: STRONG * strength for name, strength in weak.items()}
            theirs = _output(both.theirs(worn, tokens))
            _same(_output(both.mine([worn], tokens)), theirs, bare)
            side.model.become(Applied(fused=side.mix(worn)))
            _same(subject.passes(subject.module, tokens)(), theirs, bare)
        batch = both.subject.inputs(tokens, 8)
        _output(both.mine(each, tokens))
        together = subject.module(**batch)[0]
        alone = subject.plain(**batch)[0]
        for i, worn in enumerate(each):
            other.wear(worn)
            _same(together[i : i + 1], other.module(**_row(batch, i))[0], alone[i : i + 1])


def _output(way: Way) -> Tensor:
    way.before()
    output = way.run()
    assert isinstance(output, torch.Tensor)
    return output


def _row(batch: dict[str, object], i: int) -> dict[str, object]:
    """One row of what a batch is called with; positions belong to all."""
    return {
        key: value[i : i + 1] if isinstance(value, torch.Tensor) and "ids" not in key else value
        for key, value in batch.items()
    }


def _same(one: Tensor, other: Tensor, bare: Tensor) -> None:
    apart, size, effect = (
        float(each.float().norm()) for each in (one - other, other, other - bare)
    )
    assert apart <= SAME * size, f"outputs differ by {apart / size:.4f} of their size"
    assert apart <= TOLD * effect, f"outputs differ by {apart / effect:.2f} of the adapters' effect"


def overhead(subject: Subject, clock: Clock) -> list[Row]:
    with ours(subject, 4) as side, peer(subject, 4) as other:
        both = Both(subject, side, other)
        tokens = (subject.size.long, subject.size.short)
        return [made for each in tokens for made in _overhead(both, clock, each)]


def _overhead(both: Both, clock: Clock, tokens: Tokens) -> list[Row]:
    one, four = solo(both.subject), blend(both.subject)
    bare, idle, *worn = clock.race(
        both.bare(tokens),
        both.mine([{}], tokens),
        *(both.mine([one], tokens), both.theirs(one, tokens)),
        *(both.mine([four], tokens), both.theirs(four, tokens)),
    )
    return [
        row(f"nothing worn | never touched, {tokens} tokens", idle, bare, AtLeast(0.98)),
        _share(f"overhead of one adapter, {tokens} tokens", worn[:2], bare, AtLeast(2)),
        _share(f"overhead of four, {tokens} tokens", worn[2:], bare, AtLeast(3)),
    ]


def _share(name: str, worn: Sequence[Times], bare: Times, goal: AtLeast) -> Row:
    mine, theirs = worn
    return Row(name, mine.over(bare), theirs.over(bare), goal, mine.spread, "share")


def requests(subject: Subject, clock: Clock) -> list[Row]:
    """Eight requests, each wearing an adapter of its own."""
    with ours(subject, 8) as side, peer(subject, 8) as other:
        both = Both(subject, side, other)
        tokens = (subject.size.short, subject.size.few)
        return [made for each in tokens for made in _requests(both, clock, each)]


def _requests(both: Both, clock: Clock, tokens: Tokens) -> list[Row]:
    worn = [{path.stem: 1.0} for path in both.subject.files]
    mixed, bare, in_turn = clock.race(
        both.mine_at_once(worn, tokens),
        both.bare(tokens, len(worn)),
        both.theirs_in_turn(worn, tokens),
    )
    name = f"8 requests, 8 adapters, {tokens} tokens"
    return [
        row(f"{name} | without any", mixed, bare, AtLeast(0.85)),
        row(f"{name} | one by one", mixed, in_turn, AtLeast(1)),
    ]
