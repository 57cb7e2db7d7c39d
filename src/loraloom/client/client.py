"""Calls to a server, waiting for what it makes, and its adapters."""

from __future__ import annotations

import json
import mimetypes
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from loraloom.errors import ApiError
from loraloom.formats.source import CONFIG, file_at

from . import wire
from .wire import Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike
    from typing import BinaryIO, Self

    from .wire import JobEvent, Json, Wears

PATIENT = 5
"""How often a call is made that the server has no room for, or a stream opened that breaks off."""


class Client:
    """Calls to one server.

    Options of calls are the fields of the HTTP interface: ``size="128x128"``, ``steps=8``,
    ``seed=7``, ``negative_prompt``, ``guidance_scale``, ``pipeline``, ``model``, ``timeout`` …

    Args:
        timeout: seconds that one answer may take.

    Raises:
        ApiError: from every call that the server refuses, or that does not reach it.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        timeout: float = 900.0,
    ) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        limit = httpx2.Timeout(timeout, connect=10.0)
        self._http = httpx2.Client(base_url=base_url, headers=headers, timeout=limit)
        self.adapters = Adapters(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def image(self, prompt: str, loras: Wears = None, **options: Any) -> Picture:
        """One picture."""
        (picture,) = self.images(prompt, loras, **options)
        return picture

    def images(self, prompt: str, loras: Wears = None, **options: Any) -> list[Picture]:
        """Several pictures of one batch: ``n`` of them, or one for each of ``mixes``."""
        body = {**wire.fields(prompt, loras, options), "response_format": "b64_json"}
        return wire.pictures(self.call("POST", "/v1/images/generations", json=body))

    def submit(self, prompt: str, loras: Wears = None, **options: Any) -> Json:
        """Ask for pictures as :meth:`images` does, and do not wait: the job that makes them."""
        body = {**wire.fields(prompt, loras, options), "async": True}
        return self.call("POST", "/v1/images/generations", json=body)

    def results(self, id: str) -> list[Picture]:  # noqa: A002 - its one name
        """The pictures of a job that is completed."""
        found = []
        for index, result in enumerate(self.job(id)["results"]):
            with self.stream("GET", f"/v1/results/{id}/{index}") as answer:
                data = answer.read()
            found.append(Picture(data, result["seed"], tuple(result["loras"]), id))
        return found

    def edit(
        self, image: str | PathLike[str], prompt: str, loras: Wears = None, **options: Any
    ) -> list[Picture]:
        """A picture file drawn over; ``strength`` says how much."""
        fields = {**wire.fields(prompt, loras, options), "response_format": "b64_json"}
        with _parts({"image": Path(image)}) as files:
            answer = self.call("POST", "/v1/images/edits", data=wire.form(fields), files=files)
        return wire.pictures(answer)

    def video(
        self,
        prompt: str,
        loras: Wears = None,
        *,
        first: str | PathLike[str] | None = None,
        last: str | PathLike[str] | None = None,
        **options: Any,
    ) -> Video:
        """Ask for a video; ``first`` and ``last`` are the image files that it begins and ends with.

        It is made meanwhile: see :meth:`Video.wait`.
        """
        fields = wire.fields(prompt, loras, options)
        shown = {"input_reference": first, "last_image": last}
        paths = {name: Path(path) for name, path in shown.items() if path is not None}
        if not paths:
            return Video(self, self.call("POST", "/v1/videos", json=fields))
        with _parts(paths) as files:
            answer = self.call("POST", "/v1/videos", data=wire.form(fields), files=files)
        return Video(self, answer)

    def models(self) -> list[Json]:
        """The model, and every adapter as a model of its own."""
        data: list[Json] = self.call("GET", "/v1/models")["data"]
        return data

    def job(self, id: str) -> Json:  # noqa: A002 - its one name
        """How far a job is."""
        return self.call("GET", f"/v1/jobs/{id}")

    def cancel(self, id: str) -> Json:  # noqa: A002 - likewise
        """End a job between two steps; one that has ended stays as it is."""
        return self.call("DELETE", f"/v1/jobs/{id}")

    def events(self, id: str, *, after: int = 0) -> Iterator[JobEvent]:  # noqa: A002 - likewise
        """What happens to a job, up to its end; a stream that breaks off is taken up again."""
        tries = 0
        while tries < PATIENT:
            tries += 1
            try:
                with self.stream("GET", f"/v1/jobs/{id}/events?after={after}") as answer:
                    for event in wire.events(answer.iter_lines()):
                        tries, after = 0, event.number
                        yield event
                        if event.job["status"] not in {"queued", "running"}:
                            return
            except ApiError as error:
                if error.status or tries == PATIENT:
                    raise
        raise ApiError(0, "unreachable", f"the events of job {id} break off", None)

    def call(self, method: str, path: str, **content: Any) -> Json:
        """One call, and its answer as JSON."""
        with self.stream(method, path, **content) as answer:
            found: Json = json.loads(answer.read())
            return found

    @contextmanager
    def stream(self, method: str, path: str, **content: Any) -> Iterator[httpx2.Response]:
        """One call whose answer is read as it comes; made again while there is no room for it."""
        with ExitStack() as held:
            try:
                for left in reversed(range(PATIENT)):
                    answer = held.enter_context(self._http.stream(method, path, **content))
                    wait = answer.headers.get("retry-after", "")
                    if answer.status_code != 429 or not wait.isdigit() or not left:
                        break
                    held.close()
                    time.sleep(int(wait))
                if answer.is_error:
                    raise wire.refusal(answer.status_code, answer.read())
                yield answer
            except httpx2.TransportError as error:
                where = str(self._http.base_url).rstrip("/") + path
                said = f"{where} cannot be reached: {str(error) or type(error).__name__}"
                raise ApiError(0, "unreachable", said, None) from error


@dataclass(frozen=True, slots=True)
class Video:
    """A video as it was when it was asked for last."""

    client: Client = field(repr=False)
    info: Json

    @property
    def id(self) -> str:
        found: str = self.info["id"]
        return found

    def wait(self, progress: Callable[[Json], None] | None = None) -> Video:
        """The video when it is made; ``progress`` is told of every change of its job.

        Raises:
            ApiError: it is not: cancelled, failed, interrupted.
        """
        for event in self.client.events(self.id):
            if progress is not None:
                progress(event.job)
        video = Video(self.client, self.client.call("GET", f"/v1/videos/{self.id}"))
        if trouble := video.info["error"]:
            raise ApiError(200, trouble["code"], trouble["message"], None)
        return video

    def save(self, path: str | PathLike[str]) -> Path:
        """Download it; what is under ``path`` is the whole video, or what was there before."""
        path = Path(path)
        draft = path.with_name(f".{path.name}.part")
        try:
            call = self.client.stream("GET", f"/v1/videos/{self.id}/content")
            with call as answer, draft.open("wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return path


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters that a server has, by name."""

    client: Client = field(repr=False)

    def list(self) -> Sequence[Json]:
        data: Sequence[Json] = self.client.call("GET", "/v1/adapters")["data"]
        return data

    def get(self, name: str) -> Json:
        return self.client.call("GET", f"/v1/adapters/{name}")

    def add(
        self,
        name: str,
        file: str | PathLike[str] | None = None,
        *,
        source: str | None = None,
        **options: Any,
    ) -> Json:
        """Publish a file or folder of this machine, or a ``source`` that the server gets itself.

        Options are ``component``, ``alpha``, ``allow_partial``, ``strength``, ``triggers``,
        ``aliases``, ``pinned``, ``replace``.
        """
        return self._sent("/v1/adapters", file, {"name": name, "source": source, **options})

    def inspect(
        self,
        file: str | PathLike[str] | None = None,
        *,
        source: str | None = None,
        **options: Any,
    ) -> Json:
        """What a file would do to the model, without publishing it."""
        return self._sent("/v1/adapters/inspect", file, {"source": source, **options})

    def change(self, name: str, **label: Any) -> Json:
        """Another ``strength``, other ``triggers`` or ``aliases``."""
        return self.client.call("PATCH", f"/v1/adapters/{name}", json=label)

    def pin(self, name: str, *, pinned: bool = True) -> Json:
        """Keep it in memory, or no longer."""
        return self.client.call("POST", f"/v1/adapters/{name}/pin", json={"pinned": pinned})

    def withdraw(self, name: str) -> Json:
        """No request finds it any more; those under way go on."""
        return self.client.call("DELETE", f"/v1/adapters/{name}")

    def _sent(self, path: str, file: str | PathLike[str] | None, fields: Json) -> Json:
        fields = {name: value for name, value in fields.items() if value is not None}
        if file is None:
            return self.client.call("POST", path, json=fields)
        weights = file_at(Path(file))
        config = weights.with_name(CONFIG)
        beside = {"config": config} if Path(file).is_dir() and config.is_file() else {}
        with _parts({"file": weights, **beside}) as files:
            return self.client.call("POST", path, data=wire.form(fields), files=files)


@contextmanager
def _parts(paths: Mapping[str, Path]) -> Iterator[dict[str, tuple[str, BinaryIO, str]]]:
    """Files as parts of a form, open while the block runs."""
    with ExitStack() as opened:
        yield {
            field: (
                path.name,
                opened.enter_context(path.open("rb")),
                mimetypes.guess_type(path.name)[0] or "application/octet-stream",
            )
            for field, path in paths.items()
        }
