"""The official client of OpenAI, which knows nothing of this server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from PIL import Image

from .conftest import CLIP, SMALL
from .test_images import png

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

# every method of client.videos is marked deprecated in openai 3.52; the contract is ours
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

OURS = {"steps": SMALL["steps"], "seed": SMALL["seed"]}


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", timeout=60) as made:
        yield made


def opened(text: str | None) -> Image.Image:
    assert text
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_images_are_generated_with_adapters_as_extra_fields(client: openai.OpenAI) -> None:
    made = client.images.generate(
        model="mini",
        prompt=SMALL["prompt"],
        size="64x64",
        n=2,
        extra_body={**OURS, "loras": [{"name": "neon", "scale": 0.5}]},
    )
    assert made.data
    assert made.usage
    assert made.model_extra
    assert made.data[1].model_extra
    assert opened(made.data[0].b64_json).size == (64, 64)
    assert made.output_format == "png"
    assert made.usage.total_tokens == 0
    assert made.usage.input_tokens_details.image_tokens == 0
    assert made.model_extra["loras"][0]["name"] == "neon"
    assert made.data[1].model_extra["seed"] == SMALL["seed"] + 1


def test_a_link_is_answered_where_one_is_asked_for(
    client: openai.OpenAI, http: httpx2.Client
) -> None:
    made = client.images.generate(
        model="mini:neon", prompt="a", response_format="url", extra_body={**OURS, "size": "64x64"}
    )
    assert made.data
    assert made.data[0].url
    assert http.get(made.data[0].url).content.startswith(b"\x89PNG")


def test_images_are_streamed(client: openai.OpenAI) -> None:
    body = {**OURS, "size": "64x64"}
    with client.images.generate(
        model="mini", prompt=SMALL["prompt"], stream=True, n=2, extra_body=body
    ) as stream:
        found = list(stream)
    assert [event.type for event in found] == ["image_generation.completed"] * 2
    assert opened(found[0].b64_json).size == (64, 64)
    assert found[0].usage.total_tokens == 0  # type: ignore[union-attr]


def test_images_are_edited(client: openai.OpenAI) -> None:
    image = png(Image.new("RGB", (64, 64), "red"))
    loras = json.dumps([{"name": "sketch"}])
    made = client.images.edit(
        model="mini",
        image=("a.png", image),
        prompt="a large blue star on a black background",
        extra_body={**OURS, "strength": 0.4, "loras": loras},
    )
    assert made.data
    assert opened(made.data[0].b64_json).width > 0
    assert made.model_extra
    assert made.model_extra["loras"][0]["name"] == "sketch"
    with client.images.edit(
        model="mini", image=("a.png", image), prompt="a", stream=True, extra_body=OURS
    ) as stream:
        assert [event.type for event in stream] == ["image_edit.completed"]


def test_adapters_in_a_form_that_lost_their_pairs_are_refused(client: openai.OpenAI) -> None:
    image = png(Image.new("RGB", (64, 64), "red"))
    with pytest.raises(openai.BadRequestError, match="one field with JSON"):
        client.images.edit(
            model="mini",
            image=("a.png", image),
            prompt="a",
            extra_body={**OURS, "loras": [{"name": "neon", "scale": 1}, {"name": "sketch"}]},
        )
    with pytest.raises(openai.BadRequestError, match="2 times"):
        client.images.edit(model="mini", image=[("a.png", image), ("b.png", image)], prompt="a")


def test_a_video_is_created_polled_downloaded_listed_and_deleted(
    client: openai.OpenAI,
) -> None:
    image = png(Image.new("RGB", (64, 64), "red"))
    body: dict[str, Any] = {**OURS, "loras": json.dumps([{"name": "transition"}])}
    made = client.videos.create_and_poll(
        model="mini",
        prompt=CLIP["prompt"],
        seconds="1",  # type: ignore[arg-type]
        size="64x64",  # type: ignore[arg-type]
        input_reference=("a.png", image),
        extra_body=body,
        poll_interval_ms=50,
    )
    assert made.status == "completed", made.error
    assert made.progress == 100
    assert str(made.size) == "64x64"
    assert made.model_extra
    assert made.model_extra["loras"][0]["name"] == "transition"
    assert client.videos.retrieve(made.id).id == made.id
    data = client.videos.download_content(made.id).read()
    assert data[4:8] == b"ftyp"
    assert client.videos.download_content(made.id, variant="thumbnail").read()[:4] == b"RIFF"
    assert made.id in [video.id for video in client.videos.list(limit=5)]
    assert client.videos.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(made.id)


def test_pages_of_videos_are_fetched_one_after_the_other(client: openai.OpenAI) -> None:
    for _ in range(3):
        client.videos.create(
            model="mini",
            prompt="a",
            size="64x64",  # type: ignore[arg-type]
            extra_body={"steps": 2, "frames": 5},
        )
    first = client.videos.list(limit=2)
    assert len(first.data) == 2
    found = [video.id for _, video in zip(range(5), client.videos.list(limit=2), strict=False)]
    assert len(found) == len(set(found)) >= 3


def test_models_are_listed_and_every_adapter_is_one(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"mini", "mini:neon", "mini:sketch"} <= names
    found = client.models.retrieve("mini:neon")
    assert found.owned_by == "loraloom"
    assert found.model_extra
    assert found.model_extra["parent"] == "mini"
    with pytest.raises(openai.NotFoundError, match="is not known"):
        client.models.retrieve("gpt-image-1")


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="dall-e-3", prompt="a")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="mini", prompt="a", extra_body={"sed": 1})
    assert refused.value.code == "unknown_field"


def test_an_error_in_a_stream_is_raised(client: openai.OpenAI) -> None:
    body = {"steps": 1000, "timeout": 0.3}
    stream = client.images.generate(model="mini", prompt="a", stream=True, extra_body=body)
    with stream, pytest.raises(openai.APIError, match="second"):
        list(stream)


def test_the_client_that_waits_for_many_at_once_works_too(server: str) -> None:
    async def many() -> list[openai.types.ImagesResponse]:
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="none") as client:
            body = {**OURS, "size": "64x64"}
            calls = [
                client.images.generate(model="mini", prompt=f"a {number}", extra_body=body)
                for number in range(4)
            ]
            return await asyncio.gather(*calls)

    assert all(made.data for made in asyncio.run(many()))
