"""From keys to entries, for every format that spells two factors and an alpha for each layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeAlias

from .reading import Entry, Problem, Reading, counted
from .scale import METADATA, rules_of, scalars
from .unsupported import unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from loraloom.core.mix import Shape

    from .header import Header
    from .names import NameTable, Place
    from .source import Source

Role: TypeAlias = Literal["down", "up", "alpha"]
ROLES: tuple[Role, Role] = ("down", "up")

FLOATS = ("F16", "BF16", "F32", "F64")
NEAR = 4
"""Layers of a file that get near misses: finding them takes milliseconds each."""

SAID, MOST_SAID = 2000, 200
"""Characters of each thing that a file says of itself, and things, that are kept to be shown."""

NO_LAYER = "no layer of this name"
NO_SUFFIX = "neither factor nor alpha"


@dataclass(frozen=True, slots=True)
class Factor:
    """What a key is of a layer; ``slot`` is the adapter's name where the key carries one."""

    layer: str
    role: Role
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Format:
    """How a format spells its keys; ``factor`` gives None for what it does not know."""

    name: str
    factor: Callable[[str], Factor | None]


@dataclass(frozen=True, slots=True)
class Group:
    """The keys of one layer, as the file spells it."""

    layer: str
    factors: dict[str, Factor] = field(default_factory=dict)
    strange: dict[str, str] = field(default_factory=dict)
    """Keys that no reader knows, with the reason."""

    @property
    def keys(self) -> list[str]:
        return [*self.factors, *self.strange]

    def of(self, role: Role) -> list[str]:
        return [key for key, factor in self.factors.items() if factor.role == role]


