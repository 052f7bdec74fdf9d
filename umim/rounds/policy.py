"""What the hospital's own policy says against a Job that the operator configured. Pure; for the Job, see ADR 0011."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pydantic.alias_generators import to_camel

from umim import contract
from umim.api.base import ApiModel
from umim.api.hospital import HospitalSpec, PrivacySpec
from umim.api.jobs import HospitalPolicy, SiteJobConfig
from umim.api.privacy import DifferentialPrivacyFloor
from umim.errors import PolicyError, WindowClosedError
from umim.rounds.configs import dataset_location
from umim.rounds.consent import parse_quantity, training_refusal
from umim.rounds.windows import closed_text, closes_at, opens_at

GPU = "nvidia.com/gpu"

AsStrict = Callable[[Any, Any], bool]


def _dp_as_strict(sent: DifferentialPrivacyFloor | None, own: DifferentialPrivacyFloor | None) -> bool:
    """Return whether what was sent is at least as strict in every field, so that no two deltas have to be weighed."""
    if sent is None or own is None:
        return own is None
    return (
        sent.min_noise_multiplier >= own.min_noise_multiplier
        and sent.max_grad_norm <= own.max_grad_norm
        and (sent.epsilon_budget or math.inf) <= (own.epsilon_budget or math.inf)
        # The same epsilon at a smaller delta promises more.
        and sent.delta <= own.delta
    )


AS_STRICT: Mapping[str, AsStrict] = {
    "allowed_artifacts": lambda sent, own: set(sent) <= set(own),
    "clip_norm": lambda sent, own: own is None or (sent is not None and sent <= own),
    "noise_multiplier": lambda sent, own: sent >= own,
    "min_patients": lambda sent, own: sent >= own,
    "differential_privacy": _dp_as_strict,
}
"""By field of the privacy floor: whether what the operator sent protects at least as much as the hospital's own.
A field that is not here must be equal."""


def check_policy(config: SiteJobConfig, policy: HospitalPolicy, gpus: int) -> None:
    """Raise PolicyError naming field, value and what is allowed where a Job is not one that the policy allows.

    ``gpus`` is the number of GPUs that the Job sees. Time windows are checked by ``check_open``.
    """
    own = policy.spec
    _expect("site", config.site, f"{policy.namespace}.{policy.name}")
    refused = training_refusal(config.round_namespace, config.architecture, config.training, own)
    if refused is not None:
        raise PolicyError(f"the hospital's policy forbids it: {refused.message}")
    _expect("workPath", config.work_path, contract.WORK_MOUNT)
    _expect("data", config.data.to_dict(), dataset_location(own.data).to_dict())
    _check_privacy(config.privacy, own.privacy)
    _check_gpus(gpus, own)


def check_open(policy: HospitalPolicy, now: datetime) -> None:
    """Raise WindowClosedError when no Job may run at the hospital now."""
    windows = policy.spec.time_windows
    if windows is not None and closes_at(windows, now) == now:
        raise WindowClosedError(closed_text(opens_at(windows, now)))


def _check_privacy(sent: PrivacySpec, own: PrivacySpec) -> None:
    for name in PrivacySpec.model_fields:
        as_strict = AS_STRICT.get(name, _equal)
        asked, allowed = getattr(sent, name), getattr(own, name)
        if not as_strict(asked, allowed):
            raise PolicyError(
                f"privacy.{to_camel(name)} is {_shown(asked)}, the hospital's policy has {_shown(allowed)}: the "
                "operator may be stricter, not looser"
            )


def _shown(value: object) -> object:
    """Return a value as its YAML has it."""
    return value.to_dict() if isinstance(value, ApiModel) else value


def _equal(sent: object, own: object) -> bool:
    return sent == own


def _check_gpus(gpus: int, own: HospitalSpec) -> None:
    most = own.max_resources.get(GPU)
    if most is not None and gpus > parse_quantity(most):
        raise PolicyError(f"the Job sees {gpus} GPUs, the hospital's policy allows {most} in maxResources[{GPU}]")


def _expect(field: str, sent: object, own: object) -> None:
    if sent != own:
        raise PolicyError(f"{field} is {sent}, the hospital's policy has {own}")
