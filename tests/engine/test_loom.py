"""The front door on the embedded model: batches, conditions, bad input, and no trace left."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from loraloom import Canvas, Condition, Loom, Lora, LoraloomError, Request, Sampling
from loraloom.core.mix import Applied, Mix, Part
from loraloom.core.schedule import Curve
from loraloom.engine.means import Means
from loraloom.engine.run import Tick
from loraloom.errors import InvalidRequestError, ModelError, UnknownAdapterError
from loraloom.memory.residency import Home, Residency, resident, snapshot

if TYPE_CHECKING:
    from pathlib import Path

CANVAS, SAMPLING = Canvas(64, 64), Sampling(steps=2, guidance=3.0)
PICTURE = Request("a large red circle on a plain blue background", canvas=CANVAS, sampling=SAMPLING)
VIDEO = replace(PICTURE, canvas=Canvas(64, 64, frames=9, rate=16.0))


def weights(loom: Loom) -> list[torch.Tensor]:
    return [
        value.clone()
        for model in (loom.pipe.transformer, loom.pipe.connectors)
        for value in model.state_dict().values()
    ]


def farthest(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max())


@pytest.fixture
def untouched(loom: Loom) -> object:
    """The weights before and after a test are the same bits."""
    before = weights(loom)
    yield loom
    assert all(torch.equal(a, b) for a, b in zip(before, weights(loom), strict=True))


@pytest.mark.parametrize("shape", [PICTURE, VIDEO], ids=["pictures", "videos"])
def test_a_request_in_a_mixed_batch_is_the_request_alone(shape: Request, untouched: Loom) -> None:
    requests = [
        replace(shape, seed=1),
        replace(shape, seed=2, loras=(Lora("neon"),), prompt="a small green star"),
        replace(shape, seed=3, loras=(Lora("sketch", 0.5), Lora("neon", -0.3))),
        replace(shape, seed=4, negative_prompt="a heart"),
    ]
    together = untouched.latents(requests)
    for request, row in zip(requests, together, strict=True):
        assert farthest(row, untouched.latents([request])[0]) <= 1e-4
    plain = untouched.latents([replace(requests[1], loras=())])[0]
    assert farthest(together[1], plain) > 1e-2, "the adapter does nothing"


@pytest.fixture(scope="module")
def everywhere(loom: Loom, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random adapter of every linear layer of every component that wears adapters."""
    draw = torch.Generator().manual_seed(2)
    state = {}
    for model in loom.models:
        for site, layer in model.weights.layers.items():
            out, width = layer.weight.shape
            key = f"{model.component}.{site}"
            state[f"{key}.lora_A.weight"] = torch.randn(2, width, generator=draw) / width**0.5
            state[f"{key}.lora_B.weight"] = torch.randn(out, 2, generator=draw) * 0.02
    path = tmp_path_factory.mktemp("everywhere") / "everywhere.safetensors"
    save_file(state, path)
    loom.adapters.add("everywhere", path)
    return "everywhere"


@pytest.mark.parametrize("frames", [1, 9])
def test_rows_are_told_apart_in_every_layer_of_the_model(
    frames: int, everywhere: str, untouched: Loom
) -> None:
    canvas = Canvas(64, 64, frames, 16.0)
    shape = replace(PICTURE, canvas=canvas, conditions=(shown("red", 0),) if frames > 1 else ())
    requests = [
        replace(shape, seed=1, loras=(Lora(everywhere),)),
        replace(shape, seed=2),
        replace(shape, seed=3, loras=(Lora(everywhere, -0.5), Lora("neon"))),
    ]
    together = untouched.latents(requests)
    for request, row in zip(requests, together, strict=True):
        for policy in ("live", "fused"):
            alone = untouched.latents([request], policy=policy)[0]
            assert farthest(row, alone) <= 1e-4
    plain = untouched.latents([replace(requests[0], loras=())])[0]
    assert farthest(together[0], plain) > 1e-2


def test_the_same_request_twice_has_the_same_bytes(loom: Loom) -> None:
    request = replace(PICTURE, seed=5, loras=(Lora("neon", 0.7),))
    one, two = loom.images([request])[0], loom.images([request])[0]
    assert one.frames[0].tobytes() == two.frames[0].tobytes()
    assert one.frames[0].size == (64, 64)
    assert len(one.frames) == 1


def test_a_result_says_what_was_worn(loom: Loom) -> None:
    request = replace(PICTURE, loras=(Lora("sketch", 0.5), Lora("neon", 0), Lora("distilled")))
    result = loom.images([request], policy="fused")[0]
    assert [(worn.name, worn.strength) for worn in result.worn] == [
        ("distilled", 1.0),
        ("sketch", 0.5),
    ]
    assert all(worn.sites == 60 for worn in result.worn)
    assert result.worn[1].digest == loom.adapters.get("sketch").key.digest
    assert result.policy == "fused"


def test_defaults_come_from_the_card(loom: Loom) -> None:
    result = loom.videos([replace(VIDEO, canvas=None, sampling=Sampling(2, 1.0))])[0]
    assert result.request.canvas == loom.card.defaults.video
    assert len(result.frames) == 17


