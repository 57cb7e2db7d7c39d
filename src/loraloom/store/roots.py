"""The folders that a server may read adapters from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.errors import AdapterFileError, SourceError
from loraloom.formats.source import CONFIG, file_at

if TYPE_CHECKING:
    from collections.abc import Sequence


class Roots:
    """Folders below which a path has to lie, with every symbolic link followed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folder.expanduser().resolve() for folder in folders)

    def inside(self, text: str) -> Path:
        """The adapter file that ``text`` means: absolute, or in one of the folders.

        A folder means the adapter file in it. Messages repeat what the caller wrote and no more,
        and whether something lies outside is not told.

        Raises:
            SourceError: it is not below an allowed folder, or is not there.
            AdapterFileError: it is a folder that holds no adapter file, or several.
        """
        if not self.folders:
            raise SourceError(f"path '{text}' is refused: no folder is allowed to be read")
        below = [path for path in self._candidates(text) if self._is_below(path)]
        if not below:
            raise SourceError(f"path '{text}' is not below a folder that is allowed to be read")
        path = next((each for each in below if _is_there(each)), None)
        if path is None:
            raise SourceError(f"there is no '{text}' in the folders that are allowed to be read")
        file = self._file(path, text)
        # what is said beside the file is read with it
        if not all(self._is_below(each) for each in (file, file.with_name(CONFIG))):
            raise SourceError(f"path '{text}' leads out of the folders that are allowed to be read")
        # the name is kept: beside the target of a link lies no configuration
        return file.parent.resolve() / file.name

    def _file(self, path: Path, text: str) -> Path:
        try:
            return file_at(path)
        except AdapterFileError as error:
            raise AdapterFileError(str(error).replace(str(path), text)) from error

    def _candidates(self, text: str) -> list[Path]:
        return [folder / text for folder in self.folders]

    def _is_below(self, path: Path) -> bool:
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):  # loops of links, NUL, names too long
            return False
        return any(real.is_relative_to(folder) for folder in self.folders)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a folder that may not be entered
        return False
