"""CEL rules of whole resources: those that compare a spec with the one before, or that look at the status. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from umim.api.federation import MOST_STAGES, FederationSpec, StageSpec
from umim.api.round import FederationRoundSpec

Rule = dict[str, Any]

_ACCEPTED = (
    "has(oldSelf.status) && has(oldSelf.status.conditions) && "
    "oldSelf.status.conditions.exists(c, c.type == 'Accepted' && c.status == 'True')"
)
_FROZEN = "has(oldSelf.status) && has(oldSelf.status.frozenStages) && oldSelf.status.frozenStages > 0"
_ENDED = "has(oldSelf.status) && has(oldSelf.status.completionTime)"
_NEW_FEDERATION = "Create a new Federation that starts from its last GlobalModel instead"


def name_limit(limit: int) -> Rule:
    """Return the rule that names have at most so many characters."""
    return {
        "rule": f"size(self.metadata.name) <= {limit}",
        "message": f"metadata.name must have at most {limit} characters: it becomes part of other names",
        "reason": "FieldValueInvalid",
    }


def round_rules() -> tuple[Rule, ...]:
    """Return the rules that every field of a round's spec but suspend is immutable once the round is accepted."""
    return tuple(_immutable_once_accepted(field) for field in _fields(FederationRoundSpec) if field != "suspend")


def federation_rules() -> tuple[Rule, ...]:
    """Return the rules that what a campaign has begun with stays as it is; ``status.frozenStages`` counts the stages.

    A stage's hospitals have a rule of their own: the API server limits what one rule may cost.
    """
    changing = {"stages", "stopEarly", "suspend"}
    return (
        *(_immutable_once_started(field) for field in _fields(FederationSpec) if field not in changing),
        _frozen_stages(_same_stage()),
        _frozen_stages(_same_hospitals(_STAGE)),
        {
            "rule": f"!({_ENDED}) || size(self.spec.stages) == size(oldSelf.spec.stages)",
            "message": f"spec.stages cannot grow or shrink when the campaign has ended. {_NEW_FEDERATION}",
            "fieldPath": ".spec.stages",
            "reason": "FieldValueForbidden",
        },
    )


_STAGE = "spec.stages[i]"
_NAMES = ("map(h, h.__namespace__)", "map(h, h.name)")


def _fields(spec: type[FederationRoundSpec | FederationSpec | StageSpec]) -> Iterable[str]:
    return (field.alias or name for name, field in spec.model_fields.items())


def _same(path: str) -> str:
    """Return CEL that holds when an optional field is absent or equal before and after."""
    here, before = f"self.{path}", f"oldSelf.{path}"
    return f"has({here}) == has({before}) && (!has({here}) || {here} == {before})"


def _same_hospitals(owner: str) -> str:
    """Return CEL that holds when the hospitals of the owner's participants are the same.

    Kubernetes 1.34 says that two equal lists of type map differ, so the hospitals are compared as plain strings.
    """
    path = f"{owner}.participants.hospitals"
    same = " && ".join(f"self.{path}.{names} == oldSelf.{path}.{names}" for names in _NAMES)
    return f"has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || ({same}))"


def _same_rest_of_participants(owner: str) -> str:
    return f"{_same(f'{owner}.participants.quorum')} && {_same(f'{owner}.participants.selector')}"


def _immutable_once_accepted(field: str) -> Rule:
    same = _same(f"spec.{field}")
    if field == "participants":
        same = f"{_same_rest_of_participants('spec')} && {_same_hospitals('spec')}"
    return {
        "rule": f"!({_ACCEPTED}) || ({same})",
        "message": f"spec.{field} cannot change once the round is accepted: only spec.suspend can. "
        "Create a new FederationRound instead",
        "fieldPath": f".spec.{field}",
        "reason": "FieldValueForbidden",
    }


def _immutable_once_started(field: str) -> Rule:
    own = " The stages that have not started may have their own" if field in set(_fields(StageSpec)) else ""
    return {
        "rule": f"!({_FROZEN}) || ({_same(f'spec.{field}')})",
        "message": f"spec.{field} cannot change once the first stage has started.{own or ' ' + _NEW_FEDERATION}",
        "fieldPath": f".spec.{field}",
        "reason": "FieldValueForbidden",
    }


def _same_stage() -> str:
    """Return CEL that holds when stage number i is the same, but for its hospitals."""
    parts = [_same(f"{_STAGE}.{field}") for field in _fields(StageSpec) if field != "participants"]
    return " && ".join([*parts, _same_rest_of_participants(_STAGE)])


def _frozen_stages(same: str) -> Rule:
    """Return the rule that ``same`` holds for every frozen stage i."""
    numbers = ", ".join(str(number) for number in range(MOST_STAGES))
    return {
        "rule": f"!({_FROZEN}) || [{numbers}].all(i, i >= oldSelf.status.frozenStages || "
        f"(i < size(self.spec.stages) && {same}))",
        "message": "spec.stages: a stage that has started cannot be edited, removed or moved",
        "messageExpression": "'spec.stages: the stages up to ' + "
        "oldSelf.spec.stages[oldSelf.status.frozenStages - 1].name + ' have started, or the campaign has ended: they "
        "cannot be edited, removed or moved'",
        "fieldPath": ".spec.stages",
        "reason": "FieldValueForbidden",
    }
