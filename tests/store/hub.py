"""A hub on this machine: the endpoints that huggingface_hub asks, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Access = Literal["public", "private", "gated"]
TOKEN = "hf_not_to_be_printed"


@dataclass
class Repository:
    """One commit, which every revision in ``revisions`` is."""

    files: Mapping[str, bytes]
    commit: str = "a" * 40
    revisions: tuple[str, ...] = ("main",)
    access: Access = "public"


@dataclass(frozen=True)
class Asked:
    """One request that came."""

    method: str
    path: str
    span: str | None
    token: str | None


@dataclass
class Hub:
    """What the server has, what it was asked, and how it misbehaves.

    Large files are on another host, as the real hub's are. ``breaks`` are numbers of bytes after
    which the next downloads of large files end; with ``resets`` the connection is reset, too.
    """

    repositories: dict[str, Repository]
    url: str = ""
    elsewhere: str = ""
    asked: list[Asked] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    resets: bool = False
    spoilt: bool = False
    down: bool = False

    def bodies(self) -> list[Asked]:
        """The downloads of large files."""
        return [each for each in self.asked if each.path.startswith("/large/")]


@contextmanager
def running(**repositories: Repository) -> Iterator[Hub]:
    """A hub with repositories of the owner ``neon``."""
    hub = Hub({f"neon/{name}": repository for name, repository in repositories.items()})

    class Handler(_Handler):
        has = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.elsewhere = f"http://localhost:{server.server_port}"
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    has: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def log_message(self, *_: object) -> None:
        pass

    def _route(self) -> None:
        path = unquote(self.path.split("?")[0])
        headers = self.headers
        self.has.asked.append(
            Asked(self.command, path, headers.get("Range"), headers.get("Authorization"))
        )
        parts = path.strip("/").split("/")
        if self.has.down:
            self._send(503)
        elif parts[0] == "large":
            self._large(parts[1])
        elif parts[:2] == ["api", "models"]:
            self._model("/".join(parts[2:4]), "/".join(parts[5:]) or "main")
        else:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def _model(self, name: str, revision: str) -> None:
        repository = self._allowed(name, revision)
        if repository:
            said = {
                "id": name,
                "sha": repository.commit,
                "siblings": [{"rfilename": file} for file in repository.files],
            }
            self._send(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, file: str) -> None:
        repository = self._allowed(name, revision)
        if repository is None:
            return
        body = repository.files.get(file)
        if body is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        digest = hashlib.sha256(body).hexdigest()
        about = {"X-Repo-Commit": repository.commit}
        if not file.endswith(".safetensors"):
            self._send(200, body, {**about, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'})
            return
        about |= {"X-Linked-Size": str(len(body)), "X-Linked-Etag": f'"{digest}"'}
        self._send(302, b"", {**about, "Location": f"{self.has.elsewhere}/large/{digest}"})

    def _large(self, digest: str) -> None:
        files = [body for each in self.has.repositories.values() for body in each.files.values()]
        body = next(each for each in files if hashlib.sha256(each).hexdigest() == digest)
        size = len(body)
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        body = body[::-1] if self.has.spoilt else body
        about = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
        stop = self.has.breaks.pop(0) if self.has.breaks else size
        self._send(206 if start else 200, body[start:], about, stop - start)

    def _allowed(self, name: str, revision: str) -> Repository | None:
        """The repository, or None after an answer that it is not there for this caller."""
        repository = self.has.repositories.get(name)
        token = self.headers.get("Authorization")
        if repository is None:
            self._send(404 if token else 401, b"", {"X-Error-Code": "RepoNotFound"})
        elif repository.access == "gated":
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif repository.access == "private" and token != f"Bearer {TOKEN}":
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in (*repository.revisions, repository.commit):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return repository
        return None

    def _send(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        only: int | None = None,
    ) -> None:
        """An answer, of whose body perhaps ``only`` the beginning comes."""
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:only])
        if only is not None and only < len(body):
            self.close_connection = True
            if self.has.resets:
                time.sleep(0.2)  # till the other side has read what came
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                os.close(self.connection.detach())  # without the orderly end of a shutdown
