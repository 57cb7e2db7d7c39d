"""Adapters from where they are to where they can be read: the hub, once for each commit."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url, is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (  # type: ignore[attr-defined] # exported lazily
    WeakFileLock,
    build_hf_headers,
)

from loraloom.errors import (
    AdapterFileError,
    SourceError,
    SourceTooLargeError,
    SourceUnavailableError,
)
from loraloom.formats.header import CONVERT
from loraloom.formats.source import CONFIG, LARGEST_CONFIG, PICKLES, file_at, weights_of

from .disk import keeping
from .source import OnDisk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .source import OnHub, Source

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Fetched:
    """An adapter file that can be read, and where it is from, without any path of this machine."""

    path: Path
    source: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A commit of a repository and the files that it has."""

    repository: str
    commit: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"hub repository '{self.repository}' at {self.commit[:12]}"


class Fetcher:
    """Gets adapters; what came from the hub stays in ``folder``, by repository and commit.

    A file is under its name only when it is whole. What broke off lies beside, and the next call
    asks for the rest of it.

    Args:
        allow_hub: whether anything may be fetched from the hub, or taken that was.
        offline: take from the hub only what is there already; HF_HUB_OFFLINE says the same.
        most_bytes: of an adapter file, asked for before it is fetched.
        hub: address of a mirror; by default that of huggingface_hub, which reads HF_ENDPOINT.
    """

    def __init__(
        self,
        folder: Path,
        *,
        allow_hub: bool = True,
        offline: bool = False,
        most_bytes: int | None = None,
        hub: str | None = None,
    ) -> None:
        self.folder = folder
        self.allow_hub = allow_hub
        self.offline = offline
        self.most_bytes = most_bytes
        self.hub = hub

    def fetch(self, source: Source) -> Fetched:
        """The file of ``source``, and its configuration beside it, on this machine.

        Raises:
            AdapterFileError: there is no adapter file, there are several, or it is a pickle.
            SourceError: it may not be fetched, or is absent.
            SourceTooLargeError: it has more bytes than allowed.
            SourceUnavailableError: the hub cannot be reached, or does not have it for us.
            StorageFullError: the disk has no room.
        """
        if isinstance(source, OnDisk):
            return self._from_disk(source)
        if not self.allow_hub:
            raise SourceError(f"hub id '{source}' is not fetched: the hub is not allowed here")
        offline = self.offline or is_offline_mode() or self._is_here(source)
        found = self._kept(source) if offline else self._listed(source)
        name = _chosen(source, found)
        beside = f"{name.rpartition('/')[0]}/{CONFIG}".lstrip("/")
        if not offline:
            # the configuration first: where the weights are, all is
            if beside in found.files:
                self._download(found, beside, LARGEST_CONFIG)
            self._download(found, name, self.most_bytes)
        path = self._shelf(found.repository) / found.commit / name
        nbytes = path.stat().st_size
        self._check_size(f"'{name}' of {found}", nbytes, self.most_bytes)
        return Fetched(path, f"hub:{found.repository}@{found.commit}/{name}", nbytes)

    def _from_disk(self, source: OnDisk) -> Fetched:
        path = file_at(source.path.expanduser())
        try:
            nbytes = path.stat().st_size
        except OSError as error:
            raise SourceError(f"adapter '{source.path}' is absent or cannot be read") from error
        self._check_size(f"'{path.name}'", nbytes, self.most_bytes)
        return Fetched(path, f"file:{path.name}", nbytes)

    def _shelf(self, repository: str) -> Path:
        return self.folder / repository.replace("/", "--")

    def _ref(self, source: OnHub) -> Path:
        """Where it is noted which commit a branch or tag was when it was last asked for."""
        return self._shelf(source.repository) / "refs" / quote(source.revision or "main", safe="")

    def _is_here(self, source: OnHub) -> bool:
        """Of a commit nothing changes any more, so that nobody need be asked."""
        commit, inside = source.revision or "", source.inside or ""
        file = self._shelf(source.repository) / commit / inside
        return bool(COMMIT.fullmatch(commit)) and file.is_file()

    def _kept(self, source: OnHub) -> _Snapshot:
        """The commit that was fetched before, and the files of it that are here."""
        commit = source.revision or ""
        if not COMMIT.fullmatch(commit):
            ref = self._ref(source)
            commit = ref.read_text(encoding="ascii") if ref.is_file() else ""
        folder = self._shelf(source.repository) / commit
        here = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        if not commit or not here:
            raise SourceUnavailableError(
                f"'{source}' was not fetched before, and Loraloom is offline; fetch it once "
                "online, or give the path of a file"
            )
        return _Snapshot(source.repository, commit, tuple(here))

    def _listed(self, source: OnHub) -> _Snapshot:
        """What the hub says: which commit the revision is, and its files."""
        with _asking(source):
            api = HfApi(endpoint=self.hub)
            info = api.model_info(source.repository, revision=source.revision, timeout=30)
        if info.sha is None or not COMMIT.fullmatch(info.sha):
            raise SourceUnavailableError(f"'{source}': the hub names no commit")
        with keeping(str(source)):
            ref = self._ref(source)
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(info.sha, encoding="ascii")
        listed = [PurePosixPath(file.rfilename) for file in info.siblings or ()]
        # a mirror may say what it likes: nothing is written outside of the folder
        files = tuple(sorted(str(p) for p in listed if not p.is_absolute() and ".." not in p.parts))
        return _Snapshot(source.repository, info.sha, files)

    def _download(self, found: _Snapshot, name: str, most: int | None) -> None:
        shelf = self._shelf(found.repository)
        target = shelf / found.commit / name
        if target.is_file():
            return
        who = f"'{name}' of {found}"
        url = hf_hub_url(found.repository, name, revision=found.commit, endpoint=self.hub)
        with _asking(found):
            said = get_hf_file_metadata(url, headers=build_hf_headers(), endpoint=self.hub)
        if said.size is None or not said.etag:
            raise SourceUnavailableError(f"{who}: the hub does not say its size and its ETag")
        self._check_size(who, said.size, most)
        partial = shelf / "partial" / quote(said.etag, safe="")
        with keeping(who):
            partial.parent.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(partial.with_suffix(".lock")):
            if target.is_file():
                return
            with _asking(found), keeping(who):
                _complete(partial, url, said.size)
            _check_content(partial, said.etag, who)
            with keeping(who):
                target.parent.mkdir(exist_ok=True)  # another file of it may have gone meanwhile
                partial.replace(target)

    def _check_size(self, who: str, nbytes: int, most: int | None) -> None:
        if most is not None and nbytes > most:
            raise SourceTooLargeError(f"{who} has {nbytes} bytes, at most {most} are allowed")


