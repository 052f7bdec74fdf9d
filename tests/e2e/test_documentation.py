"""The commands of README, tutorial and hospital guide, typed in as they stand, on the real cluster.

Each test is one page, block by block. They share one folder, which looks like a checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hack.testenv.hospitals import remove_namespaces
from hack.testenv.platform import PREFIX, RELEASE, RESTRICTED, SYSTEM, Platform
from hack.testenv.waiting import wait_until
from tests.documentation import PAGES, ROOT, Reader, blocks, to_run
from umim import contract

pytestmark = pytest.mark.alone("make demo upgrades the release")

FEDERATION = "federation"
"""The namespace of the pages, which `make demo` makes."""
CAMPAIGN = "tutorial"
CLINICS = ["clinic-a", "clinic-b"]
ROUND = "stage-1"
"""The round of README. Its hospitals are not there: it shows how rounds are listed."""
GUIDE = f"{PREFIX}-guide"
"""hospital-a of the hospital guide here: the demonstration has one of that name."""


@pytest.fixture(scope="module")
def federation(platform: Platform) -> Iterator[str]:
    """The namespace of the pages, served by the operator, as `make demo` leaves it; without what is of this test."""
    present = platform.api.find("Namespace", "", FEDERATION) is not None
    if not present:
        meta = {"name": FEDERATION, "labels": RESTRICTED}
        platform.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    served = _served(platform)
    _serve(platform, [*served, FEDERATION])
    _clean(platform)
    yield FEDERATION
    _clean(platform)
    if not present:
        _serve(platform, [name for name in served if name != FEDERATION])
        platform.api.delete("Namespace", "", FEDERATION)


@pytest.fixture(scope="module")
def checkout(platform: Platform, federation: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the one of the repository: what a page makes there is not in the repository."""
    folder = tmp_path_factory.mktemp("documentation") / "checkout"
    folder.mkdir()
    for one in ROOT.iterdir():
        if one.name not in (".git", "build") and not one.name.startswith((".mypy", ".ruff", ".pytest")):
            (folder / one.name).symlink_to(one)
    return folder


@pytest.fixture(scope="module")
def reader(checkout: Path, platform: Platform) -> Reader:
    """Somebody at a shell with the commands of the virtual environment, kubectl and helm."""
    tools = [Path(sys.executable).parent, platform.kubectl.parent, platform.helm.binary.parent]
    path = os.pathsep.join([*map(str, tools), os.environ["PATH"]])
    code = os.pathsep.join([str(ROOT), str(ROOT / "operator")])
    around = {"PATH": path, "PYTHONPATH": code, "KUBECONFIG": str(platform.kubeconfig), "OMP_NUM_THREADS": "2"}
    return Reader(checkout, {**os.environ, **around})


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work_as_written(page: str, reader: Reader) -> None:
    typing = replace(reader, replace={"hospital-a": GUIDE} if page == "docs/hospital-guide.md" else {})
    if page == "README.md":
        # Its reader has pulled a model, with the command that the demonstration prints, and has a round.
        shutil.copy(reader.folder / "model/model.safetensors", reader.folder)
        (shown,) = (block for block in blocks(page) if block.language == "yaml")
        typing.run(replace(shown, comment=f"<!-- file: {ROUND}.yaml -->"))
        typing.run(replace(shown, language="sh", text=f"kubectl apply -f {ROUND}.yaml"))
    for block in to_run(page):
        typing.run(block)


def _served(platform: Platform) -> list[str]:
    values = platform.helm.values(RELEASE, SYSTEM) or {}
    return list((values.get("federations") or {}).get("namespaces") or [])


def _serve(platform: Platform, names: list[str]) -> None:
    values = {"federations": {"namespaces": sorted(set(names))}}
    platform.helm.install(RELEASE, "umim", SYSTEM, values, keep_values=True, wait=True)


def _clean(platform: Platform) -> None:
    """Remove what an earlier run of the pages left."""
    api = platform.api
    if api.find("Federation", FEDERATION, CAMPAIGN) is not None:
        api.delete("Federation", FEDERATION, CAMPAIGN)
    api.delete("FederationRound", FEDERATION, ROUND)
    rounds = [ROUND, *(f"{CAMPAIGN}-s1-clinics-r{number}" for number in (1, 2))]
    wait_until(
        "the rounds of the pages deleted",
        lambda: not any(api.find("FederationRound", FEDERATION, name) for name in rounds),
        90,
        lambda: str([api.find("FederationRound", FEDERATION, name) for name in rounds]),
    )
    for model in api.select("GlobalModel", FEDERATION):
        if model["spec"]["round"]["name"] in rounds:
            api.delete("GlobalModel", FEDERATION, model["metadata"]["name"])
    _forget_signed(platform)
    api.delete("Secret", FEDERATION, contract.signing_name(FEDERATION))
    remove_namespaces(platform, [*CLINICS, GUIDE])
    for clinic in CLINICS:
        for volume in ("images", "work"):
            api.delete("PersistentVolume", "", f"{clinic}-{volume}")


def _forget_signed(platform: Platform) -> None:
    """Remove signed models that no GlobalModel names from the store.

    The pages make the same models in each run, but new keys: the manifest of the first run, which stays, is signed with
    keys that are gone.
    """
    named = {model["spec"]["digest"] for model in platform.api.select("GlobalModel")}
    store = platform.store()
    for found in store.list(contract.MODELS):
        digest, _, file = found.key.removeprefix(contract.MODELS).partition("/")
        if file == contract.MANIFEST_FILE and digest not in named and json.loads(store.get(found.key)).get("signature"):
            store.delete_prefix(contract.model_prefix(digest))