def test_requests_of_different_shapes_come_back_in_their_order(loom: Loom) -> None:
    wide = replace(PICTURE, canvas=Canvas(96, 64), seed=2)
    seen: list[Tick] = []
    results = loom.images([PICTURE, wide, replace(PICTURE, seed=3)], progress=seen.append)
    assert [result.frames[0].size for result in results] == [(64, 64), (96, 64), (64, 64)]
    assert seen == [Tick(done, 4, "base") for done in (1, 2, 3, 4)]


def shown(color: str, frame: int) -> Condition:
    return Condition(Image.new("RGB", (64, 64), color), frame)


def test_every_request_of_a_batch_has_its_own_images(untouched: Loom) -> None:
    requests = [
        replace(VIDEO, seed=1, conditions=(shown("red", 0), shown("blue", -1))),
        replace(VIDEO, seed=2, conditions=(shown("lime", 0), shown("white", -1))),
    ]
    together = untouched.latents(requests)
    for request, row in zip(requests, together, strict=True):
        assert farthest(row, untouched.latents([request])[0]) <= 1e-4


def test_requests_of_a_batch_may_show_images_at_other_frames_or_none(untouched: Loom) -> None:
    requests = [
        replace(VIDEO, seed=1, conditions=(shown("red", 0), shown("blue", -1))),
        replace(VIDEO, seed=2, loras=(Lora("neon"),)),
        replace(VIDEO, seed=3, conditions=(shown("white", 4),)),
    ]
    together = untouched.latents(requests)
    for request, row in zip(requests, together, strict=True):
        assert farthest(row, untouched.latents([request])[0]) <= 1e-4


def test_a_first_image_is_the_first_frame(loom: Loom) -> None:
    image = Image.linear_gradient("L").convert("RGB").resize((64, 64))
    latent = loom.latents([replace(VIDEO, conditions=(Condition(image),))])[0]
    pixels = loom.pipe.video_processor.preprocess(image)[:, :, None]
    with torch.no_grad():
        encoded = loom.pipe.vae.encode(pixels).latent_dist.mode()[0]
    assert farthest(latent[:, :1], encoded) <= 1e-3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": "  "}, "a prompt is empty"),
        ({"seed": -1}, "the seed is -1"),
        ({"canvas": Canvas(100, 64)}, r"width is 100, .* multiple of 32, e.g. 96"),
        ({"canvas": Canvas(64, 0)}, r"height is 0, .* e.g. 32"),
        ({"canvas": Canvas(64, 64, frames=9)}, "frames is 9, a picture wants 1"),
        ({"canvas": Canvas(64, 64, rate=0)}, "request 2 of 2: the frame rate is 0, want 1 to 60"),
        ({"canvas": Canvas(64.0, 64)}, "a size is 64.0"),  # type: ignore[arg-type]
        ({"sampling": Sampling(2.5, 3.0)}, "number of steps of stage 'base' is 2.5"),  # type: ignore[arg-type]
        ({"loras": (Lora("neon", 1e39),)}, r"strength times scale of neon@.* is 1e\+39, beyond"),
        ({"sampling": Sampling(1, 3.0)}, "steps of stage 'base' is 1, want a whole number from 2"),
        ({"sampling": Sampling(2, float("nan"))}, "guidance is nan"),
        ({"loras": (Lora("neom"),)}, r"'neom' is not known; did you mean 'neon'"),
        ({"loras": (Lora("neon", float("inf")),)}, "is inf, want a finite number"),
        ({"loras": (Lora("neon"), Lora("neon", 0.5))}, "'neon' is named 2 times"),
        ({"conditions": (shown("red", 1),)}, "at frame 1, the 1 frames are 0 to 0"),
    ],
)
def test_bad_requests_are_refused_with_a_sentence(
    change: dict[str, object], says: str, untouched: Loom
) -> None:
    with pytest.raises(LoraloomError, match=says):
        untouched.images([PICTURE, replace(PICTURE, **change)])  # type: ignore[arg-type]


def test_lengths_that_the_vae_cannot_make_are_refused(loom: Loom) -> None:
    with pytest.raises(LoraloomError, match=r"frames is 7, .* multiple of 4 plus 1, e.g. 9"):
        loom.videos([replace(VIDEO, canvas=Canvas(64, 64, frames=7))])
    with pytest.raises(LoraloomError, match="frames is 1, a video wants several"):
        loom.videos([PICTURE])


def test_a_policy_that_is_none_is_refused(loom: Loom) -> None:
    with pytest.raises(InvalidRequestError, match="policy is 'Live', want live or fused"):
        loom.images([PICTURE], policy="Live")  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [1, 50, 60])
def test_any_rate_that_is_allowed_runs(rate: float, loom: Loom) -> None:
    loom.latents([replace(PICTURE, canvas=Canvas(64, 64, 1, rate))])
    loom.latents([replace(PICTURE, canvas=Canvas(64, 64, 5, rate))])


