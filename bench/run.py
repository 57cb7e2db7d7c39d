"""``make bench``: Loraloom and diffusers + peft in one run, the embedded model and the runtime."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from loraloom import Loom, Lora, Request
from loraloom.core.mix import Applied, Mix, Part
from training.configs import CLASSIFIER_FREE

from . import ltx2, runtime, serving, stages
from .measure import AtLeast, Clock, Row, Way
from .options import Options, parse
from .peer import quiet
from .report import head, show, write

if TYPE_CHECKING:
    from collections.abc import Sequence

STYLES = ("neon", "sketch")
MIXES: tuple[tuple[Lora, ...], ...] = (
    (),
    (Lora("neon"),),
    (Lora("neon", 0.5),),
    (Lora("sketch"),),
    (Lora("sketch", 0.6),),
    (Lora("neon", 0.5), Lora("sketch", 0.5)),
    (Lora("neon", 0.3), Lora("sketch", 0.8)),
    (Lora("neon", -0.4),),
)
PROMPT = "a large red star on a plain blue background"


class Peer:
    """diffusers' own pipeline with the same adapters loaded through peft."""

    def __init__(self, loom: Loom, folder: Path) -> None:
        self.loom = loom
        self.pipe: Any = type(loom.pipe)(**bare(loom))
        self.pipe.set_progress_bar_config(disable=True)
        for name in STYLES:
            self.pipe.load_lora_weights(diffusers_file(loom, name, folder), adapter_name=name)

    def wear(self, mix: Sequence[Lora]) -> None:
        if mix:
            self.pipe.enable_lora()
            self.pipe.set_adapters([lora.name for lora in mix], [lora.strength for lora in mix])
        else:
            self.pipe.disable_lora()

    def pictures(self, count: int, first_seed: int) -> None:
        canvas, (stage,) = self.loom.card.defaults.picture, self.loom.card.defaults.usual
        assert stage.sigmas
        self.pipe(
            prompt=[PROMPT] * count,
            negative_prompt=[""] * count,
            width=canvas.width,
            height=canvas.height,
            num_frames=1,
            num_inference_steps=stage.sigmas.steps,
            guidance_scale=stage.guidance.video.cfg,
            generator=[torch.Generator().manual_seed(first_seed + i) for i in range(count)],
            max_sequence_length=self.pipe.tokenizer.model_max_length,
            output_type="latent",
            **CLASSIFIER_FREE,
        )


def bare(loom: Loom) -> dict[str, Any]:
    """The components as they were before Loraloom looked at them."""
    fresh = Loom.load(loom.card.name)
    for model in fresh.models:
        model.release()
    return dict(fresh.pipe.components)


def diffusers_file(loom: Loom, name: str, folder: Path) -> Path:
    """An adapter of the model in diffusers' spelling."""
    state = load_file(loom.card.adapters[name] / "adapter_model.safetensors")
    path = folder / f"{name}.safetensors"
    save_file({k.replace("base_model.model.", "transformer."): v for k, v in state.items()}, path)
    return path


def mix(loom: Loom, loras: Sequence[Lora]) -> Mix:
    return Mix.of([Part(loom.adapters.get(lora.name).key, lora.strength) for lora in loras])


def pictures(loom: Loom, peer: Peer, clock: Clock) -> list[Row]:
    requests = [Request(PROMPT, seed, loras) for seed, loras in enumerate(MIXES)]

    def one_by_one() -> None:
        for seed, loras in enumerate(MIXES):
            peer.wear(loras)
            peer.pictures(1, seed)

    plain = [Request(PROMPT, seed) for seed in range(len(MIXES))]
    peer.wear(())
    rows = [
        clock.compare(
            "embedded: 8 pictures, 8 mixes in one batch | one by one",
            Way(lambda: loom.latents(requests)),
            Way(one_by_one),
            AtLeast(1),
        )
    ]
    peer.wear(())
    rows.append(
        clock.compare(
            "embedded: 8 pictures without adapters, one batch each",
            Way(lambda: loom.latents(plain)),
            Way(lambda: peer.pictures(len(plain), 0)),
            AtLeast(0.9),
        )
    )
    return rows


def states(loom: Loom, peer: Peer, clock: Clock) -> list[Row]:
    model = loom.models[0]
    one, two = (mix(loom, [Lora(name)]) for name in STYLES)

    def switch() -> None:
        model.become(Applied.rows([one]))
        model.become(Applied.rows([two]))

    def their_switch() -> None:
        peer.wear([Lora(STYLES[0])])
        peer.wear([Lora(STYLES[1])])

    def fuse() -> None:
        model.become(Applied(fused=one))
        model.become(Applied())

    def their_fuse() -> None:
        peer.pipe.fuse_lora(components=["transformer"])
        peer.pipe.unfuse_lora(components=["transformer"])

    often = clock.often()
    rows = [often.compare("embedded: two switches", Way(switch), Way(their_switch), AtLeast(1))]
    model.become(Applied())
    peer.wear([Lora(STYLES[0])])
    rows.append(often.compare("embedded: fuse and restore", Way(fuse), Way(their_fuse), AtLeast(1)))
    return rows


@torch.no_grad()
def embedded(options: Options) -> list[Row]:
    """Whole requests on the embedded model."""
    if options.size == "ltx2" or not options.chooses("embedded"):
        return []
    quiet()
    loom = Loom.load("mini", device=options.device)
    clock = Clock(options.device, options.runs)
    with TemporaryDirectory() as folder:
        peer = Peer(loom, Path(folder))
        peer.pipe.to(options.device)
        rows = [*pictures(loom, peer, clock), *states(loom, peer, clock)]
    show(rows)
    return rows


def main() -> None:
    options = parse(__doc__)
    head()
    rows = [*embedded(options), *runtime.rows(options), *stages.rows(options)]
    rows += [*serving.rows(options), *ltx2.rows(options)]
    if options.whole:
        write(rows, options.device, " ".join(["python -m bench.run", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
