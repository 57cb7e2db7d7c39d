"""Whether what a request shows can be shown: images and clips in its video, references."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loraloom.core.mix import finite
from loraloom.errors import InvalidRequestError, InvalidStageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loraloom.core.request import Canvas, Condition, Reference, Request
    from loraloom.core.stage import Stage, Stages
    from loraloom.models.card import Card, Grid


def check_conditions(conditions: Sequence[Condition], canvas: Canvas, grid: Grid) -> None:
    """Return if every latent frame is shown one image at most.

    Raises:
        InvalidRequestError: two images are for one of them, one is for none, or a strength is out
            of its range.
    """
    taken: dict[int, int] = {}
    for condition in conditions:
        _check_condition(condition, canvas)
        frame = condition.frame
        first = grid.latent(frame % canvas.frames)
        for place in range(first, first + len(condition.following) // grid.frames + 1):
            if place in taken:
                raise InvalidRequestError(
                    f"images are asked for at frames {taken[place]} and {frame}, which are one "
                    f"frame of the latent video; want them {grid.frames} apart"
                )
            taken[place] = frame


def _check_condition(condition: Condition, canvas: Canvas) -> None:
    frame, following = condition.frame, len(condition.following)
    if not -canvas.frames <= frame < canvas.frames:
        raise InvalidRequestError(
            f"an image is asked for at frame {frame}, the {canvas.frames} frames are 0 to "
            f"{canvas.frames - 1}, or counted from the end -{canvas.frames} to -1"
        )
    if frame % canvas.frames + following >= canvas.frames:
        raise InvalidRequestError(
            f"a clip of {following + 1} frames is asked for at frame {frame}, which goes beyond "
            f"the {canvas.frames} frames of the video"
        )
    if not 0 < finite(condition.strength, "an image") <= 1:
        raise InvalidRequestError(
            f"the strength of an image is {condition.strength}, want more than 0, at most 1"
        )


def check_origin(request: Request) -> None:
    """Return if a request can go on from the picture that it brings.

    Raises:
        InvalidRequestError: it is for a video, shows other images too, or the share that is
            redrawn is out of its range.
    """
    assert request.origin
    assert request.canvas
    if request.canvas.frames != 1:
        raise InvalidRequestError(
            f"a picture is given to make another of, and {request.canvas.frames} frames are asked "
            "for, want 1"
        )
    if request.conditions or request.references:
        raise InvalidRequestError(
            "a picture is given to make another of, and others to show or look at; want one of them"
        )
    if not 0 < finite(request.origin.redrawn, "what is redrawn") <= 1:
        raise InvalidRequestError(
            f"the share that is redrawn is {request.origin.redrawn}, want more than 0, at most 1"
        )


def check_references(
    references: Sequence[Reference], stages: Stages, canvas: Canvas, card: Card
) -> None:
    """Return if the stages of a model can show ``references``.

    Raises:
        InvalidRequestError: the model takes none, no stage sees any, one has no frames or a
            number out of its range, or the VAE cannot divide the size that it is shown at.
    """
    if not references:
        return
    recipes = card.defaults.pipelines.values()
    if not any(stage.references for recipe in recipes for stage in recipe):
        raise InvalidRequestError(
            f"references are asked for ({len(references)}), model {card.name!r} takes none"
        )
    seeing = [stage for stage in stages if stage.references]
    if not seeing:
        names = ", ".join(stage.name for stage in stages)
        raise InvalidStageError(
            f"{len(references)} references are asked for, and of the stages {names} none sees them"
        )
    for reference in references:
        _check_reference(reference)
        for stage in seeing:
            _check_downscale(reference.downscale, stage, canvas, card.grid.pixels)


def _check_reference(reference: Reference) -> None:
    if not reference.frames:
        raise InvalidRequestError("a reference has no frames, want one or more")
    if not 0 < finite(reference.strength, "a reference") <= 1:
        raise InvalidRequestError(
            f"the strength of a reference is {reference.strength}, want more than 0, at most 1"
        )
    if not 0 <= finite(reference.attention, "attention to a reference") <= 1:
        raise InvalidRequestError(
            f"the attention to a reference is {reference.attention}, want 0 to 1"
        )


def _check_downscale(downscale: int, stage: Stage, whole: Canvas, pixels: int) -> None:
    canvas = stage.canvas(whole)
    sides = (canvas.width, canvas.height)
    if not isinstance(downscale, int) or downscale < 1:
        raise InvalidRequestError(
            f"a reference is shown {downscale!r} times smaller, want a whole number from 1"
        )
    if any(side % (downscale * pixels) for side in sides):
        raise InvalidRequestError(
            f"a reference is shown {downscale} times smaller than the {sides[0]}x{sides[1]} of "
            f"stage {stage.name!r}, want sides that are multiples of {downscale} times {pixels}"
        )