def test_a_result_tells_of_the_adapter_it_began_with(loom: Loom, tmp_path: Path) -> None:
    began = loom.adapters.add("renamed", loom.card.adapters["neon"]).key.digest

    def rename(_tick: Tick) -> None:
        loom.adapters.add("renamed", loom.card.adapters["sketch"])

    worn = replace(PICTURE, loras=(Lora("renamed"),))
    assert loom.images([worn], progress=rename)[0].worn[0].digest == began


def test_requests_under_way_keep_the_adapter_they_began_with(loom: Loom) -> None:
    loom.adapters.add("changing", loom.card.adapters["neon"])
    fading = Lora("changing", 1.0, Curve.window(0.0, 1.0, ramp=0.5))
    wide = replace(PICTURE, canvas=Canvas(96, 64), seed=2)
    requests = [replace(each, loras=(fading,)) for each in (PICTURE, wide)]
    want = loom.latents(requests)
    loom.models[0].wardrobe.clear()

    def change(_tick: Tick) -> None:
        loom.adapters.add("changing", loom.card.adapters["sketch"])

    for got, wanted in zip(loom.latents(requests, progress=change), want, strict=True):
        assert torch.equal(got, wanted)
    assert not any(
        key.name == "changing" and key != loom.adapters.get("changing").key
        for key in loom.adapters.by_key
    )


def test_an_empty_list_is_refused(loom: Loom) -> None:
    with pytest.raises(InvalidRequestError, match="list of requests is empty"):
        loom.images([])


def test_a_failure_in_a_step_leaves_nothing_worn(
    untouched: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise MemoryError("injected")

    worn = replace(PICTURE, loras=(Lora("neon"),))
    for policy in ("live", "fused"):
        with pytest.raises(MemoryError, match="injected"):
            untouched.images([worn], policy=policy, progress=fail)
        assert not any(model.applied.fused or model.applied.live for model in untouched.models)


def test_fusing_keeps_no_copy_of_weights_that_lie_in_files(untouched: Loom) -> None:
    key = untouched.adapters.get("neon").key
    model = untouched.models[0]
    with model.wearing(Applied(fused=Mix.of([Part(key, 1.0)]))):
        assert len(model.weights.homes) == 60
        assert model.weights.nbytes == 0


def test_an_adapter_read_again_is_the_same_and_changed_bytes_are_another(
    loom: Loom, tmp_path: Path
) -> None:
    for name in ("neon", "sketch"):
        shutil.copytree(loom.card.adapters[name], tmp_path / name)
    mine = loom.adapters.add("mine", tmp_path / "neon")
    assert loom.adapters.add("mine", tmp_path / "neon") is mine
    weights = "adapter_model.safetensors"
    shutil.copy(tmp_path / "sketch" / weights, tmp_path / "neon" / weights)
    changed = loom.adapters.add("mine", tmp_path / "neon")
    assert changed.key != mine.key
    assert loom.adapters.get("mine") is changed
    assert loom.adapters.add("mine", tmp_path / "neon", alpha=3.5).key != mine.key
    with pytest.raises(UnknownAdapterError):
        loom.adapters.get("nine_")


def test_a_file_that_is_refused_changes_nothing(loom: Loom, tmp_path: Path) -> None:
    before = loom.adapters.get("neon")
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(LoraloomError, match=r"pickle|safetensors"):
        loom.adapters.add("neon", tmp_path / "bad.safetensors")
    assert loom.adapters.get("neon") is before


@pytest.mark.parametrize("part", ["vae", "transformer", "tokenizer"])
def test_a_model_folder_that_lacks_a_component_is_refused(
    part: str, loom: Loom, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(loom.card.root, folder, ignore=shutil.ignore_patterns(part))
    with pytest.raises(ModelError, match=f"lacks the component {part}"):
        Loom.load(str(folder))


def test_models_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bundled are mini"):
        Loom.load("minni")
    with pytest.raises(ModelError, match="cannot be fetched from the hub"):
        Loom.load("nobody/nothing")
    with pytest.raises(ModelError, match=r"lacks model_index.json"):
        Loom.load(str(tmp_path))
    with pytest.raises(ModelError, match="dtype is 'int3'"):
        Loom.load("mini", dtype="int3")


@pytest.mark.parametrize("name", ["ledger", "snapshot", "resident"])
def test_every_residency_gives_the_same_bytes_and_the_weights_back(name: str, loom: Loom) -> None:
    residency = {
        "ledger": Residency(Home.LEDGER),
        "snapshot": snapshot(2**26),
        "resident": resident(2**26),
    }[name]
    other = Loom.load("mini", means=Means(residency))
    before = weights(other)
    for worn in ("neon", "sketch", "neon"):
        request = replace(PICTURE, loras=(Lora(worn),))
        want = loom.latents([request], policy="fused")[0]
        assert torch.equal(other.latents([request], policy="fused")[0], want)
    kept = other.models[0].weights.copies.nbytes
    assert (kept > 0) == (name != "ledger")
    assert all(map(torch.equal, weights(other), before))
