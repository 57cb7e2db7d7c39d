"""Pictures, an edit and a video with the official client: ``python openai_client.py [ADDRESS]``."""

from __future__ import annotations

import base64
import io
import sys
import warnings
from pathlib import Path

from openai import OpenAI

address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
client = OpenAI(base_url=f"{address}/v1", api_key="none")

for model in client.models.list():
    print(model.id)

# what OpenAI's API does not know goes into extra_body
made = client.images.generate(
    model="base",
    prompt="a large red star on a white background",
    size="64x64",
    extra_body={"steps": 4, "seed": 7, "loras": [{"name": "neon", "scale": 0.8}]},
)
picture = base64.b64decode(made.data[0].b64_json)
Path("star.png").write_bytes(picture)
print("wears", [(worn["name"], worn["scale"], worn["mode"]) for worn in made.loras])

# an adapter as a model, at its default strength
model = f"{next(iter(client.models.list())).id}:sketch"
edited = client.images.edit(
    model=model,
    image=("star.png", io.BytesIO(picture), "image/png"),
    prompt="a large blue star on a white background",
    size="64x64",
    extra_body={"steps": 4, "strength": 0.7},
)
Path("edited.png").write_bytes(base64.b64decode(edited.data[0].b64_json))

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI's mark on all of client.videos
    # a form carries the adapters as one JSON text
    video = client.videos.create_and_poll(
        prompt="a red star that turns",
        seconds="1",
        size="64x64",
        extra_body={"steps": 4, "loras": '[{"name": "neon"}]'},
    )
    client.videos.download_content(video.id).write_to_file("star.mp4")
print("video", video.status)
