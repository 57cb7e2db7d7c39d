"""The peer of ``bench.serving``: diffusers and peft behind FastAPI, as their guides show it.

The pipeline is called in an executor ("Create a server"), adapters are loaded once and set for
every request ("Load LoRAs"). They are the state of one model, so requests take turns. Two things
the guides do not say, both in its favour: one thread does all that torch does, since with a second
team of OpenMP's threads on as many cores both wait asleep (half as fast here), and the sound that
this pipeline makes with every picture is not decoded.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import uvicorn
from diffusers import LTX2ConditionPipeline
from fastapi import FastAPI
from pydantic import BaseModel

from loraloom.models.find import card
from training.configs import CFG, CLASSIFIER_FREE, FRAME_RATE

from .peer import quiet


class Worn(BaseModel):
    name: str
    scale: float


class Wanted(BaseModel):
    prompt: str
    size: str
    seed: int
    steps: int
    loras: list[Worn]


def load(adapters: Path) -> Any:
    """The pipeline of `mini` with every adapter of a folder."""
    pipe: Any = LTX2ConditionPipeline.from_pretrained(card("mini").root, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for path in sorted(adapters.glob("*.safetensors")):
        pipe.load_lora_weights(path, adapter_name=path.stem)
    return pipe


@torch.no_grad()
def picture(pipe: Any, wanted: Wanted) -> bytes:
    if wanted.loras:
        pipe.enable_lora()
        pipe.set_adapters(
            [each.name for each in wanted.loras], [each.scale for each in wanted.loras]
        )
    else:
        pipe.disable_lora()
    width, height = map(int, wanted.size.split("x"))
    latents = pipe(
        prompt=wanted.prompt,
        negative_prompt="",
        width=width,
        height=height,
        num_frames=1,
        frame_rate=FRAME_RATE,
        num_inference_steps=wanted.steps,
        guidance_scale=CFG,
        generator=torch.Generator().manual_seed(wanted.seed),
        max_sequence_length=pipe.tokenizer.model_max_length,
        output_type="latent",
        **CLASSIFIER_FREE,
    ).frames
    frames = pipe.vae.decode(latents, return_dict=False)[0]
    file = io.BytesIO()
    pipe.video_processor.postprocess_video(frames, output_type="pil")[0][0].save(file, "PNG")
    return file.getvalue()


def create_app(adapters: Path) -> FastAPI:
    app, executor = FastAPI(), ThreadPoolExecutor(1)
    pipe = executor.submit(load, adapters).result()

    @app.get("/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v1/images/generations")
    async def generate(wanted: Wanted) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        file = await loop.run_in_executor(executor, picture, pipe, wanted)
        return {"data": [{"b64_json": base64.b64encode(file).decode()}]}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapters", type=Path)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(options.threads)
    uvicorn.run(create_app(options.adapters), port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
