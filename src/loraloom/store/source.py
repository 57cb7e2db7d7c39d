"""Where an adapter comes from, as a user writes it: a path, a hub id, a link of the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from loraloom.errors import InvalidRequestError

HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
VIEWS = ("resolve", "blob", "tree", "raw")
"""What stands before the revision in the hub's links."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
REPOSITORY = re.compile(rf"{_NAME}/{_NAME}")
REVISION = re.compile(r"[\w.+-]+(?:/[\w.+-]+)*")
HUB_ID = re.compile(r"(?P<repository>[^:@]+)(?::(?P<inside>[^:@]*))?(?:@(?P<revision>[^:@]*))?")

WANTED = (
    "want the path of a file or folder, a hub id owner/name[:weight_name][@revision], or a link "
    f"https://{HOSTS[0]}/owner/name/resolve/<revision>/<file>"
)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A file or folder of this machine; whether it may be read is another question."""

    path: Path


@dataclass(frozen=True, slots=True)
class OnHub:
    """A repository of the hub, a file or folder inside it, and a branch, tag or commit."""

    repository: str
    inside: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        inside = f":{self.inside}" if self.inside else ""
        return f"{self.repository}{inside}" + (f"@{self.revision}" if self.revision else "")


Source: TypeAlias = OnDisk | OnHub


def parse(text: str) -> Source:
    """What ``text`` means, by its spelling alone: neither disk nor network is asked.

    ``a/b`` is a hub id; a path that looks so is written ``./a/b``.

    Raises:
        InvalidRequestError: it is spelled as none of them.
    """
    if "\0" in text or not text.strip():
        raise InvalidRequestError(f"a source is {text!r}, {WANTED}")
    if "://" in text:
        return _link(text)
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        return OnDisk(Path(text))
    match = HUB_ID.fullmatch(text)
    if match and REPOSITORY.fullmatch(match["repository"]) and not _is_file(match):
        return _on_hub(text, match["repository"], match["inside"], match["revision"])
    return OnDisk(Path(text))


def _is_file(match: re.Match[str]) -> bool:
    """``styles/neon.safetensors`` names no repository."""
    alone = match["inside"] is None and match["revision"] is None
    return alone and Path(match["repository"]).suffix in (".safetensors", ".bin", ".pt", ".ckpt")


def _link(text: str) -> OnHub:
    try:
        link = urlsplit(text)
    except ValueError as error:
        raise InvalidRequestError(f"a source is {text[:200]!r}, {WANTED}") from error
    if link.scheme != "https" or link.netloc.lower() not in HOSTS:
        raise InvalidRequestError(
            f"a source is {text[:200]!r}; of links only those of https://{HOSTS[0]} are followed; "
            f"{WANTED}"
        )
    parts = [unquote(part) for part in link.path.strip("/").split("/")]
    repository = "/".join(parts[:2])
    if len(parts) == 2:
        return _on_hub(text, repository, None, None)
    if len(parts) < 4 or parts[2] not in VIEWS:
        raise InvalidRequestError(f"a source is {text[:200]!r}, {WANTED}")
    return _on_hub(text, repository, "/".join(parts[4:]) or None, parts[3])


def _on_hub(text: str, repository: str, inside: str | None, revision: str | None) -> OnHub:
    good = REPOSITORY.fullmatch(repository) and ".." not in repository and "--" not in repository
    if inside is not None:
        steps = inside.split("/")
        good = good and not {"", ".", ".."} & set(steps) and inside.isprintable()
        good = good and "\\" not in inside
    if revision is not None:
        good = good and REVISION.fullmatch(revision) and ".." not in revision
    if not good:
        raise InvalidRequestError(f"a source is {text[:200]!r}, {WANTED}")
    return OnHub(repository, inside, revision)
