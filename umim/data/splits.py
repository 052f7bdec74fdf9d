"""Splitting into training and validation by patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umim.data.dataset import ImageDataset
from umim.errors import DataError


@dataclass(frozen=True)
class Split:
    """The two sides. No patient is on both."""

    train: NDArray[np.int64]
    """Numbers of the training images, ascending."""
    validation: NDArray[np.int64]
    """Numbers of the validation images, ascending."""


def split_by_patient(dataset: ImageDataset, validation_fraction: float, seed: int, min_patients: int = 1) -> Split:
    """Return a split that depends on the data and the seed alone.

    ``validation_fraction`` is a share of the patients; each side has at least one. Patients are drawn within
    strata (their most frequent class, or whether they have any foreground), and the last patient of a stratum
    stays in training, so that each class is trained on. A split fixed by the source (npz with val_*) is kept.
    Raises DataError when a patient would be on both sides, there are fewer than two patients, or fewer than
    ``min_patients`` in training.
    """
    if dataset.validation is not None:
        marked = np.unique(dataset.patients[dataset.validation])
        if np.isin(dataset.patients[~dataset.validation], marked).any():
            raise DataError("a patient (or group) number occurs in train_* and in val_*; allowed is one side only")
    else:
        marked = _draw(_strata(dataset), validation_fraction, seed)
    chosen = np.isin(dataset.patients, marked)
    split = Split(np.flatnonzero(~chosen), np.flatnonzero(chosen))
    if not len(split.train) or not len(split.validation):
        raise DataError("the training or the validation part has no image; each needs one at least")
    trained = len(np.unique(dataset.patients[split.train]))
    if trained < min_patients:
        raise DataError(
            f"{trained} patients in the training part are fewer than spec.privacy.minPatients allows ({min_patients})",
            public=f"fewer patients in the training part than spec.privacy.minPatients allows ({min_patients})",
        )
    return split


def _draw(strata: dict[int, NDArray[np.int64]], fraction: float, seed: int) -> NDArray[np.int64]:
    """Draw the validation patients: quotas by largest remainder, at least one patient of each stratum kept."""
    total = sum(len(members) for members in strata.values())
    if total < 2:
        raise DataError(f"{total} patient is too few: one is needed for training and another one for validation")
    wanted = min(max(round(fraction * total), 1), total - 1)
    keys = sorted(strata)
    quota = {key: min(int(fraction * len(strata[key])), len(strata[key]) - 1) for key in keys}
    by_remainder = sorted(keys, key=lambda key: (quota[key] - fraction * len(strata[key]), key))
    for spare in (1, 0):  # a stratum's last patient is taken only when nothing else is left
        if spare or not sum(quota.values()):
            for key in by_remainder:
                if sum(quota.values()) < wanted and quota[key] < len(strata[key]) - spare:
                    quota[key] += 1
    random = np.random.Generator(np.random.PCG64(seed))
    return np.concatenate([random.permutation(strata[key])[: quota[key]] for key in keys])


def _strata(dataset: ImageDataset) -> dict[int, NDArray[np.int64]]:
    """Return the patients' numbers by stratum."""
    codes = _codes(dataset)
    result: dict[int, list[int]] = {}
    for patient in np.unique(dataset.patients):
        own = codes[dataset.patients == patient]
        result.setdefault(int(np.bincount(own).argmax()), []).append(int(patient))
    return {key: np.asarray(members, dtype=np.int64) for key, members in result.items()}


def _codes(dataset: ImageDataset) -> NDArray[np.int64]:
    """Return one number an image: its class, its rarest label + 1 (0: none), or whether it has foreground."""
    if dataset.targets is None:
        return np.zeros(len(dataset), dtype=np.int64)
    if dataset.task == "classification":
        return dataset.targets.astype(np.int64)
    if dataset.task == "segmentation":
        marked = np.any(dataset.targets.reshape(len(dataset), -1) > 0, axis=1)
        return np.asarray(marked, dtype=np.int64)
    rarest_first = np.argsort(dataset.targets.sum(axis=0), kind="stable")
    ordered = dataset.targets[:, rarest_first]
    rarest: NDArray[np.int64] = rarest_first[ordered.argmax(axis=1)].astype(np.int64)
    rarest[~ordered.any(axis=1)] = -1
    rarest += 1
    return rarest
