"""The demonstration's round is valid, and a second run never fights with the first."""

import subprocess
import sys
from typing import Any

import pytest

from hack.demo import rounds
from hack.demo.install import loader_pod, namespace
from hack.demo.target import volume_name
from tests.unit.cli.samples import round_object
from umim.api.base import parse_duration
from umim.api.round import FederationRoundSpec
from umim.cli.resources import Round, parse_round


def named(name: str, phase: str) -> Round:
    raw: dict[str, Any] = round_object(phase=phase)
    raw["metadata"] = {**raw["metadata"], "name": name}
    return parse_round(raw)


def test_the_round_is_valid_and_names_three_hospitals() -> None:
    spec = FederationRoundSpec.model_validate(rounds.manifest("demo-1")["spec"])
    assert [one.site for one in spec.participants.hospitals or []] == [
        "hospital-a.neuro",
        "hospital-b.thorax",
        "hospital-c.archive",
    ]
    assert spec.participants.quorum == 2
    assert spec.model.parent.init == "mim"
    assert spec.model.image_size % 16 == 0, "the patches of the architecture must fit"
    assert parse_duration(spec.deadline).total_seconds() < 900


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ([], ("demo-1", True)),
        ([("mine", "Training")], ("demo-1", True)),
        ([("demo-1", "Complete")], ("demo-2", True)),
        ([("demo-1", "Complete"), ("demo-10", "Failed"), ("demo-9", "Complete")], ("demo-11", True)),
        ([("demo-1", "Complete"), ("demo-2", "Training")], ("demo-2", False)),
    ],
)
def test_a_new_round_starts_unless_one_is_unfinished(
    existing: list[tuple[str, str]], expected: tuple[str, bool]
) -> None:
    assert rounds.next_name([named(*one) for one in existing]) == expected


def test_only_finished_rounds_of_the_demonstration_make_way() -> None:
    phases = {"demo-1": "Complete", "demo-2": "Failed", "demo-9": "Complete", "demo-10": "Complete"}
    existing = [named(*one) for one in [*phases.items(), ("demo-11", "Training"), ("mine", "Complete")]]
    assert rounds.superseded(existing) == ["demo-1", "demo-2"]
    assert rounds.superseded(existing[2:]) == []


def test_namespaces_hold_pods_to_the_restricted_standard() -> None:
    labels = namespace("hospital-a")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_loader_pod_is_restricted_and_fits_a_quota() -> None:
    spec = loader_pod("hospital-a", "claim", "image")["spec"]
    container = spec["containers"][0]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container["resources"]["limits"].keys() == {"memory"}


def test_volume_names_tell_claims_apart() -> None:
    assert volume_name("hospital-a", "umim-hospital-data") == "umim-demo-hospital-a-umim-hospital-data"


def test_the_demonstration_needs_no_torch() -> None:
    code = "import sys, hack.demo.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