@dataclass(frozen=True, slots=True)
class Pair:
    """A group that fits its layer."""

    group: Group
    place: Place
    rank: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A group that cannot be used; all of it, for half a layer is another adapter."""

    group: Group
    reason: str
    detail: str = ""

    def problems(self, near: tuple[str, ...]) -> list[Problem]:
        """One for each key; the first carries what is ``near``."""
        return [
            Problem(key, self.group.strange.get(key, self.reason), () if i else near, self.detail)
            for i, key in enumerate(self.group.keys)
        ]


def read_pairs(form: Format, source: Source, names: NameTable, alpha: float | None) -> Reading:
    """Every key of ``source`` as part of an entry or as a problem.

    Raises:
        AdapterConfigError: what is said of ranks and alphas is malformed or contradictory.
    """
    rules = rules_of(source, names, alpha)
    verdicts = [judge(group, names, source.header) for group in grouped(form, source.header)]
    verdicts = list(_once(verdicts, names))
    pairs = [verdict for verdict in verdicts if isinstance(verdict, Pair)]
    own = scalars(source.header, [key for pair in pairs for key in pair.group.of("alpha")])
    entries: list[Entry] = []
    differing: list[Place] = []
    for pair in sorted(pairs, key=lambda pair: pair.place):
        (down,), (up,) = pair.group.of("down"), pair.group.of("up")
        said = [own[key] for key in pair.group.of("alpha")]
        scale = rules.scale(pair.place, pair.rank, said[0] if said else None)
        entries.append(Entry(pair.place, down, up, pair.rank, scale.factor, scale.alpha))
        if scale.other not in (None, scale.factor):
            differing.append(pair.place)
    return Reading(
        source,
        form.name,
        tuple(entries),
        _problems([verdict for verdict in verdicts if isinstance(verdict, Refusal)], names),
        len(names),
        _notes(differing),
        _about(source),
    )


def grouped(form: Format, header: Header) -> list[Group]:
    """The keys of a file by the layer that they speak of."""
    groups: dict[str, Group] = {}
    strange: list[str] = []
    for key in header.tensors:
        factor = form.factor(key)
        if factor is None:
            strange.append(key)
        else:
            groups.setdefault(factor.layer, Group(factor.layer)).factors[key] = factor
    for key in strange:
        kind = unsupported(key)
        layer = kind.layer if kind else _owner(key, groups)
        reason = kind.reason if kind else NO_SUFFIX
        groups.setdefault(layer, Group(layer)).strange[key] = reason
    return list(groups.values())


def _owner(key: str, groups: Mapping[str, Group]) -> str:
    """The layer that a key of unknown meaning hangs on, else the key itself."""
    path = key
    while "." in path:
        path = path.rpartition(".")[0]
        if path in groups:
            return path
    return key


def judge(group: Group, names: NameTable, header: Header) -> Pair | Refusal:
    """Whether a group is one pair of factors that fits a layer of the model."""
    if group.strange:
        first = next(iter(group.strange.values()))
        return Refusal(group, f"on a layer with a key that is {first}")
    place = names.locate(group.layer)
    if place is None:
        return Refusal(group, NO_LAYER)
    incomplete = _incomplete(group)
    if incomplete:
        return Refusal(group, incomplete)
    return _fit(group, place, names.shape(place), header)


def _incomplete(group: Group) -> str | None:
    downs, ups, alphas = (len(group.of(role)) for role in ("down", "up", "alpha"))
    slots = {group.factors[key].slot for role in ROLES for key in group.of(role)}
    if not downs and not ups:
        return "alpha without factors"
    if not ups:
        return "down factor (A) without up factor (B)"
    if not downs:
        return "up factor (B) without down factor (A)"
    if max(downs, ups, alphas) > 1 or len(slots) > 1:
        return "several adapters for one layer"
    return None


def _fit(group: Group, place: Place, layer: Shape, header: Header) -> Pair | Refusal:
    """``layer`` is the shape ``(out, in, *kernel)`` of the weight at ``place``."""
    down, up = (header.tensors[group.of(role)[0]] for role in ROLES)
    if not {down.dtype, up.dtype} <= set(FLOATS):
        got = f"down is {down.dtype}, up is {up.dtype}, want {', '.join(FLOATS)}"
        return Refusal(group, "factors of no known float type", got)
    if min(len(down.shape), len(up.shape)) < 2:
        got = f"down is {list(down.shape)}, up is {list(up.shape)}, want two dimensions or more"
        return Refusal(group, "factors that are no matrices", got)
    rank, *inside = down.shape
    outside, inner, *ones = up.shape
    pointwise = len(ones) == len(inside) - 1 and set(ones) <= {1}
    if rank != inner or rank == 0 or not pointwise or (outside, *inside) != layer:
        got = (
            f"up is {spelled(up.shape)} and down {spelled(down.shape)}, "
            f"the layer '{place}' is {spelled(layer)} ({axes(layer)})"
        )
        return Refusal(group, "does not fit its layer", got)
    return Pair(group, place, rank)


def spelled(shape: Shape) -> str:
    """``8x4``."""
    return "x".join(map(str, shape))


def axes(shape: Shape) -> str:
    """What the axes of a weight are."""
    return "out x in" if len(shape) == 2 else "out x in x kernel"


def _once(verdicts: Sequence[Pair | Refusal], names: NameTable) -> Iterable[Pair | Refusal]:
    """The verdicts, but no pair of a layer of which other keys speak under another spelling."""
    located = (names.locate(verdict.group.layer) for verdict in verdicts)
    times = Counter(place for place in located if place)
    for verdict in verdicts:
        if isinstance(verdict, Pair) and times[verdict.place] > 1:
            what = f"'{verdict.place}' is spelled in {times[verdict.place]} ways"
            yield Refusal(verdict.group, "several adapters for one layer", what)
        else:
            yield verdict


def _problems(refusals: Sequence[Refusal], names: NameTable) -> tuple[Problem, ...]:
    problems: list[Problem] = []
    looked_up = 0
    for refusal in refusals:
        wanted = refusal.reason == NO_LAYER and looked_up < NEAR
        looked_up += wanted
        problems.extend(refusal.problems(names.near(refusal.group.layer) if wanted else ()))
    return tuple(problems)


def _notes(differing: Sequence[Place]) -> tuple[str, ...]:
    if not differing:
        return ()
    return (
        f"{counted(len(differing), 'layer')} with an alpha tensor that counts although the caller "
        f"or a configuration says another; the first is '{differing[0]}'",
    )


def _about(source: Source) -> Mapping[str, str]:
    said = source.header.metadata.items()
    about = {key[:SAID]: _cut(text) for key, text in said if key not in (METADATA, "format")}
    about = dict(islice(about.items(), MOST_SAID))
    base = (source.config or {}).get("base_model_name_or_path")
    return {**about, "base_model_name_or_path": _cut(base)} if isinstance(base, str) else about


def _cut(text: str) -> str:
    return text if len(text) <= SAID else f"{text[:SAID]}..."
