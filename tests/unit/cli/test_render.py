"""What is shown holds what a person needs, and text from the cluster cannot style the terminal."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console, RenderableType

from tests.unit.cli.samples import DIGEST, PARENT, model_object, round_object, site
from umim.api.artifacts import ModelManifest, TensorInfo, TensorsFile
from umim.cli import render, words
from umim.cli.resources import parse_model, parse_round

NOW = datetime(2026, 11, 24, 12, 6, 10, tzinfo=UTC)


def text(renderable: RenderableType, width: int = 140) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (59, "59s"), (370, "6m10s"), (3600, "1h"), (90_061, "1d1h"), (-5, "0s")]
)
def test_ages_are_shown_in_two_units(seconds: int, shown: str) -> None:
    assert words.short_duration(timedelta(seconds=seconds)) == shown


@pytest.mark.parametrize(("number", "shown"), [(0, "0 B"), (1023, "1023 B"), (22_000_000, "21.0 MiB")])
def test_sizes_have_binary_units(number: int, shown: str) -> None:
    assert words.size(number) == shown


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        ({"loss_before": 0.9, "loss_after": 0.45}, ("0.900", "0.450", "-50 %")),
        ({"loss_before": 0.0, "loss_after": 0.1}, ("0.000", "0.100", "-")),
        ({}, ("-", "-", "-")),
        (None, ("-", "-", "-")),
    ],
)
def test_the_change_of_the_loss_needs_both_figures(metrics: dict[str, float] | None, shown: tuple[str, ...]) -> None:
    assert words.loss_change(metrics) == shown


def test_the_list_of_rounds_tells_the_story_in_one_row() -> None:
    shown = text(render.rounds_table([parse_round(round_object())], NOW))
    for word in ("federation", "demo-1", "Training", "1/2/2", "75%", "6m10s"):
        assert word in shown


def test_the_progress_view_has_a_bar_a_site_with_speed_and_rest() -> None:
    shown = text(render.progress_view(parse_round(round_object()), NOW))
    assert "hospital-a.neuro" in shown
    assert "96 samples  loss 0.900 -> 0.450" in shown
    assert "epoch 2/2  loss 0.700  81 images/s  1m15s left" in shown
    assert " 50 %" in shown


def test_pretraining_shows_how_far_it_is() -> None:
    progress = site("b", "thorax", "Running")["progress"]
    job = {"phase": "Running", "attempt": 2, "failures": 1, "progress": progress}
    one = parse_round(round_object(phase="Initializing", sites=[], initialization=job))
    shown = text(render.progress_view(one, NOW))
    assert "start model" in shown
    assert "epoch 2/2  loss 0.700  81 images/s  1m15s left" in shown
    assert render.progress_line(one) == "federation/demo-1 Initializing 50 %"
    assert "Running, attempt 2, 50 %" in text(render.round_detail(one, NOW), 200)


def test_a_merge_shows_how_far_it_is() -> None:
    progress = {"epoch": 0, "epochs": 1, "step": 40, "steps": 100, "etaSeconds": 75.0, "time": "2026-03-01T12:00:00Z"}
    job = {"phase": "Running", "attempt": 1, "progress": progress}
    one = parse_round(round_object(phase="Aggregating", sites=[], aggregation=job))
    shown = text(render.progress_view(one, NOW))
    assert "slice 40/100  1m15s left" in shown
    assert " 40 %" in shown
    assert "images" not in shown


def test_a_job_of_the_server_that_cannot_start_says_why() -> None:
    job = {"phase": "Running", "attempt": 1, "message": "no such image"}
    one = parse_round(round_object(phase="Aggregating", sites=[], aggregation=job))
    assert "no such image" in text(render.progress_view(one, NOW))


def test_the_description_shows_conditions_and_sites() -> None:
    model = {"name": "demo-1-model", "digest": DIGEST}
    shown = text(render.round_detail(parse_round(round_object(phase="Complete", globalModel=model)), NOW), 200)
    for word in ("Accepted", "well formed", "0.900 -> 0.450", "demo-1-model", DIGEST, "start model by random"):
        assert word in shown


def test_text_from_the_cluster_is_shown_as_it_is() -> None:
    failed = parse_round(round_object(sites=[site("b", "thorax", "Failed")]))
    for renderable in (render.progress_view(failed, NOW), render.sites_table(failed.status.sites)):
        assert "[bold]" in text(renderable, 220)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    one = parse_round(round_object())
    model = parse_model(model_object("child", DIGEST, {"name": "start", "digest": PARENT}))
    for renderable in (render.round_detail(one, NOW), render.models_table([model], NOW), render.model_facts(model)):
        assert max(len(line) for line in text(renderable, width).splitlines()) <= width


def test_the_line_for_pipes_changes_only_with_the_state() -> None:
    one = parse_round(round_object())
    assert (
        render.progress_line(one)
        == "federation/demo-1 Training: hospital-a.neuro Succeeded, hospital-b.thorax Running 50 %"
    )


def test_the_lineage_shows_the_start_model_first_and_who_contributed() -> None:
    start = parse_model(model_object("start", PARENT))
    child = parse_model(model_object("child", DIGEST, {"name": "start", "digest": PARENT}))
    lines = text(render.lineage_tree([child, start])).splitlines()
    assert lines[0].startswith("start")
    assert "child" in lines[1]
    assert "hospital-a.neuro  96 samples" in lines[2]


def test_a_pulled_model_comes_with_the_lines_that_load_it() -> None:
    file = TensorsFile(
        key="k", digest=DIGEST, size_bytes=10, tensors={"cls_token": TensorInfo(shape=[1, 1, 192], dtype="F32")}
    )
    manifest = ModelManifest(
        architecture="vit_tiny_patch16_224",
        image_size=64,
        strategy="fedavg",
        file=file,
        round_uid="u",
        seed=0,
        software={},
        created=NOW,
    )
    code = words.loading_code("demo", manifest)
    assert 'timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0)' in code
    assert 'load_file("demo/model.safetensors")' in code
    assert DIGEST in text(render.pulled("demo", manifest, True))
