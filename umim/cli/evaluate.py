"""``umim evaluate``: judge a model on labelled data sets. torch and scikit-learn are imported when it runs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from umim import contract
from umim.artifacts.files import replace_file
from umim.cli import options
from umim.cli.kube import Cluster
from umim.cli.model_file import ModelFile, described, local_model, names_a_file
from umim.cli.output import Format, show_json, show_list
from umim.cli.pull import pull_model
from umim.cli.render import list_table
from umim.cli.store import open_store
from umim.cli.words import NONE
from umim.errors import ConfigError

if TYPE_CHECKING:
    from umim.evaluation.report import Settings, Verdict

ALL = "all"


class Probe(StrEnum):
    """Ways to judge a model."""

    linear = "linear"
    finetune = "finetune"


ModelName = Annotated[
    str, typer.Argument(help="A safetensors file, a folder from `umim models pull`, or a GlobalModel.")
]
Data = Annotated[
    list[Path], typer.Option("--data", help="npz archive with a training and a test part. May be given several times.")
]
ProbeOption = Annotated[Probe, typer.Option(help="linear: frozen features; finetune: a short training.")]
Labels = Annotated[str, typer.Option(metavar="NUMBER|all", help="Labelled images a class to learn from.")]
Draws = Annotated[
    int | None, typer.Option(min=1, help="Draws of the labels to average over. Default: 5, with all labels 1.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws and of fine-tuning.")]
Architecture = Annotated[str | None, typer.Option(help="timm name of the encoder, for a file without manifest.json.")]
ImageSize = Annotated[
    int | None, typer.Option(min=1, help="Side of the encoder's input in pixels, for a file without manifest.json.")
]
Out = Annotated[Path | None, typer.Option(help="Write the JSON to this file, too.")]


def evaluate(
    model: ModelName,
    data: Data,
    probe: ProbeOption = Probe.linear,
    labels_per_class: Labels = "10",
    draws: Draws = None,
    seed: Seed = 0,
    architecture: Architecture = None,
    image_size: ImageSize = None,
    out: Out = None,
    namespace: options.Namespace = None,
    endpoint: options.Endpoint = None,
    operator_namespace: options.OperatorNamespace = "umim-system",
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """Judge a model on labelled images, also of a site that nobody trained on.

    Learns from a few labels of each archive's training part and scores the test part: macro-AUROC for classes,
    Dice for masks. Every model gets the same labels. Needs the extra "evaluation" of the package.
    """
    report = _load_report()
    settings = report.Settings(probe.value, _labels(labels_per_class), draws, seed)
    with tempfile.TemporaryDirectory(prefix="umim-evaluate-") as folder:
        if names_a_file(model):
            file = local_model(model, architecture, image_size)
        else:
            cluster = Cluster.connect(context)
            digest = cluster.model(namespace or cluster.namespace, model).spec.digest
            with open_store(cluster, os.environ, endpoint, operator_namespace) as store:
                manifest, _ = pull_model(store, digest, Path(folder))
            file = described(Path(folder) / contract.MODEL_FILE, manifest, architecture, image_size)
        result, verdicts = _judge(model, file, data, settings)
    if out is not None:
        _write(result, out)
    if output is Format.json:
        show_json(result)
    else:
        show_list(verdicts_table(verdicts))


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    """Return one row a data set."""
    table = list_table("DATASET", "TASK", "LABELLED", "TEST", "METRIC", "MEAN", "INTERVAL 95 %", "DRAWS")
    for one in verdicts:
        result, interval = one.result, one.interval
        table.add_row(
            Text(one.pack.name),
            one.pack.task,
            str(result.train_images),
            str(result.test_images),
            result.metric,
            f"{result.score:.3f}",
            NONE if interval is None else f"{interval.low:.3f} to {interval.high:.3f}",
            str(len(result.scores)),
        )
    return table


def _write(result: dict[str, Any], path: Path) -> None:
    with replace_file(path) as file:
        file.write((json.dumps(result, indent=2) + "\n").encode())


def _load_report() -> Any:
    """Import what computes, or raise ConfigError saying what to install."""
    try:
        from umim.evaluation import report
    except ModuleNotFoundError as error:
        raise ConfigError(f"umim evaluate needs {error.name}: pip install umim[evaluation]") from error
    return report


def _labels(value: str) -> int | None:
    """Return a number of labels, None for all."""
    if value == ALL:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise typer.BadParameter(
            f"{value!r}; allowed are whole numbers from 1, and {ALL}", param_hint="--labels-per-class"
        )
    return int(value)


def _judge(
    name: str, file: ModelFile, data: Sequence[Path], settings: Settings
) -> tuple[dict[str, Any], list[Verdict]]:
    """Return the JSON and the verdicts, in the order of ``data``. All archives are checked before the first one."""
    from umim.evaluation.pack import load_pack
    from umim.evaluation.report import judge, load_model, to_json
    from umim.training.runtime import start_runtime, thread_count

    runtime = start_runtime(thread_count(os.environ))
    encoder = load_model(file.path, file.architecture, file.image_size, runtime)
    packs = [load_pack(path) for path in data]
    verdicts = []
    for pack in packs:
        with _waiting(f"judging {name} on {pack.name}"):
            verdicts.append(judge(encoder, pack, settings, runtime))
    about = {
        "name": name,
        "digest": file.digest,
        "architecture": file.architecture,
        "imageSize": file.image_size,
    }
    return to_json(about, settings, verdicts, runtime), verdicts


@contextmanager
def _waiting(message: str) -> Iterator[None]:
    """Show on a terminal's standard error what is going on."""
    with Console(stderr=True).status(Text(message)):
        yield
