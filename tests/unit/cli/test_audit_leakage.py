"""``umim audit-leakage`` on a tiny archive: what it writes, and what it says about bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.unit.evaluation.leakage.parts import ARCHITECTURE, SIZE, blobs, site
from umim.artifacts.writer import write_safetensors
from umim.cli.main import app
from umim.evaluation.leakage import report
from umim.evaluation.leakage.inversion import Inversion

DESCRIBED = ("--architecture", ARCHITECTURE, "--image-size", str(SIZE))
ROUND = """
apiVersion: umim.dev/v1alpha1
kind: FederationRound
metadata: {name: r, namespace: federation}
spec:
  model: {architecture: test_vit, imageSize: 32, parent: {globalModel: base}}
  participants: {hospitals: [{namespace: hospital-a, name: radiology}], quorum: 1}
  training: {epochs: 2, batchSize: 8, objective: supervised+mim}
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"OMP_NUM_THREADS": "1", "COLUMNS": "200"}).invoke(
        app, ["audit-leakage", *map(str, arguments)]
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_safetensors(site().parent.encoder, tmp_path / "model.safetensors").path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    dataset, path = blobs(32), tmp_path / "scans.npz"
    assert dataset.targets is not None
    np.savez(path, train_images=dataset.images[:, 0], train_labels=dataset.targets, train_patients=dataset.patients)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inversion.__init__, "__defaults__", (2, 1, 2, 0.1, 0.01))


@pytest.mark.usefixtures("quick")
def test_the_folder_holds_page_numbers_and_pictures(model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "round.yaml").write_text(ROUND)
    out = tmp_path / "new" / "out"
    done = run(
        model, *DESCRIBED, "--data", data, "--out", out, "--round", tmp_path / "round.yaml", "--models", "4",
        "--clip-norm", "2", "--noise-multiplier", "0.5", "--target-epsilon", "2", "-o", "json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert json.loads((out / "report.json").read_text()) == found
    assert sorted(path.name for path in out.iterdir()) == [
        "membership.png", "reconstructions.png", "report.json", "report.md",
    ]  # fmt: skip
    assert (out / "report.md").read_text() == report.page(found)
    plain, floor, private = found["settings"]["defences"]
    assert plain["training"]["epochs"] == 2
    assert plain["training"]["objective"] == "supervised+mim"
    assert (plain["name"], plain["clipNorm"]) == ("none", None)
    assert (floor["name"], floor["clipNorm"], floor["noiseMultiplier"]) == ("clip+noise", 2, 0.5)
    assert (private["name"], private["clipNorm"]) == ("dp-sgd", None)
    assert private["training"]["differentialPrivacy"]["targetEpsilon"] == 2
    assert private["training"]["epochs"] == 2
    (spent,) = (one["epsilon"]["mean"] for one in found["usefulness"] if one["defence"] == "dp-sgd")
    assert 0 < spent <= 2
    assert found["data"] == {"name": "scans.npz", "task": "classification", "classes": 4, "images": 32, "patients": 16}
    for one in found["membership"]["attacks"]:
        assert len(one["auroc"]["values"]) == 4
        assert one["auroc"]["mean"] == pytest.approx(np.mean(one["auroc"]["values"]))
    assert "[4/23]" in done.stderr
    assert "inversion: 1 image, plain gradient, none" in done.stderr


@pytest.mark.usefixtures("quick")
def test_the_tables_name_the_attacks_and_warn_of_the_pictures(model: Path, data: Path, tmp_path: Path) -> None:
    done = run(model, *DESCRIBED, "--data", data, "--out", tmp_path / "out", "--models", "4", "--images", "24")
    assert done.exit_code == 0, done.output
    for word in ("clip+noise", "calibrated", "closed-form", "mean image", "1 image, 1 step of AdamW"):
        assert word in done.stdout
    assert "keep" in done.stdout
    page = (tmp_path / "out" / "report.md").read_text()
    assert "24 images of 12 patients" in page
    assert "Guessing: AUROC 0.5" in page


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--clip-norm", "0"], 2, "allowed are finite numbers above 0"),
        (["--target-epsilon", "0"], 2, "allowed are numbers above 0 up to 1000"),
        (["--models", "5"], 2, "allowed are even numbers from 4"),
        (["--noise-multiplier", "-1"], 2, "--noise-multiplier"),
        (["--task", "none"], 78, "objective supervised needs labels but the task is none"),
        (["--task", "segmentation"], 65, "has no array train_masks"),
        (["--labels-file", "labels.csv"], 65, "labelsFile 'labels.csv': not allowed with format npz"),
    ],
)
def test_bad_options_are_named(
    model: Path, data: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = run(model, *DESCRIBED, "--data", data, "--out", tmp_path / "out", *arguments)
    assert done.exit_code == code
    assert message in " ".join(done.stderr.replace("│", "").split())
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_folder_that_cannot_be_made_is_named_before_anything_is_trained(
    model: Path, data: Path, tmp_path: Path
) -> None:
    done = run(model, *DESCRIBED, "--data", data, "--out", model / "out")
    assert done.exit_code == 78
    assert f"--out {model / 'out'} cannot be made: Not a directory" in done.stderr


def test_a_round_with_a_wrong_field_is_named(model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "round.yaml").write_text(ROUND.replace("epochs: 2", "epochs: 0"))
    done = run(model, *DESCRIBED, "--data", data, "--out", tmp_path / "out", "--round", tmp_path / "round.yaml")
    assert done.exit_code == 78
    assert "epochs" in done.stderr


def test_too_few_images_are_named(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "few.npz"
    np.savez(path, train_images=blobs(8).images[:, 0], train_labels=np.arange(8) % 2)
    done = run(model, *DESCRIBED, "--data", path, "--out", tmp_path / "out")
    assert done.exit_code == 65
    assert "there are 8 images; the audit needs 20 or more" in done.stderr


def test_a_file_without_manifest_needs_architecture_and_size(model: Path, data: Path, tmp_path: Path) -> None:
    done = run(model, "--data", data, "--out", tmp_path / "out")
    assert done.exit_code == 78
    assert "say what it is with --architecture and --image-size" in done.stderr


def test_tensors_of_another_architecture_are_named(model: Path, data: Path, tmp_path: Path) -> None:
    done = run(model, "--architecture", "test_vit2", "--image-size", "32", "--data", data, "--out", tmp_path / "out")
    assert done.exit_code == 76
    assert "the model does not fit: encoder test_vit2: tensor" in done.stderr


def test_without_torch_it_says_what_to_install(model: Path, data: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from umim.cli.main import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "audit-leakage", model, *DESCRIBED, "--data", data, "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 78
    assert "umim audit-leakage needs torch: pip install umim[evaluation]" in done.stderr
