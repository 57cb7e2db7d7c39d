"""Stock pipelines run batches whose requests wear different mixes, by ``wearing`` alone."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import peft
import pytest
import torch

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import NOTHING, Applied, Mix, Part
from loraloom.errors import RowsError
from loraloom.lora.model import LoraModel, wearing

from .family import NEGATIVE, Family
from .tiny import FAMILIES, build

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loraloom.core.mix import AdapterKey

REQUESTS = (0, 1, 2)
SAME, OTHER = 1e-4, 1e-2
"""Latents are the same up to the one, and clearly others from the other."""


@dataclass(frozen=True, slots=True)
class Dressed:
    """A family whose components wear adapters, and three mixes: a, nothing, a/2 - b."""

    family: Family
    models: tuple[LoraModel, ...]
    mixes: tuple[Mix, ...]

    def know(self, worn: Adapter) -> None:
        """Add an adapter to the catalogue of every component."""
        for model in self.models:
            model.fitter.adapters = {**model.fitter.adapters, worn.key: worn}

    @contextmanager
    def wearing(self, mixes: Sequence[Mix], each: int = 1) -> Iterator[None]:
        """``mixes`` by request; an encoder sees each once, a denoiser ``each`` samples of it."""
        encoders = self.family.encoders
        prompts = [model for model in self.models if model.component in encoders]
        samples = [model for model in self.models if model.component not in encoders]
        repeated = [mix for mix in mixes for _ in range(each)]
        with wearing(prompts, Applied.rows(mixes)), wearing(samples, Applied.rows(repeated)):
            yield


def adapter(
    name: str, seed: int, models: Iterable[LoraModel], but: str = "(?!)", only: str = ""
) -> Adapter:
    """Random factors on all sites of all components, without those that match ``but``."""
    draw = torch.Generator().manual_seed(seed)
    updates: dict[str, dict[str, LowRank]] = {model.component: {} for model in models}
    for model in models:
        for site, layer in model.weights.layers.items():
            if re.fullmatch(but, site) or not re.search(only, site):
                continue
            out, *into = layer.weight.shape
            rank = int(torch.randint(2, 4, (), generator=draw))
            down = torch.randn(rank, *into, generator=draw) / torch.Size(into).numel() ** 0.5
            up = torch.randn(out, rank, *[1] * (len(into) - 1), generator=draw) * 0.3
            updates[model.component][site] = LowRank(down, up, 1.0)
    return Adapter.make(name, updates)


@cache
def dressed(name: str) -> Dressed:
    """The family of that name; tests leave it as they found it."""
    family = build(name)
    adapters: dict[AdapterKey, Adapter] = {}
    models = tuple(
        LoraModel(component, getattr(family.pipe, component), adapters)
        for component in family.components
    )
    a, b = (adapter(each, i, models, family.shared) for i, each in enumerate("ab"))
    adapters.update({a.key: a, b.key: b})
    one = Mix.of([Part(a.key, 0.8)])
    both = Mix.of([Part(a.key, 0.5), Part(b.key, -1.0)])
    return Dressed(family, models, (one, NOTHING, both))


def farthest(got: torch.Tensor, want: torch.Tensor) -> float:
    assert got.shape == want.shape
    return float((got - want).abs().max())


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_request_of_a_mixed_batch_equals_the_request_alone(name: str) -> None:
    subject = dressed(name)
    family = subject.family
    for way in family.guidance:
        for each in family.each:
            base = family.latents(REQUESTS, way, each)
            with subject.wearing(subject.mixes, each):
                together = family.latents(REQUESTS, way, each)
            for request, mix in enumerate(subject.mixes):
                with subject.wearing([mix], each):
                    alone = family.latents([request], way, each)
                rows = slice(request * each, (request + 1) * each)
                case = f"request {request}, guidance {way!r}, {each} of each"
                assert farthest(together[rows], alone) <= SAME, case
                if mix:
                    for got, plain in zip(alone, base[rows], strict=True):
                        assert farthest(got, plain) > OTHER, case
                else:
                    assert torch.equal(together[rows], base[rows]), case


def test_live_equals_fused(name: str) -> None:
    subject = dressed(name)
    family = subject.family
    for way in family.guidance:
        for mix in subject.mixes:
            with subject.wearing([mix]):
                live = family.latents(REQUESTS, way)
            with wearing(subject.models, Applied(fused=mix)):
                fused = family.latents(REQUESTS, way)
            assert farthest(live, fused) <= SAME, f"guidance {way!r}"


def test_requests_differ_beside_what_is_fused_for_all(name: str) -> None:
    subject = dressed(name)
    family, (one, _, both) = subject.family, subject.mixes
    way = next(iter(family.guidance))
    live = [both, NOTHING, one]
    with wearing(subject.models, Applied.rows(live, fused=one)):
        together = family.latents(REQUESTS, way)
    for request, mix in enumerate(live):
        with wearing(subject.models, Applied.rows([mix], fused=one)):
            alone = family.latents([request], way)
        assert farthest(together[request], alone[0]) <= SAME


def test_every_component_does_its_part(name: str) -> None:
    subject = dressed(name)
    family, way = subject.family, next(iter(subject.family.guidance))
    base = family.latents(REQUESTS, way)
    for model in subject.models:
        with wearing([model], Applied.rows(subject.mixes)):
            got = family.latents(REQUESTS, way)
        assert torch.equal(got[1], base[1])
        for request in (0, 2):
            assert farthest(got[request], base[request]) > OTHER, model.component


def test_every_weight_is_bit_for_bit_what_it_was(name: str) -> None:
    subject = dressed(name)
    family, way = subject.family, next(iter(subject.family.guidance))
    with subject.wearing(subject.mixes):
        family.latents(REQUESTS, way)
    with wearing(subject.models, Applied.rows(subject.mixes, fused=subject.mixes[2])):
        family.latents(REQUESTS, way)
    plain = build(name).pipe
    for component in family.components:
        want = getattr(plain, component).state_dict()
        got = getattr(family.pipe, component).state_dict()
        assert got.keys() == want.keys()
        for key, value in want.items():
            assert torch.equal(got[key].view(torch.uint8), value.view(torch.uint8)), key


def theirs(family: Family, worn: Adapter, strength: float) -> None:
    """Put the same factors on: denoisers by the pipeline's own loader, encoders by peft's."""
    for component, sites in worn.updates.items():
        state = {
            f"{site}.lora_{factor}.weight": value.clone()
            for site, update in sites.items()
            for factor, value in (("A", update.down), ("B", update.up))
        }
        if component in family.encoders:
            config = peft.LoraConfig(
                target_modules=list(sites),
                rank_pattern={site: update.rank for site, update in sites.items()},
                alpha_pattern={site: strength * update.rank for site, update in sites.items()},
            )
            encoder = peft.inject_adapter_in_model(config, getattr(family.pipe, component), "a")
            result = peft.set_peft_model_state_dict(encoder, state, "a")
            assert not result.unexpected_keys
            continue
        second = {"load_into_transformer_2": True} if component == "transformer_2" else {}
        prefix = component.removesuffix("_2")
        whole = {f"{prefix}.{key}": value for key, value in state.items()}
        family.pipe.load_lora_weights(whole, adapter_name="a", **second)
        getattr(family.pipe, component).set_adapters("a", strength)


@pytest.mark.parametrize(
    "name", ["flux", "qwen-image", "qwen-image-edit", "sd3", "sdxl", "wan 2.2", "z-image"]
)
def test_the_latents_are_those_of_diffusers_and_peft(name: str) -> None:
    subject = dressed(name)
    # peft has other names for the factors of embeddings
    worn = adapter("ours", 5, subject.models, but=f"{subject.family.shared}|.*token_embedding")
    mixes = [NOTHING, Mix.of([Part(worn.key, 0.7)]), subject.mixes[2]]
    subject.know(worn)
    way = next(iter(subject.family.guidance))
    with subject.wearing(mixes):
        together = subject.family.latents(REQUESTS, way)

    peer = build(name)
    base = peer.latents([1], way)[0]
    theirs(peer, worn, 0.7)
    want = peer.latents([1], way)[0]
    assert farthest(together[1], want) <= SAME
    assert farthest(want, base) > OTHER


def test_an_encoder_that_sees_each_prompt_once_is_not_told_samples() -> None:
    subject = dressed("sdxl")
    repeated = Applied.rows([mix for mix in subject.mixes for _ in range(2)])
    with (
        wearing(subject.models, repeated),
        pytest.raises(RowsError, match=r"3 rows, .* 6 samples"),
    ):
        subject.family.latents(REQUESTS, "concatenated", each=2)


def test_one_negative_prompt_for_all_cannot_wear_what_each_wears() -> None:
    subject = dressed("flux")
    options = {**subject.family.ask(REQUESTS), "true_cfg_scale": 3.0, "negative_prompt": NEGATIVE}
    with subject.wearing(subject.mixes), pytest.raises(RowsError, match=r"1 entries .* 3 rows"):
        subject.family.pipe(**options, num_inference_steps=1, output_type="latent")


@pytest.mark.parametrize("name", ["sdxl", "z-image"])
def test_a_layer_whose_entries_are_not_told_apart_is_refused_to_unequal_mixes_only(
    name: str,
) -> None:
    subject = dressed(name)
    family = subject.family
    way = next(iter(family.guidance))
    worn = adapter("shared", 6, subject.models, only=family.shared)
    subject.know(worn)
    mix = Mix.of([Part(worn.key, 1.0)])
    base = family.latents(REQUESTS, way)
    with subject.wearing([mix] * 3):
        assert farthest(family.latents(REQUESTS, way), base) > OTHER
    with subject.wearing([mix, NOTHING, mix]), pytest.raises(RowsError):
        family.latents(REQUESTS, way)