def _chosen(source: OnHub, found: _Snapshot) -> str:
    """The file that is meant."""
    inside = source.inside
    if inside is None:
        return weights_of(found.files, str(found))
    if inside in found.files:
        if inside.endswith(PICKLES):
            raise AdapterFileError(f"'{inside}' of {found} is a pickle; {CONVERT}")
        if not inside.endswith(".safetensors"):
            raise AdapterFileError(f"'{inside}' of {found} is no .safetensors file")
        return inside
    under = [name[len(inside) + 1 :] for name in found.files if name.startswith(f"{inside}/")]
    if under:
        return f"{inside}/{weights_of(under, f'folder {inside!r} of {found}')}"
    raise SourceUnavailableError(f"{found} has no '{inside}'{_instead(found.files)}")


def _instead(files: Sequence[str]) -> str:
    there = [name for name in files if name.endswith(".safetensors")]
    return "; it has " + ", ".join(there[:8]) if there else ""


def _complete(partial: Path, url: str, size: int) -> None:
    """Fetch what ``partial`` lacks of the ``size`` bytes at ``url``."""
    have = partial.stat().st_size if partial.exists() else 0
    if have > size:
        partial.unlink()
        have = 0
    if shutil.disk_usage(partial.parent).free < size - have:
        raise OSError(errno.ENOSPC, "no room")
    with partial.open("ab") as file:
        http_get(url, file, resume_size=have, headers=build_hf_headers(), expected_size=size)


def _check_content(path: Path, etag: str, who: str) -> None:
    """The hub's ETag of a large file is its SHA-256."""
    if not SHA256.fullmatch(etag):
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != etag:
        path.unlink()
        raise SourceUnavailableError(f"{who} came with the digest {digest}, the hub says {etag}")


@contextmanager
def _asking(what: object) -> Iterator[None]:
    """Turn what the hub and its client complain of into one sentence; the token is in none."""
    try:
        yield
    except GatedRepoError as error:
        raise SourceUnavailableError(
            f"{what} is gated: its terms must be accepted, with a token of that user in HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceUnavailableError(
            f"{what} is not on the hub, or is private and this machine's HF_TOKEN may not read it"
        ) from error
    except RevisionNotFoundError as error:
        raise SourceUnavailableError(f"{what} is no revision on the hub") from error
    except EntryNotFoundError as error:
        raise SourceUnavailableError(f"{what} has no such file on the hub") from error
    except HFValidationError as error:
        raise SourceUnavailableError(f"{what} is no name on the hub") from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        raise SourceUnavailableError(f"{what}: the hub answers with status {code}") from error
    except (httpx2.HTTPError, OSError) as error:  # OSError: fewer bytes came than announced
        raise SourceUnavailableError(
            f"{what}: the hub cannot be reached, or broke off ({type(error).__name__}); asking "
            "again goes on from there"
        ) from error
