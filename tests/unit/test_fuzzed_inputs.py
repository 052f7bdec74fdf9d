"""What comes over the store or Redis may be anything: it gives a value or the project's error, and nothing else.

The runs are bounded and the same each time, so that a red one is red for everybody.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save

from tests.memory import MEBIBYTE, little_memory
from umim.api.artifacts import (
    Exclusion,
    HeadArtifact,
    HeadExclusion,
    JobResult,
    ModelManifest,
    TensorInfo,
    TensorsFile,
    UpdateFigures,
    UpdateManifest,
)
from umim.api.base import MOST_MESSAGE_CHARACTERS, ApiModel, ModelReference
from umim.api.globalmodel import Contributor, SharedHead
from umim.api.jobs import AggregateJobConfig, InitJobConfig, SiteJobConfig
from umim.api.round import Progress, SiteStatus
from umim.artifacts.layout import read_layout
from umim.artifacts.manifests import manifest_bytes, parse_manifest
from umim.artifacts.parts import read_parts
from umim.artifacts.sources import MemorySource
from umim.artifacts.tensors import read_header, read_safetensors
from umim.errors import ArtifactError, ConfigError
from umim.progress import FIELD, _parse
from umim.settings import first_problem, job_config
from umim_operator.observe import update_or_damage
from umim_operator.state import DamagedManifest

BOUNDED = settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DIGEST = "a" * 64
FILE = TensorsFile(
    key="rounds/u/sites/a.b/1/update.safetensors",
    digest=DIGEST,
    size_bytes=24,
    tensors={"w": TensorInfo(shape=[2, 3], dtype="F32")},
)
HEAD = HeadArtifact(task_name="tissue", task="classification", classes=["a", "b"], file=FILE)
UPDATE = UpdateManifest(
    round_uid="u",
    site="a.b",
    attempt=1,
    parent_digest=DIGEST,
    architecture="vit",
    image_size=64,
    file=FILE,
    head=HEAD,
    samples=3,
    metrics={"loss": 0.5},
    seed=0,
    software={"umim": "1"},
    created=NOW,
)
MODEL = ModelManifest(
    architecture="vit",
    image_size=64,
    strategy="fedavg",
    file=FILE,
    parts=FILE,
    heads=[SharedHead(task_name="tissue", task="classification", classes=["a", "b"])],
    parent=ModelReference(name="base", digest=DIGEST),
    round_uid="u",
    contributors=[Contributor(site="a.b", update_digest=DIGEST, samples=3)],
    metrics={"loss": 0.5},
    seed=0,
    software={"umim": "1"},
    created=NOW,
)
RESULT = JobResult(
    round_uid="u",
    model_digest=DIGEST,
    exclusions=[Exclusion(site="a.b", reason="NotFinite", message="m")],
    outliers=[UpdateFigures(site="a.b", norm=1.0, cosine=0.0, outlier=False)],
    head_exclusions=[HeadExclusion(site="a.b", task_name="tissue", message="m")],
    metrics={"server_mim_loss": 0.1},
    message="m",
)
PROGRESS = Progress(epoch=0, epochs=1, step=1, steps=10, loss=0.5, images_per_second=10.0, eta_seconds=9.0, time=NOW)
MANIFESTS: list[ApiModel] = [UPDATE, MODEL, RESULT]

TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        "\ud800",
        "\0",
        "../../x",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "NaN",
        "1e400",
        "F32",
        "é" * 400,
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**300, float("nan"), float("inf"), -0.0, 1e308])
    | st.floats()
    | TEXTS
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
Path_ = tuple[str | int, ...]


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yield the path of every value in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def replaced(value: Any, path: Path_, new: Any) -> Any:
    if not path:
        return new
    copied: Any = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = replaced(value[path[0]], path[1:], new)
    return copied


@st.composite
def mutated(draw: st.DrawFn, *models: ApiModel) -> bytes:
    """A valid document with one to three values replaced, then perhaps some bytes."""
    document: Any = draw(st.sampled_from(models)).to_dict()
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(list(places(document))))
        document = replaced(document, place, draw(JSON))
    data = json.dumps(document).encode()
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=6)) + data[at + draw(st.integers(0, 6)) :]
    return data


def check_manifest(model: type[ApiModel], data: bytes) -> None:
    """It is refused by name, or it is a value that can be written and stored, and is read back as it was."""
    try:
        value = parse_manifest(model, data, "rounds/manifest.json")
    except ArtifactError as error:
        text = str(error)
        assert text.startswith("rounds/manifest.json: ")
        text.encode()  # it goes into the round's status
        assert len(text) < 2 * MOST_MESSAGE_CHARACTERS
        return
    json.dumps(value.to_dict(), allow_nan=False).encode()
    assert parse_manifest(model, manifest_bytes(value), "again").to_dict() == value.to_dict()


@pytest.mark.parametrize("model", MANIFESTS, ids=lambda model: type(model).__name__)
def test_the_documents_that_are_mutated_are_valid(model: ApiModel) -> None:
    assert parse_manifest(type(model), manifest_bytes(model), "m") == model


@pytest.mark.parametrize("model", [UpdateManifest, ModelManifest, JobResult])
@BOUNDED
@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_manifest_or_a_named_error(model: type[ApiModel], data: bytes) -> None:
    check_manifest(model, data)


@BOUNDED
@given(data=mutated(UPDATE))
def test_a_mutated_update_manifest_is_a_manifest_or_a_named_error(data: bytes) -> None:
    check_manifest(UpdateManifest, data)


@BOUNDED
@given(data=mutated(MODEL))
def test_a_mutated_model_manifest_is_a_manifest_or_a_named_error(data: bytes) -> None:
    check_manifest(ModelManifest, data)


@BOUNDED
@given(data=mutated(RESULT))
def test_a_mutated_result_is_a_result_or_a_named_error(data: bytes) -> None:
    check_manifest(JobResult, data)


@BOUNDED
@given(data=mutated(UPDATE) | st.binary(max_size=100))
def test_the_operator_takes_any_update_manifest_or_says_that_it_is_damaged(data: bytes) -> None:
    site = SiteStatus(name="a.b", namespace="a", hospital="b", attempt=1)
    found = update_or_damage(data, "u", site)
    if isinstance(found, DamagedManifest):
        found.message.encode()
        assert len(found.message) < 2 * MOST_MESSAGE_CHARACTERS


@pytest.mark.parametrize("kind", ["text", "list", "object", "digits", "names"])
def test_a_manifest_of_the_largest_size_takes_bounded_memory_and_gives_a_short_error(kind: str) -> None:
    count = 15 * MEBIBYTE
    body = {
        "text": b'{"roundUid": "' + b"x" * count + b'"}',
        "list": b"[" * count,
        "object": b'{"a":' * (count // 5),
        "digits": b'{"samples": ' + b"9" * count + b"}",
        "names": b'{"' + b"n" * count + b'": 1}',
    }[kind]
    with little_memory(16 * count):
        check_manifest(UpdateManifest, body)


def test_what_a_status_takes_over_is_cut() -> None:
    text = "x" * (1 << 20)
    result = RESULT.model_copy(update={"exclusions": [Exclusion(site="a.b", reason="WrongParent", message=text)]})
    assert len(manifest_bytes(result)) < 5000
    damaged = update_or_damage(manifest_bytes(UPDATE.model_copy(update={"round_uid": text})), "u", SITE)
    assert isinstance(damaged, DamagedManifest)
    assert len(damaged.message) < 2 * MOST_MESSAGE_CHARACTERS


SITE = SiteStatus(name="a.b", namespace="a", hospital="b", attempt=1)

# Live progress


def check_progress(data: Any) -> None:
    """What is taken can be stored in the status of a round."""
    found = _parse("a.b", [[b"1-0", {FIELD: data}]])
    if found is not None:
        json.dumps(found.to_dict(), allow_nan=False).encode()
        assert 0 <= found.percent <= 100


@BOUNDED
@given(data=mutated(PROGRESS) | st.binary(max_size=200))
def test_any_report_is_progress_or_as_good_as_none(data: bytes) -> None:
    check_progress(data)


@BOUNDED
@given(answer=JSON | st.lists(st.tuples(st.binary(max_size=3), st.dictionaries(st.binary(max_size=8), st.binary()))))
def test_any_answer_of_redis_is_progress_or_as_good_as_none(answer: Any) -> None:
    _parse("a.b", answer)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_that_cannot_be_written_in_utc_is_refused(time: str) -> None:
    body = {**PROGRESS.to_dict(), "time": time}
    with pytest.raises(ValidationError, match="must be from the year 1 to 9999 in UTC"):
        Progress.model_validate(body)
    assert _parse("a.b", [[b"1-0", {FIELD: json.dumps(body).encode()}]]) is None


# Configurations of Jobs: the operator writes them, and whoever may create Jobs


@pytest.mark.parametrize("model", [SiteJobConfig, InitJobConfig, AggregateJobConfig])
@BOUNDED
@given(value=JSON)
def test_any_configuration_of_a_job_is_one_or_a_named_error(model: type[ApiModel], value: Any) -> None:
    try:
        job_config({"UMIM_CONFIG": json.dumps(value)}, model)
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert "UMIM_CONFIG" in message


# Tensors files


SMALL = save(
    {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(3)},
    {"umim": "[]"},
)
HEADER = json.loads(SMALL[8 : 8 + struct.unpack("<Q", SMALL[:8])[0]])
VALUES = SMALL[8 + struct.unpack("<Q", SMALL[:8])[0] :]


@st.composite
def tensors_files(draw: st.DrawFn) -> bytes:
    """A small file with its header's JSON changed, or its bytes."""
    if draw(st.booleans()):
        header: Any = HEADER
        for _ in range(draw(st.integers(1, 3))):
            header = replaced(header, draw(st.sampled_from(list(places(header)))), draw(JSON))
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + VALUES
    at = draw(st.integers(0, len(SMALL)))
    return SMALL[:at] + draw(st.binary(max_size=8)) + SMALL[at + draw(st.integers(0, 8)) :]


READERS: dict[str, Callable[[Path], Any]] = {
    "header": read_header,
    "tensors": read_safetensors,
    "parts": read_parts,
    "layout": lambda path: read_layout(MemorySource(path.read_bytes()), path.name),
}


@pytest.mark.parametrize("reader", READERS)
@BOUNDED
@given(data=tensors_files() | st.binary(max_size=100))
def test_any_tensors_file_is_read_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, reader: str, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(data)
    try:
        READERS[reader](path)
    except ArtifactError as error:
        message = str(error)
    else:
        return
    assert "fuzzed.safetensors" in message


def test_the_problem_of_a_field_with_a_long_name_is_short() -> None:
    with pytest.raises(ValidationError) as caught:
        TensorsFile.model_validate({**FILE.to_dict(), "tensors": {"x" * MEBIBYTE: 1}})
    assert len(first_problem(caught.value)) < 2 * MOST_MESSAGE_CHARACTERS
