"""The default mix: what requests wear that name no adapters. A value that changes whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock
from typing import TYPE_CHECKING

from loraloom.core.lora import Lora
from loraloom.core.records import record
from loraloom.errors import RecordError, SettingsError
from loraloom.store.disk import keeping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class Piece:
    """One adapter of the default mix; at a factor of 0 it is remembered and not worn."""

    lora: Lora
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """All that the default mix consists of, worn or taken off for a while."""

    pieces: tuple[Piece, ...] = ()

    @classmethod
    def of(cls, loras: Iterable[Lora]) -> Standing:
        """Every one of ``loras``, worn as it says."""
        return cls(tuple(Piece(lora) for lora in loras))

    @property
    def mix(self) -> tuple[Lora, ...]:
        """What is worn; one at strength 0 stays, for it takes off what a stage brings."""
        return tuple(
            replace(piece.lora, strength=piece.lora.strength * piece.factor)
            for piece in self.pieces
            if piece.factor
        )


class DefaultMix:
    """The standing of now, the same for all threads, kept in ``file`` over restarts.

    Only requests that come later see a change; those under way have copied what they wear.

    Args:
        file: where it is kept; ``None`` keeps it for this process alone.
        given: what to begin with instead of what the file says; ``None`` has the file's.

    Raises:
        SettingsError: the file holds something else.
    """

    def __init__(self, file: Path | None = None, given: Iterable[Lora] | None = None) -> None:
        self._file = file
        self._lock = Lock()
        self._standing = Standing()
        if given is not None:
            self.set(given)
        elif file is not None and file.is_file():
            self._standing = _read(file)

    @property
    def standing(self) -> Standing:
        """Worn and remembered, at this moment."""
        return self._standing

    @property
    def mix(self) -> tuple[Lora, ...]:
        """What a request wears that names no adapters, at this moment."""
        return self._standing.mix

    def set(self, loras: Iterable[Lora]) -> None:
        """Wear ``loras`` and nothing else."""
        self.change(lambda _: Standing.of(loras))

    def without(self, name: str) -> bool:
        """Leave out the adapter of that name; whether it was part of it."""
        before = self.change(
            lambda now: Standing(tuple(p for p in now.pieces if p.lora.name != name))
        )
        return any(piece.lora.name == name for piece in before.pieces)

    def change(self, change: Callable[[Standing], Standing]) -> Standing:
        """Put ``change`` of the standing in its place, one change at a time; the one before.

        Raises:
            SourceError: it cannot be kept; it is as before. So it is with what ``change`` raises.
        """
        with self._lock:
            before = self._standing
            after = change(before)
            if after != before:
                if self._file is not None:
                    _write(self._file, after)
                self._standing = after
            return before


def _read(file: Path) -> Standing:
    try:
        return record(Standing, json.loads(file.read_bytes()), file.name)
    except (OSError, ValueError, RecordError) as error:
        raise SettingsError(
            f"the default mix in '{file}' is unreadable: {error}; mend or remove the file"
        ) from error


def _write(file: Path, standing: Standing) -> None:
    """Whole or not at all, also where the machine stops in the middle."""
    text = json.dumps(asdict(standing), indent=1, allow_nan=False)
    with (
        keeping("the default mix"),
        NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.", delete=False) as draft,
    ):
        path = Path(draft.name)
        try:
            draft.write(text)
            draft.flush()
            os.fsync(draft.fileno())
            path.replace(file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
