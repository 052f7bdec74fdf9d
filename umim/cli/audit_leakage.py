"""``umim audit-leakage``: what a hospital's update would tell about its images. torch is imported when it runs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from umim.api.jobs import DatasetLocation
from umim.api.round import TrainingSpec
from umim.artifacts.files import replace_file
from umim.cli import options
from umim.cli.model_file import ModelFile, local_model
from umim.cli.output import Format, show_json, show_list, show_text
from umim.cli.render import list_table
from umim.cli.simulate import read_files
from umim.cli.words import NONE
from umim.errors import ConfigError

JSON = "report.json"
PAGE = "report.md"


class DataForm(StrEnum):
    """Forms of a data set."""

    npz = "npz"
    imagefolder = "imagefolder"
    dicom = "dicom"
    nifti = "nifti"


class DataTask(StrEnum):
    """What labels are."""

    classification = "classification"
    multilabel = "multilabel"
    segmentation = "segmentation"
    none = "none"


ModelPath = Annotated[
    str, typer.Argument(help="The parent: a safetensors file, or a folder from `umim models pull`. None leaves here.")
]
Data = Annotated[Path, typer.Option(exists=True, help="The hospital's images: a file or a folder.")]
Out = Annotated[Path, typer.Option(file_okay=False, help="Folder for report.md, report.json and pictures.")]
Form = Annotated[
    DataForm | None, typer.Option("--format", help="Form of the data. Default: npz for a file, else imagefolder.")
]
TaskOption = Annotated[DataTask, typer.Option(help="What the labels are.")]
LabelsFile = Annotated[str | None, typer.Option(help="CSV file with labels, relative to the data.")]
RoundFile = Annotated[
    Path | None,
    typer.Option(
        "--round",
        exists=True,
        dir_okay=False,
        help="YAML with a FederationRound or Federation: its training is audited. Default: a round's defaults.",
    ),
]
ClipNorm = Annotated[float, typer.Option(help="clipNorm of the hospital's privacy floor, above 0.")]
Noise = Annotated[float, typer.Option(min=0, max=100, help="noiseMultiplier of the hospital's privacy floor.")]
Epsilon = Annotated[
    float, typer.Option(help="Epsilon that the row dp-sgd may spend, above 0. A round's own differentialPrivacy wins.")
]
Models = Annotated[int, typer.Option(min=4, help="Models to train for membership inference, an even number.")]
Images = Annotated[int, typer.Option(min=20, help="Most images to look at: whole patients, drawn by the seed.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of halves, noise and attacks.")]
Architecture = Annotated[str | None, typer.Option(help="timm name of the encoder, for a file without manifest.json.")]
ImageSize = Annotated[
    int | None, typer.Option(min=1, help="Side of the encoder's input in pixels, for a file without manifest.json.")
]


def audit_leakage(
    model: ModelPath,
    data: Data,
    out: Out,
    form: Form = None,
    task: TaskOption = DataTask.classification,
    labels_file: LabelsFile = None,
    round_file: RoundFile = None,
    clip_norm: ClipNorm = 1.0,
    noise_multiplier: Noise = 0.01,
    target_epsilon: Epsilon = 8.0,
    models: Models = 8,
    images: Images = 400,
    seed: Seed = 0,
    architecture: Architecture = None,
    image_size: ImageSize = None,
    output: options.Output = Format.table,
) -> None:
    """Attack updates of a hospital's own images, without and with its privacy floor and DP-SGD, and write a report.

    Membership inference on site rounds, and gradient inversion on updates of a few images. Everything stays on this
    machine; the pictures show images, so keep the folder in the hospital. Needs the extra "evaluation" of the package.
    """
    _check(clip_norm, models, target_epsilon)
    training = _training(round_file)
    file = local_model(model, architecture, image_size)
    chosen = form or (DataForm.imagefolder if data.is_dir() else DataForm.npz)
    location = DatasetLocation(path=str(data), format=chosen.value, task=task.value, labels_file=labels_file)
    found = _run(
        model, file, location, training, (clip_norm, noise_multiplier, target_epsilon), (models, images, seed), out
    )
    if output is Format.json:
        show_json(found)
        return
    show_list(membership_table(found))
    show_list(inversion_table(found))
    show_text(f"report: {out / PAGE}\nThe pictures show images of patients: keep {out} in the hospital.")


def membership_table(found: Mapping[str, Any]) -> Table:
    """Return one row a defence and attack. Guessing: AUROC 0.5, 1 %."""
    table = list_table("DEFENCE", "ATTACK", "AUROC", "INTERVAL 95 %", "FOUND AT 1 % FALSE", "SCORE", "EPSILON")
    useful = {one["defence"]: one for one in found["usefulness"]}
    for one in found["membership"]["attacks"]:
        interval, score = one["auroc"]["interval"], useful[one["defence"]]["score"]
        epsilon = useful[one["defence"]]["epsilon"]
        table.add_row(
            Text(one["defence"]),
            one["attack"],
            f"{one['auroc']['mean']:.2f}",
            NONE if interval is None else f"{interval['low']:.2f} to {interval['high']:.2f}",
            f"{one['truePositives']['mean']:.1%}",
            NONE if score is None else f"{score['mean']:.2f}",
            NONE if epsilon is None else f"{epsilon['mean']:.2f}",
        )
    return table


def inversion_table(found: Mapping[str, Any]) -> Table:
    """Return one row a scenario, defence and attack."""
    table = list_table("UPDATE", "DEFENCE", "ATTACK", "PSNR", "SSIM", "RECOGNISED")
    for one in found["inversion"]:
        table.add_row(
            one["scenario"],
            Text(one["defence"]),
            one["attack"],
            f"{one['psnr']:.1f}",
            f"{one['ssim']:.2f}",
            f"{one['identified']:.0%}",
        )
    return table


def _check(clip_norm: float, models: int, target_epsilon: float) -> None:
    if not 0 < clip_norm < float("inf"):
        raise typer.BadParameter(f"{clip_norm:g}; allowed are finite numbers above 0", param_hint="--clip-norm")
    if not 0 < target_epsilon <= 1000:
        raise typer.BadParameter(
            f"{target_epsilon:g}; allowed are numbers above 0 up to 1000", param_hint="--target-epsilon"
        )
    if models % 2:
        raise typer.BadParameter(f"{models}; allowed are even numbers from 4", param_hint="--models")


def _training(file: Path | None) -> TrainingSpec:
    """Return the training of the file's first round, or a round's defaults."""
    if file is None:
        return TrainingSpec()
    campaign, _ = read_files([file])
    return campaign.round(0, None).training


def _run(
    name: str,
    file: ModelFile,
    location: DatasetLocation,
    training: TrainingSpec,
    floor: tuple[float, float, float],
    size: tuple[int, int, int],
    out: Path,
) -> dict[str, Any]:
    """Audit, write the report and return its JSON. ``size``: models, images, seed.

    ``floor``: clipNorm, noiseMultiplier, targetEpsilon.
    """
    try:
        from umim.artifacts.tensors import read_safetensors
        from umim.data.load import load_dataset
        from umim.evaluation.leakage import audit, pictures, report
        from umim.evaluation.leakage.defences import defences
        from umim.evaluation.leakage.inversion import Inversion
        from umim.evaluation.leakage.membership import Site
        from umim.evaluation.leakage.sides import at_most
        from umim.models.state import ModelState
        from umim.training.runtime import start_runtime, thread_count
        from umim.training.site import Surroundings, loaded_encoder
    except ModuleNotFoundError as error:
        raise ConfigError(f"umim audit-leakage needs {error.name}: pip install umim[evaluation]") from error

    models, images, seed = size
    runtime = start_runtime(thread_count(os.environ))
    parent = ModelState(read_safetensors(file.path))
    loaded_encoder(file.architecture, file.image_size, parent.encoder)  # says early what does not fit
    dataset = at_most(load_dataset(location, file.image_size), images, seed)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be made: {error.strerror}") from error
    table = defences(training, *floor)
    site = Site(file.architecture, parent, dataset, seed)
    around = Surroundings(runtime, lambda _progress: None)
    with tempfile.TemporaryDirectory(prefix="umim-audit-") as work, _bar(audit.units(table, models)) as told:
        result = audit.audit(site, table, models, Inversion(), Path(work), around, told)
    about = {
        "name": Path(name).name,
        "digest": file.digest,
        "architecture": file.architecture,
        "imageSize": file.image_size,
    }
    found = audit.to_json(result, about, Path(location.path).name, runtime.device.type)
    pictures.draw_curves(found, out)
    pictures.draw_gallery(result.gallery, out)
    _write(out / JSON, json.dumps(found, indent=2) + "\n")
    _write(out / PAGE, report.page(found))
    return found


def _write(path: Path, text: str) -> None:
    with replace_file(path) as file:
        file.write(text.encode())


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str], None]]:
    """Show on standard error what has been done, with the time that passed: a bar in a terminal, else lines."""
    console = Console(stderr=True, highlight=False)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=total)

        def told(message: str) -> None:
            progress.update(task, advance=1, description=message)
            if not console.is_terminal:
                done = progress.tasks[0]
                passed = int(done.elapsed or 0)
                console.print(f"[{int(done.completed)}/{total}] {passed} s  {message}", markup=False, soft_wrap=True)

        yield told
