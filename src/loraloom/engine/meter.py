"""Where measured times go. The engine tells; what counts them is somebody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from loraloom.core.lora import Mode

    from .ticket import State


class Meter(Protocol):
    """What is told of the engine's work, in seconds, on its threads: be brief and raise nothing."""

    def moved(self, state: State) -> None:
        """A ticket has come to ``state``."""

    def queued(self, seconds: float) -> None:
        """A ticket waited so long until its first row began."""

    def batched(self, rows: int) -> None:
        """So many rows begin together."""

    def stepped(self, seconds: float) -> None:
        """One step of a batch took so long."""

    def switched(self, mode: Mode, seconds: float) -> None:
        """What a batch wears was put on in this mode."""

    def loaded(self, seconds: float) -> None:
        """A batch waited so long for its adapters to be read."""

    def encoded(self, seconds: float) -> None:
        """Writing one result took so long."""


class Silent:
    """Counts nothing."""

    def moved(self, state: State) -> None: ...
    def queued(self, seconds: float) -> None: ...
    def batched(self, rows: int) -> None: ...
    def stepped(self, seconds: float) -> None: ...
    def switched(self, mode: Mode, seconds: float) -> None: ...
    def loaded(self, seconds: float) -> None: ...
    def encoded(self, seconds: float) -> None: ...


SILENT = Silent()
