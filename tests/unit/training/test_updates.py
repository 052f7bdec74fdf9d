"""From a trained encoder to the file that leaves: encodings and error feedback."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from umim.api.artifacts import TensorInfo
from umim.api.hospital import PrivacySpec
from umim.api.round import EncodingFormat, EncodingSpec
from umim.artifacts.encodings import Decoder, NotFiniteError, encoded_infos
from umim.artifacts.files import sha256_of
from umim.artifacts.layout import read_layout
from umim.artifacts.sources import MappedSource
from umim.artifacts.tensors import read_safetensors
from umim.artifacts.writer import info_of, write_safetensors
from umim.training.updates import KEPT, LOSSY, Residuals, write_update

PARENT = {
    "b": torch.linspace(-1, 1, 11),
    "scalar": torch.tensor(0.5),
    "steps": torch.tensor([3]),
    "w": torch.linspace(-2, 2, 60).reshape(4, 3, 5),
}
FLOATS = [name for name, value in PARENT.items() if value.is_floating_point()]
CHANGED: tuple[EncodingFormat, ...] = ("delta", "bf16", "int8", "top-k")


def trained(seed: int, size: float = 1e-2) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    return {
        name: value + size * (1 + torch.randn(value.shape, generator=noise)) if name in FLOATS else value
        for name, value in PARENT.items()
    }


class Site:
    """A site that writes one update after another in a folder."""

    def __init__(self, folder: Path, encoding: EncodingFormat, privacy: PrivacySpec | None = None) -> None:
        density = 0.1 if encoding == "top-k" else None
        self.encoding = EncodingSpec(format=encoding, density=density)
        self.privacy = privacy or PrivacySpec()
        self.folder = folder
        self.residuals = Residuals(folder / "residuals")

    def write(self, values: dict[str, Tensor], last: str | None) -> str:
        """Write an update and return its digest."""
        paths = self.folder / "update", self.folder / "lost"
        write_update(values, PARENT, self.encoding, self.privacy, self.residuals, last, *paths)
        return sha256_of(paths[0])

    def send(self, values: dict[str, Tensor], last: str | None) -> str:
        """Write and commit an update and return its digest."""
        digest = self.write(values, last)
        self.residuals.keep(self.folder / "lost", digest)
        self.residuals.remove_old()
        return digest

    def sent(self) -> dict[str, Tensor]:
        """Return the changes that the server reads from the file."""
        infos: dict[str, TensorInfo] = {name: info_of(value) for name, value in PARENT.items()}
        chosen = self.encoding.format
        assert chosen != "full"
        with MappedSource(self.folder / "update") as source:
            layout = read_layout(source, "the update")
            assert layout.infos == dict(sorted(encoded_infos(infos, chosen, self.encoding.kept).items()))
            reader = Decoder(source, layout, infos, chosen)
            return {name: self._read(reader, name) for name in FLOATS}

    def _read(self, reader: Decoder, name: str) -> Tensor:
        count = PARENT[name].numel()
        found = reader.changes(name, 0, count, bytearray(8 * count))
        return torch.from_numpy(np.array(found)).double().reshape(PARENT[name].shape)


def change(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values[name].double() - PARENT[name].double() for name in FLOATS}


def norm(changes: dict[str, Tensor]) -> float:
    return sum(float(one.square().sum()) for one in changes.values()) ** 0.5


def test_full_writes_the_values_themselves(tmp_path: Path) -> None:
    values = trained(0)
    digest = Site(tmp_path, "full").send(values, None)
    assert digest == write_safetensors(values, tmp_path / "plain").digest
    assert not (tmp_path / "residuals").exists()


def test_delta_writes_the_changes_and_keeps_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, "delta")
    site.send(trained(0), None)
    sent, true = site.sent(), change(trained(0))
    for name in FLOATS:
        assert torch.equal(sent[name], true[name].float().double())
    assert not (tmp_path / "residuals").exists()


@pytest.mark.parametrize("encoding", sorted(LOSSY))
def test_what_is_sent_and_what_is_kept_are_the_change(tmp_path: Path, encoding: EncodingFormat) -> None:
    site = Site(tmp_path, encoding)
    site.write(trained(0), None)
    sent, lost, true = site.sent(), read_safetensors(tmp_path / "lost"), change(trained(0))
    assert lost.keys() == set(FLOATS)
    for name in FLOATS:
        torch.testing.assert_close(sent[name] + lost[name].double(), true[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("encoding", sorted(LOSSY))
def test_over_fifty_rounds_the_sum_of_what_is_sent_follows_the_sum_of_the_changes(
    tmp_path: Path, encoding: EncodingFormat
) -> None:
    errors = {}
    for feedback in (True, False):
        site = Site(tmp_path / str(feedback), encoding)
        site.folder.mkdir()
        total = {name: torch.zeros(PARENT[name].shape, dtype=torch.float64) for name in FLOATS}
        last = None
        for number in range(50):
            values = trained(number % 3)
            last = site.send(values, last if feedback else None)
            sent, true = site.sent(), change(values)
            total = {name: total[name] + sent[name] - true[name] for name in FLOATS}
        errors[feedback] = norm(total)
        if feedback:  # what is still missing is what lies in the residual, and nothing else
            kept = read_safetensors(tmp_path / "True" / "residuals" / f"{last}.safetensors")
            assert norm({name: kept[name].double() + total[name] for name in FLOATS}) < 1e-6 * 50
    assert errors[True] < errors[False] / 5


@pytest.mark.parametrize("encoding", sorted(LOSSY))
def test_a_round_that_is_tried_again_gives_the_same_bytes(tmp_path: Path, encoding: EncodingFormat) -> None:
    site = Site(tmp_path, encoding)
    first = site.send(trained(0), None)
    second = site.send(trained(1), first)
    assert site.send(trained(1), first) == second
    assert site.send(trained(1), None) != second


def test_the_residual_is_of_the_update_that_the_model_holds(tmp_path: Path) -> None:
    site = Site(tmp_path, "top-k")
    first = site.send(trained(0), None)
    expected = site.write(trained(2), first)
    site.send(trained(1), first)  # an update that came too late for its round
    assert site.write(trained(2), first) == expected


@pytest.mark.parametrize("damage", ["shape", "bytes", "missing"])
def test_a_residual_that_does_not_fit_is_left_out(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path, "int8")
    first = site.send(trained(0), None)
    path = tmp_path / "residuals" / f"{first}.safetensors"
    if damage == "shape":
        write_safetensors({**read_safetensors(path), "w": torch.zeros(4, 3)}, path)
    elif damage == "bytes":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        assert site.write(trained(1), first) == site.write(trained(1), None)
    assert "nothing that the last update may have lost is added to this one" in caplog.text


def test_only_the_newest_residuals_are_kept(tmp_path: Path) -> None:
    site = Site(tmp_path, "int8")
    digests = []
    for number in range(KEPT + 2):
        digests.append(site.send(trained(number), None))
        path = tmp_path / "residuals" / f"{digests[-1]}.safetensors"
        os.utime(path, ns=(number, number))
    assert {path.stem for path in (tmp_path / "residuals").iterdir()} == set(digests[-KEPT:])


def test_nothing_to_keep_is_no_error(tmp_path: Path) -> None:
    residuals = Residuals(tmp_path / "residuals")
    residuals.keep(tmp_path / "lost", "0" * 64)
    residuals.remove_old()
    assert list(tmp_path.iterdir()) == []


def test_change_and_residual_together_are_clipped_again(tmp_path: Path) -> None:
    plain, clipped = Site(tmp_path, "top-k"), Site(tmp_path, "top-k", PrivacySpec(clip_norm=0.05))
    first = plain.send(trained(0), None)
    clipped.write(trained(1), first)
    lost = read_safetensors(tmp_path / "lost")
    assert norm({name: clipped.sent()[name] + lost[name].double() for name in FLOATS}) == pytest.approx(0.05, rel=1e-6)


def test_with_noise_the_sum_is_not_clipped(tmp_path: Path) -> None:
    site = Site(tmp_path, "int8", PrivacySpec(clip_norm=1e-3, noise_multiplier=1))
    first = site.send(trained(0), None)
    site.write(trained(1), first)
    assert norm(site.sent()) > 1e-2


@pytest.mark.parametrize("encoding", CHANGED)
def test_a_value_that_is_not_finite_does_not_leave(tmp_path: Path, encoding: EncodingFormat) -> None:
    values = trained(0)
    values["w"][1, 2, 3] = torch.nan
    with pytest.raises(NotFiniteError, match="tensor w: value 28 is nan"):
        Site(tmp_path, encoding).write(values, None)
    assert not (tmp_path / "update").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("encoding", CHANGED)
def test_models_of_other_types_have_changes_too(tmp_path: Path, encoding: EncodingFormat, dtype: torch.dtype) -> None:
    parent = {"w": torch.linspace(-2, 2, 40).reshape(4, 10).to(dtype)}
    values = {"w": (parent["w"] * 1.5).to(dtype)}
    site = Site(tmp_path, encoding)
    paths = tmp_path / "update", tmp_path / "lost"
    write_update(values, parent, site.encoding, site.privacy, site.residuals, None, *paths)
    infos = {"w": info_of(parent["w"])}
    assert encoding != "full"
    with MappedSource(paths[0]) as source:
        reader = Decoder(source, read_layout(source, "the update"), infos, encoding)
        sent = torch.from_numpy(np.array(reader.changes("w", 0, 40, bytearray(320)))).double().reshape(4, 10)
    true = values["w"].double() - parent["w"].double()
    if encoding in LOSSY:
        sent = sent + read_safetensors(paths[1])["w"].double()
    torch.testing.assert_close(sent, true, rtol=1e-6, atol=1e-7)
