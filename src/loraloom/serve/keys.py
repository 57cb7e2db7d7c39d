"""Who may ask: keys from files, compared in constant time, and who calls by which."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from loraloom.errors import SettingsError

from .errors import Refusal

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom.settings import Settings

LEAST = 16
"""Characters of the shortest key that is taken: one that cannot be guessed."""

LINK_LASTS = 24 * 3600.0
"""Seconds for which a signed link to a result can be used."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose a request is; ``owner`` is no secret, and empty where nobody is told apart."""

    owner: str = ""
    admin: bool = True


@dataclass(frozen=True, slots=True)
class Key:
    """One line of a file of keys: the digest of the key, and who calls by it."""

    digest: bytes
    caller: Caller


class Keys:
    """The keys that are taken, and the secret that links are signed with.

    Args:
        users: keys that everything but changing the catalogue wants.
        admins: keys that may do all; without any, everybody who may ask may do all.
        secret: of signed links.
    """

    def __init__(self, users: tuple[Key, ...], admins: tuple[Key, ...], secret: bytes) -> None:
        self._users = users
        self._admins = admins
        self._secret = secret

    @classmethod
    def read(cls, settings: Settings) -> Keys:
        """Those of the files that the settings name; the secret is made when it is first wanted.

        Raises:
            SettingsError: a file cannot be read, holds no key, or one that is too short.
        """
        admins = _read(settings.admin_key_file, admin=True) if settings.admin_key_file else ()
        users = _read(settings.api_key_file, admin=not admins) if settings.api_key_file else ()
        return cls(users, admins, _secret(settings.state / "links.key"))

    @property
    def wanted(self) -> bool:
        """Whether a request needs a key at all."""
        return bool(self._users)

    def caller(self, authorization: str | None) -> Caller | None:
        """Who calls with a header ``Authorization``; ``None`` has no key that is taken."""
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip()) if scheme.lower() == "bearer" else b""
        found = None
        for each in (*self._users, *self._admins):  # all of them, so that time tells nothing
            if hmac.compare_digest(each.digest, given):
                found = each.caller
        if found is None and not self.wanted:
            return Caller(admin=not self._admins)
        return found

    def signed(self, path: str) -> str:
        """``path`` as whoever has the link may fetch it, for a day; as it is without keys."""
        if not self.wanted:
            return path
        expires = int(time.time() + LINK_LASTS)
        return f"{path}?expires={expires}&signature={self.signature(path, expires)}"

    def opens(self, path: str, expires: str, signature: str) -> bool:
        """Whether a link to ``path`` was signed here and has not run out."""
        if not (expires.isascii() and expires.isdigit() and len(expires) < 16):
            return False
        wanted = self.signature(path, int(expires))
        same = hmac.compare_digest(wanted.encode(), signature.encode("utf-8", "replace"))
        return same and time.time() < int(expires)

    def signature(self, path: str, expires: int) -> str:
        return hmac.new(self._secret, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()


def caller_of(connection: HTTPConnection) -> Caller:
    """Who sent a request, as the guard found; without a key, only :func:`by_link` lets it in."""
    caller: Caller | None = connection.state.caller
    assert caller, "the guard lets nobody else in"
    return caller


def by_link(connection: HTTPConnection) -> bool:
    """Whether a request comes by a signed link, which opens a result for whoever has it."""
    signed: bool = connection.state.signed
    return signed


def administrator(connection: HTTPConnection) -> Caller:
    """Who sent a request that changes what others use.

    Raises:
        Refusal: it needs the key of an administrator.
    """
    caller = caller_of(connection)
    if not caller.admin:
        raise Refusal("forbidden", "this changes what others use, want the key of an administrator")
    return caller


def _read(path: Path, *, admin: bool) -> tuple[Key, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the file of keys '{path}' cannot be read: {error}") from error
    keys = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        name, colon, rest = line.partition(":")
        text = (rest if colon else line).strip()
        if len(text) < LEAST or not text.isascii() or any(map(str.isspace, text)):
            raise SettingsError(
                f"the key in line {number} of '{path}' has {len(text)} characters, want "
                f"{LEAST} or more of ASCII without blanks"
            )
        digest = _digest(text)
        owner = name.strip() if colon else f"key-{digest.hex()[:8]}"
        keys.append(Key(digest, Caller(owner, admin)))
    if not keys:
        raise SettingsError(f"the file of keys '{path}' holds no key")
    return tuple(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _secret(path: Path) -> bytes:
    """The secret of this server, the same after a restart; nobody else may read its file.

    Raises:
        SettingsError: the folder of the state cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and len(found := path.read_bytes()) >= 32:
            return found
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        draft.touch(mode=0o600, exist_ok=False)
        draft.write_bytes(made := secrets.token_bytes(32))
        draft.replace(path)
    except OSError as error:
        raise SettingsError(f"the state cannot be kept in '{path.parent}': {error}") from error
    return made


def keys_of(connection: HTTPConnection) -> Keys:
    """The keys of the server that a request reached."""
    keys: Keys = connection.app.state.keys
    return keys
