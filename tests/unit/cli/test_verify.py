"""``umim verify`` and ``umim keygen``: exit codes, files, what they say."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.unit.artifacts.test_chain import SITE, TRUST, Chain
from umim import contract
from umim.artifacts.local import LocalStore
from umim.artifacts.manifests import manifest_bytes, read_model_manifest
from umim.artifacts.signing import Signer, key_id
from umim.cli.main import app
from umim.cli.pull import pull_model


@pytest.fixture
def store(tmp_path: Path) -> tuple[LocalStore, str]:
    """A chain of three models in a folder, and the digest of the newest."""
    chain, made = Chain(tmp_path), LocalStore(tmp_path / "store")
    for info in chain.store.list("models/"):
        made.put(info.key, chain.store.get(info.key))
    return made, chain.newest


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    path = tmp_path / "trust"
    path.write_text("".join(f"{owner} {key}\n" for owner, keys in TRUST.items() for key in keys))
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.exit_code, result.output


def test_a_chain_that_is_vouched_for_ends_with_0(store: tuple[LocalStore, str], trust: Path, tmp_path: Path) -> None:
    code, output = run("verify", store[1], "--store", tmp_path / "store", "--trust", trust)
    assert (code, output.count("verified")) == (0, 3)


def test_a_key_that_is_not_trusted_ends_with_1(store: tuple[LocalStore, str], trust: Path, tmp_path: Path) -> None:
    trust.write_text(f"{SITE} {Signer.new().public_key}\n" + f"federation {TRUST['federation'][1]}\n")
    code, output = run("verify", store[1], "--store", tmp_path / "store", "--trust", trust, "-o", "json")
    assert code == 1
    models = json.loads(output)["models"]
    assert [len(one["gaps"]) for one in models] == [1, 1, 0]
    assert [one["damage"] for one in models] == [[], [], []]


def test_damage_ends_with_76_and_says_what_is_damaged(
    store: tuple[LocalStore, str], trust: Path, tmp_path: Path
) -> None:
    store[0].put(contract.model_key(store[1]), b"other")
    code, output = run("verify", store[1], "--store", tmp_path / "store", "--trust", trust)
    assert code == 76
    assert f"damaged: model {store[1][:12]}: the tensors file has sha256" in output


def test_an_edited_manifest_ends_with_76(store: tuple[LocalStore, str], trust: Path, tmp_path: Path) -> None:
    edited = read_model_manifest(store[0], store[1]).model_copy(update={"metrics": {"loss_after": 0.0}})
    store[0].put(contract.model_manifest_key(store[1]), manifest_bytes(edited))
    assert run("verify", store[1], "--store", tmp_path / "store", "--trust", trust)[0] == 76


def test_a_missing_ancestor_ends_with_66(store: tuple[LocalStore, str], trust: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pulled"
    manifest, _ = pull_model(store[0], store[1], folder)
    assert manifest.parent is not None
    code, output = run("verify", folder, "--trust", trust)
    assert (code, manifest.parent.digest in output.replace("\n", "")) == (66, True)


def test_pulled_folders_are_enough(store: tuple[LocalStore, str], trust: Path, tmp_path: Path) -> None:
    folders, digest = [], store[1]
    for number in range(3):
        folders.append(tmp_path / f"pulled-{number}")
        manifest, _ = pull_model(store[0], digest, folders[-1])
        digest = "" if manifest.parent is None else manifest.parent.digest
    parents = [part for folder in folders[1:] for part in ("--parent", folder)]
    assert run("verify", folders[0], *parents, "--trust", trust)[0] == 0


def test_what_is_no_digest_is_refused(trust: Path, tmp_path: Path) -> None:
    code, output = run("verify", "base", "--store", tmp_path, "--trust", trust)
    assert (code, "--store needs the digest of a model" in output.replace("\n", " ")) == (78, True)


def test_a_new_key_is_a_secret_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    out = tmp_path / "key.yaml"
    code, output = run("keygen", "radiology", "-n", "hospital-a", "--out", out)
    assert code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    secret = yaml.safe_load(out.read_text())
    assert secret["metadata"]["namespace"] == "hospital-a"
    assert secret["metadata"]["name"] == contract.signing_name("radiology")
    pem = tmp_path / contract.SIGNING_FILE
    pem.write_text(secret["stringData"][contract.SIGNING_FILE])
    public_key = Signer.from_pem(pem).public_key
    assert f"public key: {public_key}" in output
    assert key_id(public_key) in output
    assert "PRIVATE" not in output


def test_a_new_key_can_be_read_by_a_program(tmp_path: Path) -> None:
    out = tmp_path / "key.yaml"
    code, output = run("keygen", "federation", "-n", "federation", "--out", out, "-o", "json")
    shown = json.loads(output)
    assert (code, shown["keyId"], shown["secretFile"]) == (0, key_id(shown["publicKey"]), str(out))


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "key.yaml"
    out.write_text("mine")
    code, output = run("keygen", "radiology", "-n", "hospital-a", "--out", out)
    assert code == 78
    assert "File exists" in output
    assert out.read_text() == "mine"
