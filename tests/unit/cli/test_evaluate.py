"""``umim evaluate`` on local models: what it prints and writes, and what it says about bad input."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.unit.evaluation.parts import ARCHITECTURE, SIZE, classification, encoder, segmentation, write
from umim.api.artifacts import ModelManifest
from umim.artifacts.files import sha256_of
from umim.artifacts.manifests import manifest_bytes
from umim.artifacts.models import describe
from umim.artifacts.writer import write_safetensors
from umim.cli.main import app
from umim.cli.model_file import names_a_file

DESCRIBED = ("--architecture", ARCHITECTURE, "--image-size", str(SIZE))


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"OMP_NUM_THREADS": "1"}).invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tensors file without a manifest."""
    return write_safetensors(encoder().net.state_dict(), tmp_path / "model.safetensors").path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path, **classification())


def add_manifest(model: Path, digest: str) -> None:
    """Write what ``umim models pull`` writes beside the tensors."""
    manifest = ModelManifest(
        architecture=ARCHITECTURE,
        image_size=SIZE,
        strategy="fedavg",
        file=describe(model, "models/model.safetensors", digest),
        round_uid="u-1",
        seed=0,
        software={},
        created=datetime(2026, 11, 24, tzinfo=UTC),
    )
    model.with_name("manifest.json").write_bytes(manifest_bytes(manifest))


def test_a_folder_of_models_pull_needs_no_options(model: Path, data: Path) -> None:
    add_manifest(model, sha256_of(model))
    done = run(model.parent, "--data", data)
    assert done.exit_code == 0, done.output
    assert "stripes" in done.stdout
    assert "macro_auroc" in done.stdout


def test_json_holds_every_number_and_the_file_says_the_same(model: Path, data: Path, tmp_path: Path) -> None:
    masks = write(tmp_path, "masks", **segmentation())
    out = tmp_path / "new" / "out.json"
    done = run(model, *DESCRIBED, "--data", data, "--data", masks, "--draws", "2", "-o", "json", "--out", out)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert json.loads(out.read_text()) == result
    assert result["model"] == {
        "name": str(model),
        "digest": sha256_of(model),
        "architecture": ARCHITECTURE,
        "imageSize": SIZE,
    }
    assert result["settings"] == {"probe": "linear", "labelsPerClass": 10, "draws": 2, "seed": 0, "budget": None}
    assert {"torch", "scikit-learn", "umim"} <= result["software"].keys()
    stripes, squares = result["results"]
    assert (stripes["dataset"], stripes["digest"], stripes["classes"]) == ("stripes", sha256_of(data), ["3", "5"])
    assert (stripes["trainImages"], stripes["labelledImages"], stripes["testImages"]) == (40, 20, 20)
    assert stripes["score"] == pytest.approx(sum(stripes["scores"]) / 2)
    assert stripes["interval"]["low"] <= stripes["score"] <= stripes["interval"]["high"] <= 1
    assert (squares["task"], squares["metric"]) == ("segmentation", "dice")


def test_all_labels_have_no_interval(model: Path, data: Path) -> None:
    done = run(model, *DESCRIBED, "--data", data, "--labels-per-class", "all", "-o", "json")
    result = json.loads(done.stdout)
    assert result["settings"]["labelsPerClass"] == "all"
    assert result["results"][0]["interval"] is None


def test_a_manifest_of_another_file_is_refused(model: Path, data: Path) -> None:
    add_manifest(model, "0" * 64)
    done = run(model, "--data", data)
    assert done.exit_code == 76
    assert "model.safetensors has sha256" in done.stderr


def test_options_that_contradict_the_manifest_are_refused(model: Path, data: Path) -> None:
    add_manifest(model, sha256_of(model))
    done = run(model, "--data", data, "--image-size", "64")
    assert done.exit_code == 78
    assert "--image-size is 64 but the model's manifest says 32" in done.stderr


def test_a_file_without_manifest_needs_architecture_and_size(model: Path, data: Path) -> None:
    done = run(model, "--data", data)
    assert done.exit_code == 78
    assert "say what it is with --architecture and --image-size" in done.stderr


def test_tensors_of_another_architecture_are_named(model: Path, data: Path) -> None:
    done = run(model, "--architecture", "test_vit2", "--image-size", "32", "--data", data)
    assert done.exit_code == 76
    assert "the model does not fit: encoder test_vit2: tensor" in done.stderr


def test_a_missing_file_is_not_looked_for_in_the_cluster(data: Path) -> None:
    done = run("missing.safetensors", "--data", data)
    assert done.exit_code == 66
    assert "missing.safetensors does not exist" in done.stderr


def test_a_name_means_a_global_model_unless_it_is_here(tmp_path: Path) -> None:
    assert not names_a_file("base-0123")
    assert names_a_file("./base-0123")
    assert names_a_file("model.safetensors")
    assert names_a_file(str(tmp_path))


def test_bad_data_is_named_before_anything_is_judged(model: Path, data: Path, tmp_path: Path) -> None:
    bad = write(tmp_path, "bad", train_images=classification()["train_images"])
    done = run(model, *DESCRIBED, "--data", data, "--data", bad)
    assert done.exit_code == 65
    assert "bad.npz has neither train_labels nor train_masks" in done.stderr
    assert done.stdout == ""


def test_more_labels_than_there_are_are_refused(model: Path, data: Path) -> None:
    done = run(model, *DESCRIBED, "--data", data, "--labels-per-class", "21")
    assert done.exit_code == 65
    assert "images of class 3: there are 20 in the training part, fewer than the 21" in done.stderr


@pytest.mark.parametrize("labels", ["0", "-1", "ten", "1.5"])
def test_a_number_of_labels_is_a_whole_number_or_all(model: Path, data: Path, labels: str) -> None:
    done = run(model, *DESCRIBED, "--data", data, f"--labels-per-class={labels}")
    assert done.exit_code == 2
    assert "allowed are whole numbers from 1, and all" in " ".join(done.stderr.split()).replace("│ ", "")


def test_without_torch_it_says_what_to_install(model: Path, data: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from umim.cli.main import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", str(model), "--data", str(data)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 78
    assert "umim evaluate needs torch: pip install umim[evaluation]" in done.stderr
