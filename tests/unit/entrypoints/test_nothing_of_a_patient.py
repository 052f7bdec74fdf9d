"""Nothing of a patient is exported: identifying DICOM tags and file names go in, all that comes out is searched."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from hack.testenv.otlp import Receiver, receiving
from tests.unit.data.files import pixels, write_dicom
from tests.unit.entrypoints.test_train_site import changed, publish_parent
from tests.unit.training.parts import around, site_config
from umim import telemetry
from umim.api.jobs import SiteJobConfig
from umim.api.round import Progress
from umim.artifacts.memory import MemoryStore
from umim.entrypoints.runner import run_job
from umim.entrypoints.train_site import SERVICE, train_once
from umim.errors import DataError
from umim.training.reporter import log_progress
from umim.training.runtime import Runtime

SECRET = "Xanthippe"
"""Part of every identifying value and file name below."""
TAGS = {
    "PatientName": f"{SECRET}^Jane",
    "PatientID": f"{SECRET}-4711",
    "OtherPatientNames": f"{SECRET}^Birth",
    "PatientAddress": f"{SECRET} street 1",
    "PatientComments": f"{SECRET} fell",
    "ReferringPhysicianName": f"{SECRET}^Doctor",
    "OperatorsName": f"{SECRET}^Operator",
    "InstitutionName": f"{SECRET} clinic",
    "AccessionNumber": SECRET,
    "StudyID": SECRET,
    "StudyDescription": f"head of {SECRET}",
    "SeriesDescription": f"series of {SECRET}",
    "StationName": SECRET,
    "ImageComments": f"{SECRET} moved",
}


def write_patient(folder: Path, number: int) -> Path:
    """Write a slice whose tags and path identify somebody."""
    label = ("rows", "columns")[number % 2]
    path = folder / label / f"{SECRET}_{number}" / f"{SECRET}_Jane_{number}.dcm"
    write_dicom(path, pixels(number), patient=f"{SECRET}-{number}")
    header = pydicom.dcmread(path)
    for name, value in TAGS.items():
        if name != "PatientID":
            setattr(header, name, value)
    header.save_as(path)
    return path


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving("127.0.0.1") as server:
        yield server


class Run:
    """One Job in this process, with everything that it lets out."""

    def __init__(self, tmp_path: Path, receiver: Receiver, runtime: Runtime) -> None:
        self.data, self.receiver, self.runtime = tmp_path / "data", receiver, runtime
        self.store, self.termination, self.published = MemoryStore(), tmp_path / "termination", list[str]()
        self.log = io.StringIO()
        for number in range(12):
            write_patient(self.data, number)
        config = site_config(tmp_path / "work")
        where = {"path": str(self.data), "format": "dicom", "task": "classification"}
        self.config = changed(config, data=where, parent=publish_parent(self.store, tmp_path).to_dict())

    def main(self, _env: object) -> None:
        running = telemetry.start(self.receiver.settings, SERVICE, "1")

        def sink(progress: Progress) -> None:
            log_progress(progress)
            self.published.append(progress.model_dump_json())
            running.metrics.record_training(self.config.site, progress.images_per_second, progress.loss)

        try:
            with running.span("train_site", {"umim.site": self.config.site}):
                train_once(self.store, self.config, replace(around(self.runtime), sink=sink))
        finally:
            running.shutdown()

    def job(self) -> int:
        """Run it as the Pod does, and return its exit code."""
        with redirect_stderr(self.log):
            return run_job(self.main, SERVICE, {}, self.termination)

    def exported(self) -> bytes:
        """All spans and metrics, the manifests in the store, live progress and the Pod's termination message."""
        parts = [request.SerializeToString() for request in self.receiver.traces]
        parts += [request.SerializeToString() for request in self.receiver.metrics]
        parts += [self.store.get(item.key) for item in self.store.list("rounds/") if item.key.endswith(".json")]
        parts += [line.encode() for line in self.published]
        parts += [self.termination.read_bytes()] if self.termination.exists() else []
        return b"\n".join(parts)


@pytest.fixture
def run(tmp_path: Path, receiver: Receiver, runtime: Runtime) -> Run:
    return Run(tmp_path, receiver, runtime)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A Job sets up logging for its whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def read_back(config: SiteJobConfig) -> str:
    """What the tags of all files say: that the search below can find something."""
    return "".join(str(pydicom.dcmread(path)) for path in Path(config.data.path).rglob("*.dcm"))


def test_a_training_tells_nothing_of_a_patient(run: Run) -> None:
    assert read_back(run.config).count(SECRET) >= 12 * len(TAGS)
    assert run.job() == 0
    assert {"train_site", "load_data", "train", "upload"} <= run.receiver.spans.keys()
    assert run.receiver.metric_names >= {"umim.training.loss"}
    assert run.published
    assert SECRET.encode() not in run.exported()
    assert "committed update" in run.log.getvalue()
    assert '"trace_id"' in run.log.getvalue()
    assert SECRET not in run.log.getvalue()


def test_a_file_that_cannot_be_read_is_named_in_the_pods_own_log_only_and_no_tag_is_told(run: Run) -> None:
    broken = write_patient(run.data, 99)
    broken.write_bytes(broken.read_bytes()[:-300])
    assert run.job() == DataError.exit_code
    assert run.termination.read_text()
    assert SECRET.encode() not in run.exported()
    # The hospital must find the file: its name is in the log of the Pod, in the hospital's own namespace.
    assert broken.name in run.log.getvalue()
    told = run.log.getvalue().replace(str(run.data), "").replace(f"{SECRET}_99", "").replace(broken.name, "")
    for value in TAGS.values():
        assert value not in told
