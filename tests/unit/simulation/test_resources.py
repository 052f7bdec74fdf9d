"""Bad input to a simulation is named before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.simulation.conftest import API_VERSION, POOL, Machine, a_federation, a_round, hospital, participants
from umim.errors import ConfigError
from umim.simulation.claims import LocalClaims, fingerprint
from umim.simulation.resources import parse_documents

SAMPLES = Path(__file__).parents[3] / "manifests" / "samples"
META = {"name": "radiology", "namespace": "hospital-a"}


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_samples_can_be_read(path: Path) -> None:
    campaigns, hospitals = parse_documents(yaml.safe_load_all(path.read_text()), path.name)
    assert campaigns or hospitals


def test_documents_of_a_file_become_resources_and_empty_ones_are_passed_over() -> None:
    campaigns, hospitals = parse_documents([None, a_round("a"), hospital("a"), a_federation()], "f.yaml")
    assert [(one.kind, one.namespace, one.name) for one in campaigns] == [
        ("FederationRound", "federation", "round"),
        ("Federation", "federation", "campaign"),
    ]
    assert [(one.site, dict(one.labels)) for one in hospitals] == [("hospital-a.radiology", {"umim.dev/letter": "a"})]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("text", "f.yaml, document 1: a document must be a mapping with apiVersion, kind, metadata and spec"),
        (
            {"kind": "Pod"},
            "document 1: kind Pod of apiVersion None is unknown here; allowed are Federation, Federation",
        ),
        (a_round("a") | {"apiVersion": "umim.dev/v2"}, "kind FederationRound of apiVersion umim.dev/v2 is unknown"),
        (a_round("a") | {"metadata": {"name": "r"}}, "document 1, FederationRound: metadata.namespace: Field required"),
        (a_round("a") | {"metadata": META | {"name": "A"}}, "FederationRound: metadata.name: String should match"),
        (a_federation() | {"metadata": META | {"name": "a" * 64}}, "Federation: metadata.name: String should have at"),
        (a_round("a") | {"spec": {}}, "FederationRound federation/round: spec.model: Field required"),
        (a_round("a", training={"epoch": 1}), "spec.training.epoch: Extra inputs are not permitted"),
        (a_round("a", deadline="1s"), "FederationRound federation/round: spec.deadline: deadline must be at least 10s"),
        (
            a_federation({"name": "one", "participants": {"quorum": 1}}),
            "Federation federation/campaign: spec.stages[0].participants: participants needs exactly one of hospitals",
        ),
        (
            a_federation({"name": "one", "participants": {"hospitals": []}}),
            "spec.stages.0.participants.hospitals: List should have at least 1 item",
        ),
        (
            hospital("a", privacy={"noiseMultiplier": 1}),
            "Hospital hospital-a/radiology: spec.privacy.clipNorm: privacy",
        ),
        (
            {"apiVersion": API_VERSION, "kind": "Hospital", "metadata": META},
            "hospital-a/radiology: spec.document: Input",
        ),
    ],
)
def test_a_document_that_the_api_server_would_refuse_is_named(document: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_documents([document], "f.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            [a_federation(), hospital("a")],
            "Federation federation/campaign, stage two: participants.hospitals names hospital-b.radiology, but there "
            "is no Hospital radiology in namespace hospital-b. Given are: hospital-a.radiology",
        ),
        ([a_round("a")], "FederationRound federation/round: participants.hospitals names hospital-a.radiology"),
        ([a_round("a"), hospital("a"), hospital("a")], "Hospital hospital-a/radiology is given twice"),
        (
            [a_round(participants={"selector": {"matchLabels": {"a": "b"}}}), hospital("a")],
            "participants.selector matches 0 consenting hospitals, fewer than quorum 1",
        ),
        (
            [
                a_federation({"name": "x", "participants": participants("a"), "aggregation": {"strategy": "no"}}),
                hospital("a"),
            ],
            "stage x: spec.aggregation.strategy: 'no' is unknown",
        ),
        (
            [a_round("a", aggregation={"strategy": "krum"}), hospital("a")],
            "participants.quorum: 1 is too small: strategy krum with spec.aggregation.byzantine 0 needs at least 3",
        ),
        (
            [a_round("a", distillation={"strategy": "no"}, serverDataset=POOL), hospital("a")],
            "spec.distillation.strategy: 'no' is unknown",
        ),
        (
            [a_round("a", resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}), hospital("a")],
            "spec.resources.requests.cpu is 2, but limits.cpu is 1: a request must not exceed its limit",
        ),
        (
            [a_round("a", model={"architecture": "test_vit", "parent": {"globalModel": "base"}}), hospital("a")],
            "spec.model.parent.globalModel: there is no model base here. Given are: none",
        ),
        (
            [a_round("a"), hospital("a", data={"claimName": "scans", "format": "npz"})],
            "claim hospital-a/scans has no folder: ",
        ),
        (
            [a_round("a"), hospital("a", data={"claimName": "images", "path": "x.npz", "format": "npz"})],
            "claim hospital-a/images lacks x.npz: there is no ",
        ),
        (
            [a_round("a", serverDataset=POOL | {"claimName": "none"}), hospital("a")],
            "claim federation/none has no folder",
        ),
    ],
)
def test_what_no_simulation_can_do_without_is_named_before_anything_runs(
    machine: Machine, documents: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        machine.run(*documents)
    assert message in str(caught.value)
    assert machine.store.list("") == []


def test_a_claim_has_the_folder_that_was_named_for_it_before_that_of_all(tmp_path: Path) -> None:
    (tmp_path / "all/ns/one").mkdir(parents=True)
    (tmp_path / "special").mkdir()
    claims = LocalClaims(tmp_path / "all", {("ns", "two"): tmp_path / "special"})
    assert claims("ns", "one") == tmp_path / "all/ns/one"
    assert claims("ns", "two") == tmp_path / "special"
    with pytest.raises(ConfigError, match="claim ns/two has no folder: name one for it"):
        LocalClaims(None, {})("ns", "two")


def test_a_fingerprint_changes_with_names_and_contents(tmp_path: Path) -> None:
    file = tmp_path / "data" / "a"
    file.parent.mkdir()
    file.write_bytes(b"one")
    seen = {fingerprint(tmp_path / "data"), fingerprint(file)}
    file.write_bytes(b"longer")
    seen.add(fingerprint(tmp_path / "data"))
    file.rename(file.with_name("b"))
    seen.add(fingerprint(tmp_path / "data"))
    assert len(seen) == 4
    assert fingerprint(tmp_path / "data") in seen
