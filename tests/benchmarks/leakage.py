"""What updates tell about real images, as ``umim audit-leakage`` finds it: ``python -m tests.benchmarks.leakage``.

The numbers are of chest X-rays of medical8, whose images may not be passed on. The pictures are of phantoms that are
drawn here: ellipses on a dark ground.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from umim.api.hospital import PrivacySpec
from umim.api.jobs import DatasetLocation, InitJobConfig
from umim.api.privacy import DifferentialPrivacySpec
from umim.api.round import OptimisationSpec, TrainingSpec
from umim.artifacts.files import sha256_of
from umim.data.dataset import ImageDataset
from umim.data.load import load_dataset
from umim.evaluation.leakage import audit, report
from umim.evaluation.leakage.defences import Defence
from umim.evaluation.leakage.inversion import Gallery, Inversion, invert
from umim.evaluation.leakage.membership import Site
from umim.evaluation.leakage.pictures import draw_curves, draw_gallery
from umim.evaluation.leakage.sides import at_most
from umim.models.state import ModelState
from umim.training.runtime import start_runtime
from umim.training.site import Surroundings, pretrain

ARCHITECTURE = "vit_pico_patch8_64"
SIZE = 64
DATA = Path("../shared/data/medical8")
TRAINING = TrainingSpec(epochs=20, batch_size=32, learning_rate=1e-3)


def _private(epsilon: float) -> TrainingSpec:
    return TRAINING.model_copy(update={"differential_privacy": DifferentialPrivacySpec(target_epsilon=epsilon)})


DEFENCES = (
    Defence("none", TRAINING, PrivacySpec()),
    Defence("clip+noise 0.001", TRAINING, PrivacySpec(clip_norm=1.0, noise_multiplier=0.001)),
    Defence("clip+noise 0.01", TRAINING, PrivacySpec(clip_norm=1.0, noise_multiplier=0.01)),
    Defence("dp-sgd, epsilon 8", _private(8.0), PrivacySpec()),
    Defence("dp-sgd, epsilon 2", _private(2.0), PrivacySpec()),
)
MODELS = 8
SERVER_IMAGES = 2000
HEAD = """# What an update tells about its images

<!-- Written by `python -m tests.benchmarks.leakage`. Do not edit. -->

`umim audit-leakage` on the chest X-rays of medical8 (cxr, {images} images; some of its "patients" are runs of file
numbers). The parent: {architecture} after one epoch of masked image modelling on {server} images of the server pool.
A round is {epochs} epochs on half of the images. The pictures show phantoms that are drawn, not
images of medical8, which may not be passed on. One data set, one small encoder: it shows what the attacks can do, not
what a hospital's update tells.

"""


def phantoms(count: int, seed: int) -> ImageDataset:
    """Return images of a bright ring with two dark and some small bright ellipses, of two classes by their number."""
    random = np.random.default_rng(seed)
    grid = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    y, x = np.meshgrid(grid, grid, indexing="ij")
    images = np.zeros((count, 1, SIZE, SIZE), dtype=np.uint8)
    targets = np.arange(count) % 2
    for index in range(count):
        picture = np.full((SIZE, SIZE), 0.08)
        wide, high = random.uniform(0.65, 0.9, 2)
        parts = [(0.0, 0.0, wide, high, 0.0, 0.75), (0.0, 0.0, wide - 0.1, high - 0.1, 0.0, 0.4)]
        parts += [(side * 0.35, random.uniform(-0.2, 0.1), 0.2, 0.4, side * 0.2, 0.15) for side in (-1, 1)]
        for _ in range(1 + 3 * int(targets[index])):
            spot = (*random.uniform(-0.4, 0.4, 2), *random.uniform(0.06, 0.16, 2), random.uniform(0, 3), 0.9)
            parts.append(spot)
        for left, top, width, height, turn, value in parts:
            u = (x - left) * np.cos(turn) + (y - top) * np.sin(turn)
            v = (y - top) * np.cos(turn) - (x - left) * np.sin(turn)
            picture[(u / width) ** 2 + (v / height) ** 2 < 1] = value
        images[index, 0] = np.clip((picture + 0.02 * random.normal(size=picture.shape)) * 255, 0, 255)
    return ImageDataset(images, "classification", targets.astype(np.int64), ("few", "many"), np.arange(count))


def start_model(folder: Path, work: Path, around: Surroundings) -> ModelState:
    """Return a short pretraining on a part of the server's images."""
    location = DatasetLocation(path=str(folder / "server_pool.npz"), format="npz", task="none")
    config = InitJobConfig(
        round_namespace="benchmark",
        round_name="leakage",
        round_uid="leakage",
        attempt=1,
        architecture=ARCHITECTURE,
        image_size=SIZE,
        init="mim",
        optimisation=OptimisationSpec(epochs=1, learning_rate=1e-3),
        data=location,
        work_path=str(work),
    )
    dataset = at_most(load_dataset(location, SIZE), SERVER_IMAGES, 0)
    return ModelState(pretrain(config, dataset, around).state.encoder)


def main() -> None:
    """Run and write leakage.json, leakage.md and pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    options = parser.parse_args()
    begin = time.monotonic()

    def told(message: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {message}", flush=True)

    around = Surroundings(start_runtime(1), lambda _progress: None)
    path = options.data / "cxr.npz"
    dataset = load_dataset(DatasetLocation(path=str(path), format="npz", task="classification"), SIZE)
    with tempfile.TemporaryDirectory(prefix="umim-leakage-") as work:
        parent = start_model(options.data, Path(work), around)
        told("pretrained")
        site = Site(ARCHITECTURE, parent, dataset, seed=0)
        found = audit.audit(site, DEFENCES, MODELS, Inversion(), Path(work), around, told)
    drawn = Site(ARCHITECTURE, parent, phantoms(100, seed=0), seed=0)
    gallery = invert(drawn, DEFENCES, Inversion(trials=1, searches=1), around.runtime, told)
    write(found, gallery, sha256_of(path), options.out)


def write(found: audit.Audit, gallery: Gallery, digest: str, out: Path) -> None:
    """Write the numbers of the real images and the pictures of the phantoms."""
    about = {"name": "a short pretraining", "digest": None, "architecture": ARCHITECTURE, "imageSize": SIZE}
    numbers = audit.to_json(found, about, "medical8 cxr", "cpu")
    numbers["data"]["digest"] = digest
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        draw_curves(numbers, Path(folder))
        draw_gallery(gallery, Path(folder))
        for name, share in ((report.CURVES, 1.0), (report.PICTURE, 0.6)):
            with Image.open(Path(folder) / name) as picture:
                small = picture.convert("RGB").resize([round(share * side) for side in picture.size])
                small.quantize(24).save(out / f"leakage-{name}", optimize=True)  # noise hardly compresses
    (out / "leakage.json").write_text(json.dumps(numbers, indent=1) + "\n")
    head = HEAD.format(
        images=len(found.site.dataset), architecture=ARCHITECTURE, server=SERVER_IMAGES, epochs=TRAINING.epochs
    )
    page = report.page(numbers).split("\n", 2)[2].replace("report.json", "[leakage.json](leakage.json)")
    page = page.replace("docs/audit-leakage.md", "[the audit](../audit-leakage.md)")
    for name in (report.CURVES, report.PICTURE):
        page = page.replace(f"]({name})", f"](leakage-{name})")
    (out / "leakage.md").write_text(head + page)


if __name__ == "__main__":
    main()
