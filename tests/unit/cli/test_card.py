"""A model card says what is known, what is not, and nothing that the cluster's text could forge."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.unit.cli.samples import DIGEST, PARENT, hospital_object, model_object, round_object, site
from umim import contract
from umim.api.artifacts import ModelManifest, TensorInfo, TensorsFile
from umim.artifacts.manifests import manifest_bytes
from umim.artifacts.memory import MemoryStore
from umim.cli import models
from umim.cli.card import Known, card, escaped, markdown
from umim.cli.kube import Cluster
from umim.cli.main import app
from umim.cli.resources import Hospital, Model, Round, parse_hospital, parse_model, parse_round
from umim.errors import AccessDeniedError, NotFoundError

GOLDEN = Path(__file__).parent / "card.txt"
START = parse_model(model_object("start", PARENT))
CHILD = parse_model(model_object("child", DIGEST, {"name": "start", "digest": PARENT}))
MANIFEST = ModelManifest(
    architecture="vit_tiny_patch16_224",
    image_size=64,
    strategy="fedavg",
    file=TensorsFile(
        key=contract.model_key(DIGEST),
        digest=DIGEST,
        size_bytes=22_000_000,
        tensors={"a": TensorInfo(shape=[2, 3], dtype="F32"), "b": TensorInfo(shape=[4], dtype="F32")},
    ),
    round_uid="u-1",
    seed=7,
    software={"python": "3.13.5", "torch": "2.6.0"},
    created=datetime(2026, 11, 24, 12, 5, tzinfo=UTC),
)
ROUND = parse_round(round_object(phase="Complete", sites=[site("a", "neuro", "Succeeded")]))
HOSPITAL = parse_hospital(hospital_object("a", "neuro"))
ALL = Known([CHILD, START], MANIFEST, ROUND, {"hospital-a.neuro": HOSPITAL})


def test_the_card_of_a_model_of_which_all_is_known() -> None:
    assert markdown(card(ALL)) == GOLDEN.read_text()


def test_what_is_not_known_is_said() -> None:
    shown = markdown(card(Known([CHILD, START], missing=["round demo-1: it is not there"])))
    for line in (
        "| Parameters | not known |",
        "Settings of the round: not known, see Provenance.",
        "| hospital-a.neuro | 96 | 100 % | not known | `abababababab` |",
        "| hospital-a.neuro | none recorded | not known | not known |",
        "- Seed: not known",
        "- Software: not known",
        "- Signature of the federation: none",
        "- Not read: round demo-1: it is not there",
    ):
        assert line in shown.splitlines()


def test_a_lineage_whose_base_is_gone_says_where_it_ends() -> None:
    shown = markdown(card(replace(ALL, chain=[CHILD])))
    assert f"The list ends here: start (`{PARENT}`) is no longer in the namespace." in shown
    assert card(replace(ALL, chain=[CHILD]))["lineageComplete"] is False
    assert card(ALL)["lineageComplete"] is True


def test_a_start_model_claims_no_hospital() -> None:
    shown = markdown(card(Known([START])))
    assert "a start model: no hospital's images are in it" in shown
    assert "No hospital's data are in this model." in shown
    assert "its own unlabelled images" in shown


def test_the_numbers_of_images_add_up() -> None:
    raw = model_object("child", DIGEST, {"name": "start", "digest": PARENT})
    raw["spec"]["contributors"].append({"site": "hospital-b.thorax", "updateDigest": PARENT, "samples": 32})
    one = card(replace(ALL, chain=[parse_model(raw), START]))
    assert one["images"] == 128
    assert "2 hospitals with 128 images" in markdown(one)
    assert "| hospital-b.thorax | 32 | 25 % | not known |" in markdown(one)


def test_differential_privacy_is_shown_with_its_guarantee() -> None:
    one = card(ALL)
    one["contributors"][0]["differentialPrivacy"] = {"epsilon": 2.345, "delta": 1e-5}
    shown = markdown(one)
    assert "epsilon 2.35 at delta 1e-05, this round alone" in shown
    assert "No guarantee of differential privacy" not in shown
    assert "No guarantee of differential privacy is recorded for hospital-a.neuro" in markdown(card(ALL))


def test_a_signature_is_named_by_its_key() -> None:
    raw = model_object("child", DIGEST, {"name": "start", "digest": PARENT})
    signed = replace(CHILD, raw={**raw, "spec": {**raw["spec"], "signature": {"keyId": "0" * 16, "value": "x"}}})
    assert f"key {'0' * 16}; `umim verify` checks it" in markdown(card(replace(ALL, chain=[signed, START])))


@given(st.text())
def test_text_stays_on_its_line_and_in_its_cell(text: str) -> None:
    shown = escaped(text)
    assert len(shown.splitlines()) <= 1
    assert re.search(r"(?<!\\)(\\\\)*[|<>`\[&]", shown) is None


@given(st.text(min_size=1, max_size=40))
def test_the_name_of_a_figure_adds_no_cell_and_no_heading(name: str) -> None:
    raw = model_object("child", DIGEST, {"name": "start", "digest": PARENT})
    raw["spec"]["metrics"] = {name: 1.0}
    lines = markdown(card(replace(ALL, chain=[parse_model(raw), START]))).splitlines()
    assert len(lines) == len(GOLDEN.read_text().splitlines())
    rows = [line for line in lines if line.endswith(" | 1 |")]
    assert len(rows) == 1
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", rows[0])) == 3


class FakeCluster:
    """A cluster in which the Hospitals may not be read."""

    namespace = "federation"
    round_uid = "u-1"

    def model(self, _namespace: str, _name: str) -> Model:
        return CHILD

    def models(self, _namespace: str | None) -> list[Model]:
        return [CHILD, START]

    def round(self, _namespace: str, _name: str) -> Round:
        raw = round_object(phase="Complete", sites=[])
        raw["metadata"]["uid"] = self.round_uid
        return parse_round(raw)

    def hospital(self, _namespace: str, _name: str) -> Hospital:
        raise AccessDeniedError("no")

    def operator_environment(self, _namespace: str) -> dict[str, str]:
        raise NotFoundError("no operator")


def shown(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, *arguments: str) -> Any:
    monkeypatch.setattr(Cluster, "connect", lambda _context: cluster)
    return CliRunner().invoke(app, ["models", "card", "child", *arguments], catch_exceptions=False)


def test_a_reader_without_rights_gets_a_card_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    done = shown(monkeypatch, FakeCluster())
    assert done.exit_code == 0
    assert "- Not read: the manifest in the store: it is not there" in done.stdout
    assert "- Not read: Hospital hospital-a.neuro: you may not read it" in done.stdout
    assert "- quorum: 2" in done.stdout


def test_a_round_made_anew_under_the_name_is_not_taken_for_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    cluster.round_uid = "u-2"
    done = shown(monkeypatch, cluster)
    assert "- Not read: round demo-1: it is not there" in done.stdout
    assert "- quorum" not in done.stdout


def test_a_damaged_manifest_is_an_error_and_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    other = MANIFEST.model_copy(update={"file": MANIFEST.file.model_copy(update={"digest": PARENT})})
    store.put(contract.model_manifest_key(DIGEST), manifest_bytes(other))

    class Opened:
        def __enter__(self) -> MemoryStore:
            return store

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(models, "open_store", lambda *_: Opened())
    done = shown(monkeypatch, FakeCluster())
    assert done.exit_code == 76
    assert done.stdout == ""
