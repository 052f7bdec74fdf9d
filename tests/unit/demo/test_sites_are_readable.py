"""The prepared images are what a hospital's Job can read: format, labels and patient groups."""

import os
from collections import Counter
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pytest

from hack.demo.data import Prepared, prepare
from hack.demo.sources import cache_root
from umim.api.hospital import DataFormat, Task
from umim.api.jobs import DatasetLocation
from umim.data.dataset import ImageDataset
from umim.data.load import load_dataset


@pytest.fixture(scope="module")
def prepared() -> dict[str, Prepared]:
    return {one.site.namespace: one for one in prepare(cache_root(os.environ))}


def load(one: Prepared) -> ImageDataset:
    assert one.site.format in get_args(DataFormat)
    assert one.site.task in get_args(Task)
    location = DatasetLocation(
        path=str(one.folder),
        format=cast(DataFormat, one.site.format),
        task=cast(Task, one.site.task),
        labels_file=one.site.labels_file,
    )
    return load_dataset(location, 64)


def test_neuro_has_six_groups_with_a_mask_an_image(prepared: dict[str, Prepared]) -> None:
    dataset = load(prepared["hospital-a"])
    assert len(dataset) == prepared["hospital-a"].images == 120
    assert dataset.patient_count == 6
    assert dataset.targets is not None
    assert 0.05 < float(np.mean(dataset.targets)) < 0.5


def test_thorax_has_two_patients_with_a_mask_an_image(prepared: dict[str, Prepared]) -> None:
    dataset = load(prepared["hospital-b"])
    assert len(dataset) == prepared["hospital-b"].images == 97
    assert dataset.patient_count == 2
    assert dataset.targets is not None
    assert 0.05 < float(np.mean(dataset.targets)) < 0.5


def test_archive_has_three_planes_of_three_patients(prepared: dict[str, Prepared]) -> None:
    dataset = load(prepared["hospital-c"])
    assert len(dataset) == prepared["hospital-c"].images == 260
    assert dataset.patient_count == 3
    assert dataset.classes == ("axial", "coronal", "sagittal")
    assert dataset.targets is not None
    assert min(Counter(int(label) for label in dataset.targets).values()) >= 60


def test_the_pool_is_unlabelled(prepared: dict[str, Prepared]) -> None:
    dataset = load(prepared["federation"])
    assert len(dataset) == prepared["federation"].images == 142
    assert dataset.targets is None


def test_no_picture_is_empty(prepared: dict[str, Prepared]) -> None:
    for one in prepared.values():
        images = load(one).images
        assert float(images.reshape(len(images), -1).std(axis=1).min()) > 2, one.site.namespace


def test_preparing_again_gives_the_same_bytes(prepared: dict[str, Prepared], tmp_path: Path) -> None:
    packages = cache_root(os.environ) / "demo-data" / "packages"
    (tmp_path / "demo-data").mkdir()
    (tmp_path / "demo-data" / "packages").symlink_to(packages)
    again = {one.site.namespace: one.digest for one in prepare(tmp_path)}
    assert again == {name: one.digest for name, one in prepared.items()}
