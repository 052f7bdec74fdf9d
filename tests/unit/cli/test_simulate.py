"""``umim simulate``: what it reads, shows and refuses; the simulation itself is in tests/unit/simulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from hack.testenv.images import write_textures
from tests.unit.simulation.conftest import a_federation, a_round, hospital
from umim.cli.main import app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_textures(tmp_path / f"data/hospital-{name}/images/images.npz", 24, seed)
    return tmp_path


def write(path: Path, *documents: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump_all(documents))
    return path


def run(folder: Path, *arguments: object) -> Result:
    command = ["simulate", "--out", str(folder / "out"), "--threads", "1", *map(str, arguments)]
    return CliRunner().invoke(app, command)


def test_a_federation_from_two_files_ends_with_a_table_and_a_model_to_judge(folder: Path) -> None:
    federation = write(folder / "federation.yaml", a_federation())
    hospitals = write(folder / "hospitals.yaml", hospital("a"), hospital("b"))
    done = run(folder, federation, hospitals, "--data", folder / "data")
    assert done.exit_code == 0, done.output
    assert "campaign-s2-two-r1" in done.stdout
    assert "[2/2] federation/campaign-s2-two-r1 Complete: hospital-b.radiology Succeeded" in done.stderr
    result = json.loads((folder / "out/result.json").read_text())
    digest = result["rounds"][-1]["status"]["globalModel"]["digest"]
    model = folder / "out/models/sha256" / digest / "model.safetensors"
    assert model.is_file()
    assert f"model:   {model}" in done.stdout
    names = [model["name"] for one in result["rounds"] for model in one["models"]]
    assert "lineage: " + " -> ".join(names) in done.stdout


def test_json_goes_to_standard_output_alone(folder: Path) -> None:
    file = write(folder / "round.yaml", a_round("a"), hospital("a"))
    done = run(folder, file, "--map", f"hospital-a/images={folder / 'data/hospital-a/images'}", "-o", "json")
    shown = json.loads(done.stdout)
    assert (shown["federation"], shown["phase"]) == ("federation/round", "Complete")
    assert Path(shown["modelPath"]).is_file()


def test_a_failed_round_is_exit_code_1_and_says_why(folder: Path) -> None:
    file = write(folder / "round.yaml", a_round("a"), hospital("a", federations=[]))
    done = run(folder, file, "--data", folder / "data")
    assert done.exit_code == 1
    assert (
        "the quorum is 1. hospital-a.radiology: The hospital's spec.federations does not list federation" in done.stderr
    )
    assert "the same command goes on" in done.stderr
    assert json.loads((folder / "out/result.json").read_text())["phase"] == "Failed"


def test_a_round_starts_from_the_model_of_an_earlier_simulation(folder: Path) -> None:
    file = write(folder / "round.yaml", a_round("a"), hospital("a"))
    first = json.loads(run(folder, file, "--data", folder / "data", "-o", "json").stdout)
    model = {"architecture": "test_vit", "imageSize": 32, "parent": {"globalModel": "start"}}
    later = write(folder / "later.yaml", a_round("a", model=model), hospital("a"))
    parent = Path(first["modelPath"]).parent
    done = run(folder, later, "--data", folder / "data", "--parent", f"start={parent}", "-o", "json")
    assert done.exit_code == 0, done.output
    (one,) = json.loads(done.stdout)["rounds"]
    assert one["status"]["parent"] == {"name": "start", "digest": first["rounds"][0]["status"]["globalModel"]["digest"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML: while parsing a flow node"),
        ("", "one Federation or FederationRound is simulated at a time. Given are: none"),
        (
            yaml.safe_dump_all([a_round("a"), a_federation()]),
            "Given are: FederationRound federation/round, Federation federation/campaign",
        ),
        ("kind: Pod\n", "document 1: kind Pod of apiVersion None is unknown here; allowed are Federation"),
    ],
)
def test_a_file_that_cannot_be_simulated_is_a_configuration_error(folder: Path, text: str, message: str) -> None:
    file = folder / "file.yaml"
    file.write_text(text)
    done = run(folder, file)
    assert done.exit_code == 78
    assert message in done.stderr
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--map", "claim=/tmp"],
        ["--map", "ns/claim"],
        ["--parent", "=x"],
        ["--data", "/nonexistent"],
        ["--threads", "0"],
    ],
)
def test_wrong_usage_is_exit_code_2(folder: Path, arguments: list[str]) -> None:
    file = write(folder / "round.yaml", a_round("a"), hospital("a"))
    assert run(folder, file, *arguments).exit_code == 2


def test_without_a_folder_for_a_claim_it_says_how_to_name_one(folder: Path) -> None:
    done = run(folder, write(folder / "round.yaml", a_round("a"), hospital("a")))
    assert done.exit_code == 78
    assert "claim hospital-a/images has no folder: name one for it (--map) or for all (--data)" in done.stderr
