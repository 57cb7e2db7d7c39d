"""``loraloom generate``: prompts to a picture or video file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from loraloom.core.request import Sampling
from loraloom.engine.job import completed
from loraloom.engine.press import write
from loraloom.engine.resources import known_type, readings
from loraloom.engine.wishes import Wish, parse_wishes
from loraloom.errors import (
    DigestMismatchError,
    InvalidRequestError,
    ModelError,
    UnknownAdapterError,
)
from loraloom.models import find
from loraloom.pipelines import media

from . import flags
from .console import counting, note
from .loading import Machine, Task, load
from .options import Spot, parse_seen, parse_size, parse_spot, targets
from .order import Glance, Look, Order, Still, canvas_of, check, policy_of, requests, stages_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loraloom.core.request import Policy, Request
    from loraloom.engine.loom import Loom, Result
    from loraloom.models.card import Card


def generate(  # noqa: PLR0913 - a command's options are its parameters
    prompts: flags.Prompts = None,
    *,
    output: flags.Output,
    lora: flags.Loras = None,
    seed: flags.Seed = None,
    size: flags.SizeText = None,
    frames: flags.Frames = None,
    steps: flags.Steps = None,
    guidance: flags.Guidance = None,
    pipeline: flags.Pipeline = None,
    audio: flags.Audio = None,
    negative: flags.Negative = None,
    image: flags.Images = None,
    reference: flags.References = None,
    downscale: flags.Downscale = None,
    model: flags.Model = None,
    policy: flags.Worn = None,
    residency: flags.Keeping = "original",
    offload: flags.Offloading = "together",
    device: flags.Device = "cpu",
    dtype: flags.Dtype = None,
    alpha: flags.Alpha = None,
    allow_partial: flags.AllowPartial = False,
    like: flags.Like = None,
) -> None:
    """Make pictures or videos, wearing adapters.

    A .png or .webp is a picture, an .mp4 a video; several prompts write NAME-1, NAME-2 and so on.
    """
    order = Order(
        prompts=tuple(prompts or ()),
        wishes=parse_wishes(lora or ()),
        look=Look(
            seed,
            negative,
            parse_size(size) if size else None,
            frames,
            pipeline,
            Sampling(steps, guidance),
            audio,
        ),
        kind=media.kind_of(output),
        images=tuple(_still(parse_spot(text)) for text in image or ()),
        references=tuple(_glance(parse_seen(text), downscale) for text in reference or ()),
        like=media.read_provenance(like) if like else None,
    )
    kind = known_type(dtype or flags.usual_type(device))
    machine = Machine(device, kind, residency, offload)
    carry_out(order, How(output, model, policy, alpha, allow_partial, machine))


def _still(spot: Spot) -> Still:
    return Still(media.load_image(spot.path), spot.frame, spot.strength)


def _glance(spot: Spot, downscale: int | None) -> Glance:
    return Glance(tuple(media.load_shown(spot.path)), spot.strength, downscale)


@dataclass(frozen=True, slots=True)
class How:
    """The options that are not about a picture but about where it goes and who makes it."""

    output: Path
    model: str | None
    policy: Policy | None
    alpha: float | None
    allow_partial: bool
    machine: Machine


def carry_out(order: Order, how: How) -> None:
    """Make what is ordered. Whatever can be refused is refused before torch is imported."""
    check(order, how.output)
    paths = targets(how.output, len(order.all_prompts))
    for path in paths:
        media.check_target(path, order.kind)
    if (how.alpha is not None or how.allow_partial) and not any(w.path for w in order.wishes):
        raise InvalidRequestError("--alpha and --allow-partial are for files, --lora NAME=PATH")
    card = find.card(how.model or (order.like.model if order.like else flags.MODEL))
    _check_card(order, card, how)
    _note_changes(order, how.machine)
    asked = requests(order, card.defaults)
    for each in asked:
        completed(each, card)
    if order.kind == "video":
        card.check_video(canvas_of(order, card.defaults))
    loom = _load(order, how, _task(order, how, card))
    started = time.perf_counter()
    results = _make(loom, asked, order, how)
    seconds = time.perf_counter() - started
    for path, result in zip(paths, results, strict=True):
        write(result, path, card)
        _tell(path, result)
    typer.echo(f"made in {seconds:.1f} s")


def _check_card(order: Order, card: Card, how: How) -> None:
    """Return if every adapter comes with the model, or from a file.

    Raises:
        ModelError: the remade file is of another version of the model, and none was chosen.
        UnknownAdapterError: an adapter is neither.
        InvalidRequestError: the remade file wore one that is neither.
    """
    like = order.like
    if like and how.model is None and like.model_version != card.version:
        raise ModelError(
            f"model {card.name!r} is version {card.version[:12]}, the file was made with "
            f"{like.model_version[:12]}; give --model to use it all the same"
        )
    known = {*card.adapters, *(wish.name for wish in order.wishes if wish.path)}
    for worn in order.kept:
        if worn.name not in known:
            raise InvalidRequestError(
                f"the file wore {worn}, which does not come with model {card.name!r}; "
                f"give it with --lora {worn.name}=PATH"
            )
    before = {worn.name for worn in like.worn} if like else set()
    for wish in order.wishes:
        if wish.name not in known | before:
            raise UnknownAdapterError(wish.name, known)


def _note_changes(order: Order, machine: Machine) -> None:
    """Say what keeps the file from being made again bit for bit, where that is no error."""
    if order.like is None:
        return
    pairs = zip(order.images, order.like.asked.images, strict=False)
    if any(media.digest_of_image(still.image) != shown.digest for still, shown in pairs):
        note("an image of --image is not the one that the file was made from")
    looked = zip(order.references, order.like.asked.references, strict=False)
    if any(media.digest_of_frames(each.frames) != seen.digest for each, seen in looked):
        note("a video of --reference is not the one that the file was made from")
    fused = {worn.manner.mode for worn in order.like.worn if order.like.policy == "live"}
    if "fused" in fused and machine.residency == "original":
        note("what the stages wore was fused, and is not with this --residency; bits may differ")
    if order.like.versions != (here := media.versions()):
        note(f"the file was made with {order.like.versions}, this is {here}; bits may differ")


def _task(order: Order, how: How, card: Card) -> Task:
    """What the model is for; tell what of the files of ``--lora NAME=PATH`` does not fit it."""
    given = {wish.name for wish in order.wishes}
    kept = (Wish(worn.name) for worn in order.kept if worn.name not in given)
    # one that is taken off may come from nowhere
    wishes = [w for w in (*order.wishes, *kept) if w.path or w.name in card.adapters]
    brought = readings(card, wishes, alpha=how.alpha, allow_partial=how.allow_partial)
    for reading in brought.values():
        if reading.problems:
            note(reading.summary())
    usual = card.defaults
    return Task(card, stages_of(order, usual), canvas_of(order, usual), brought)


def _load(order: Order, how: How, task: Task) -> Loom:
    """The model with its own adapters and those of ``--lora NAME=PATH``.

    Raises:
        DigestMismatchError: an adapter of the remade file has other content here.
    """
    loom = load(task.card.name, how.machine, task)
    for wish in order.wishes:
        if wish.path:
            loom.adapters.add(
                wish.name,
                wish.path,
                component=wish.component,
                alpha=how.alpha,
                allow_partial=how.allow_partial,
            )
    for worn in order.kept:
        digest = loom.adapters.get(worn.name).key.digest
        if digest != worn.digest:
            raise DigestMismatchError(
                f"adapter {worn.name!r} has digest {digest}, the file was made with {worn.digest}"
            )
    return loom


def _make(loom: Loom, asked: Sequence[Request], order: Order, how: How) -> Sequence[Result]:
    make = loom.videos if order.kind == "video" else loom.images
    with counting(order.kind) as progress:
        return make(asked, policy=policy_of(how.policy, order.like), progress=progress)


def _tell(path: Path, result: Result) -> None:
    typer.echo(f"{path}  seed {result.request.seed}")
    for worn in result.worn:
        if not worn.strength:
            typer.echo(f"  has {worn}")
            continue
        said = worn.manner if result.policy == "auto" else worn.manner.mode
        typer.echo(f"  wears {worn} ({said})")
    if not result.worn:
        typer.echo("  wears nothing")
