"""What a PEFT configuration says of ranks and scales, checked field by field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.errors import AdapterConfigError

from .pattern import MOST, Patience, Pattern, Patterns, compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loraloom.core.mix import Site

NOT_YET = (
    *("use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "use_bdlora", "kasa_config"),
    *("monteclora_config", "arrow_config", "alora_invocation_tokens", "layer_replication"),
    *("modules_to_save", "target_parameters", "trainable_token_indices"),
)
"""Fields that change what the tensors mean; an adapter that sets one cannot be honoured yet."""

OTHER_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Starts of ``init_lora_weights`` with which PEFT trains beside a changed base weight."""


@dataclass(frozen=True, slots=True)
class Config:
    """The fields that set a scale; None where ``where`` does not say."""

    where: str
    rank: float | None
    alpha: float | None
    ranks: Patterns
    alphas: Patterns
    rslora: bool | None

    def rank_of(self, site: Site) -> float | None:
        value = self.ranks.value(site)
        return self.rank if value is None else value

    def alpha_of(self, site: Site) -> float | None:
        value = self.alphas.value(site)
        return self.alpha if value is None else value


def config_of(said: Mapping[str, object], where: str) -> Config:
    """The configuration in ``said``, the fields of PEFT's ``LoraConfig``.

    Raises:
        AdapterConfigError: a field is malformed, or asks for what cannot be honoured yet.
    """
    fields = _Fields(said, where, Patience())
    fields.refuse_unsupported()
    return Config(
        where,
        fields.number("r", _rank),
        fields.number("lora_alpha", _alpha),
        fields.patterns("rank_pattern", _rank),
        fields.patterns("alpha_pattern", _alpha),
        fields.rslora(),
    )


def wrong_alpha(value: object) -> str | None:
    """What an alpha has to be, unless ``value`` is one."""
    return _alpha(value)


def _rank(value: object) -> str | None:
    good = type(value) is int and value > 0
    return None if good else "a positive whole number"


def _alpha(value: object) -> str | None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return None if good and _finite(value) and value != 0 else "a finite number other than 0"


def _finite(number: object) -> bool:
    assert isinstance(number, int | float)
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond the range of float
        return False


@dataclass(frozen=True, slots=True)
class _Fields:
    said: Mapping[str, object]
    where: str
    patience: Patience

    def bad(self, field: str, got: object, wanted: str) -> AdapterConfigError:
        shown = repr(got)
        shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
        return AdapterConfigError(f"{self.where}: {field} is {shown}, want {wanted}")

    def refuse_unsupported(self) -> None:
        kind = self.said.get("peft_type", "LORA")
        if kind != "LORA":
            raise self.bad("peft_type", kind, "LORA; other kinds are not supported yet")
        for field in NOT_YET:
            if self.said.get(field):
                raise self.bad(field, self.said[field], "it unset: it is not supported yet")
        bias = self.said.get("bias")
        if bias not in (None, "none"):
            raise self.bad("bias", bias, "'none': trained biases are not supported yet")
        start = self.said.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(OTHER_BASE):
            raise self.bad(
                "init_lora_weights",
                start,
                "true: the adapter belongs to a changed base weight; PEFT's save_pretrained turns "
                "it into a plain one with path_initial_model_for_weight_conversion",
            )

    def number(self, field: str, wrong: Callable[[object], str | None]) -> float | None:
        value = self.said.get(field)
        return None if value is None else self._checked(field, value, wrong)

    def patterns(self, field: str, wrong: Callable[[object], str | None]) -> Patterns:
        value = self.said.get(field)
        if value is not None and not isinstance(value, dict):
            raise self.bad(field, value, "an object of patterns and numbers")
        said = value or {}
        if len(said) > MOST:
            raise self.bad(field, f"{len(said)} patterns", f"at most {MOST}")
        rules = (self._pattern(field, text, number, wrong) for text, number in said.items())
        return Patterns(f"{self.where}: {field}", tuple(rules), self.patience)

    def rslora(self) -> bool | None:
        value = self.said.get("use_rslora")
        if value is not None and not isinstance(value, bool):
            raise self.bad("use_rslora", value, "true or false")
        return value

    def _checked(self, field: str, value: object, wrong: Callable[[object], str | None]) -> float:
        wanted = wrong(value)
        if wanted:
            raise self.bad(field, value, wanted)
        assert isinstance(value, int | float)
        return value

    def _pattern(
        self, field: str, text: str, number: object, wrong: Callable[[object], str | None]
    ) -> Pattern:
        value = self._checked(f"{field}[{text[:120]!r}]", number, wrong)
        try:
            return Pattern(text, value, compiled(text, self.patience))
        except ValueError as error:
            raise self.bad(field, text, f"regular expressions: {error}") from error
