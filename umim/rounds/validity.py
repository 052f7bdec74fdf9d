"""The rules of the resources where there is no API server to check them. Pure.

The messages are those of the CEL rules beside the models; here is only what each rule says in Python. A test proves
that no rule lacks its twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from umim.api.base import parse_duration
from umim.api.federation import MOST_ROUNDS

SHORTEST_DEADLINE = timedelta(seconds=10)

Holds = Callable[[Any], bool]


def _scales(owner: Any) -> int:
    return len(owner.aggregation.scales) if owner.aggregation is not None else 0


def _quorum_can_be_met(participants: Any) -> bool:
    return participants.hospitals is None or participants.quorum <= len(participants.hospitals)


def _long_enough(owner: Any) -> bool:
    return owner.deadline is None or parse_duration(owner.deadline) >= SHORTEST_DEADLINE


def _distillation_has_images(federation: Any) -> bool:
    owners = [federation, *federation.stages]
    return federation.server_dataset is not None or all(owner.distillation is None for owner in owners)


def _scales_have_images(federation: Any) -> bool:
    owners = [federation, *federation.stages]
    return federation.server_dataset is not None or all(_scales(owner) <= 1 for owner in owners)


RULES: Mapping[str, Holds] = {
    "!has(self.noiseMultiplier) || self.noiseMultiplier == 0.0 || has(self.clipNorm)": (
        lambda privacy: privacy.noise_multiplier == 0 or privacy.clip_norm is not None
    ),
    "has(self.noiseMultiplier) != has(self.targetEpsilon)": (
        lambda spec: (spec.noise_multiplier is not None) != (spec.target_epsilon is not None)
    ),
    "!has(self.differentialPrivacy) || self.headWarmupEpochs == 0": (
        lambda training: training.differential_privacy is None or training.head_warmup_epochs == 0
    ),
    "!has(self.density) || self.format == 'top-k'": (
        lambda encoding: encoding.density is None or encoding.format == "top-k"
    ),
    "has(self.globalModel) != has(self.init)": (
        lambda parent: (parent.global_model is not None) != (parent.init is not None)
    ),
    "has(self.hospitals) != has(self.selector)": (
        lambda participants: (participants.hospitals is not None) != (participants.selector is not None)
    ),
    "!has(self.hospitals) || !has(self.quorum) || self.quorum <= size(self.hospitals)": _quorum_can_be_met,
    "(has(self.model.parent.init) && self.model.parent.init == 'mim') == has(self.pretraining)": (
        lambda spec: (spec.model.parent.init == "mim") == (spec.pretraining is not None)
    ),
    "!has(self.pretraining) || has(self.serverDataset)": (
        lambda spec: spec.pretraining is None or spec.server_dataset is not None
    ),
    "!has(self.distillation) || has(self.serverDataset)": (
        lambda spec: spec.distillation is None or spec.server_dataset is not None
    ),
    "size(self.aggregation.scales) <= 1 || has(self.serverDataset)": (
        lambda spec: _scales(spec) <= 1 or spec.server_dataset is not None
    ),
    "duration(self.deadline) >= duration('10s')": _long_enough,
    "!has(self.deadline) || duration(self.deadline) >= duration('10s')": _long_enough,
    "has(self.serverDataset) || (!has(self.distillation) && self.stages.all(s, !has(s.distillation)))": (
        _distillation_has_images
    ),
    "has(self.serverDataset) || (size(self.aggregation.scales) <= 1 && "
    "self.stages.all(s, !has(s.aggregation) || size(s.aggregation.scales) <= 1))": _scales_have_images,
    "!has(self.stopEarly) || has(self.serverDataset)": (
        lambda spec: spec.stop_early is None or spec.server_dataset is not None
    ),
    f"self.stages.map(s, s.rounds).sum() <= {MOST_ROUNDS}": (
        lambda spec: sum(stage.rounds for stage in spec.stages) <= MOST_ROUNDS
    ),
}
"""By the text of the CEL rule: whether it holds for the model beside which it stands."""


def problems(model: BaseModel, path: str) -> list[str]:
    """Return what the API server would say against a parsed model: ``path.to.field: message``, in the order of fields.

    ``path`` names the model itself, such as ``spec``. Covers the CEL rules and lists whose entries have unique keys.
    """
    return list(_problems(model, path))


def rules_of(model: type[BaseModel]) -> list[dict[str, str]]:
    """Return the CEL rules that stand beside a model."""
    extra = model.model_config.get("json_schema_extra")
    found: list[dict[str, str]] = extra.get("x-kubernetes-validations", []) if isinstance(extra, dict) else []  # type: ignore[assignment]
    return found


def _problems(model: BaseModel, path: str) -> Iterator[str]:
    for rule in rules_of(type(model)):
        if not RULES[rule["rule"]](model):
            yield f"{path}{rule.get('fieldPath', '')}: {rule['message']}"
    for name in type(model).model_fields:
        where = f"{path}.{to_camel(name)}"
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _problems(value, where)
        elif isinstance(value, list):
            yield from _repeated(value, where)
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from _problems(item, f"{where}[{index}]")


def _repeated(items: list[Any], path: str) -> Iterator[str]:
    """Yield what is named twice in a list of hospitals or stages: the API server keeps lists of type map so."""
    keys = [getattr(item, "site", None) or getattr(item, "name", None) for item in items]
    for index, key in enumerate(keys):
        if key is not None and key in keys[:index]:
            yield f"{path}[{index}]: {key} is named twice"
