"""The two trainings of this project: a hospital's, and the pretraining on the server."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from umim.api.base import ApiModel, Metrics
from umim.api.jobs import AggregateJobConfig, InitJobConfig, SiteJobConfig
from umim.api.privacy import DifferentialPrivacyRecord
from umim.artifacts.files import replace_file
from umim.data.dataset import ImageDataset
from umim.data.splits import split_by_patient
from umim.errors import ArtifactError, ConfigError
from umim.models.encoder import Encoder, create_encoder
from umim.models.heads import AnyHead, create_head
from umim.models.mim import MimModel, create_mim
from umim.models.state import ModelState, Tensors
from umim.rounds.privacy import Terms, private_terms, unsuited
from umim.training.batches import Batches
from umim.training.checkpoint import Checkpoints
from umim.training.dp import PrivateSteps, mechanism_of, record_of
from umim.training.engine import Fit
from umim.training.learner import Learner
from umim.training.ledger import Budget, LedgerEntry, PrivacyLedger, only_one
from umim.training.reporter import Clock, ProgressSink
from umim.training.runtime import Runtime
from umim.training.secret import Entropy
from umim.training.seeds import derive
from umim.training.warmup import warm_up

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
TrainingConfig = SiteJobConfig | InitJobConfig | AggregateJobConfig
LOCK_NAME, FINISHED_NAME = "training.lock", "training.finished"
"""Files of a private training in its work folder."""
PRIVATE_HEAD = "private"
"""Name of a head whose data set names no task."""


@dataclass(frozen=True)
class Trained:
    """What a training returns."""

    state: ModelState
    """What was trained, on the CPU: the encoder, the MIM decoder where there is one, and the head under its
    taskName where the data set has one. What of it may leave is for ``umim.training.privacy`` to decide."""
    classes: tuple[str, ...]
    """Class names of the head in label order. Empty without a head."""
    metrics: Metrics
    """Figures, see ``Fit.run``."""
    samples: int
    """Number of training images."""
    differential_privacy: DifferentialPrivacyRecord | None = None
    """With which differential privacy. None: with none."""


@dataclass(frozen=True)
class Surroundings:
    """What a training needs from outside."""

    runtime: Runtime
    """Device and precision."""
    sink: ProgressSink
    """Told the progress."""
    clock: Clock = field(default_factory=Clock)
    """Times."""
    saved: Callable[[Path], None] = lambda _: None
    """Told the folder of the checkpoints after each one."""
    entropy: Entropy = os.urandom
    """Where random numbers come from that nobody may know. Another one is for tests alone: no seed of a round may be
    behind it, in a simulation neither, since its models can leave as those of a cluster."""


def train_at_site(config: SiteJobConfig, parent: ModelState, dataset: ImageDataset, around: Surroundings) -> Trained:
    """Train the parent's encoder on a hospital's images and return it. Nothing leaves here, see ``privacy``.

    Raises DataError when the images cannot be split, ConfigError when objective and task do not fit,
    ArtifactError when the parent is not of the architecture, TrainingError when a loss is not finite. A private
    training: PrivacyBudgetError when the budget does not suffice, DataError when the ledger cannot be read, StoreError
    when another Job of the round trains here.
    """
    training, device = config.training, around.runtime.device
    if (wrong := unsuited(training, config.privacy)) is not None:
        raise ConfigError(wrong)
    supervised = training.objective != "mim"
    if supervised and config.data.task == "none":
        raise ConfigError(f"spec.training.objective {training.objective} needs labels but the hospital's task is none")
    split = split_by_patient(dataset, training.validation_fraction, training.seed, config.privacy.min_patients)
    train = Batches(dataset, split.train, training.batch_size, device)
    terms = private_terms(training, config.privacy)
    encoder = loaded_encoder(config.architecture, config.image_size, parent.encoder)
    head = _head(config, parent, encoder, train, weighted=terms is None) if supervised else None
    wants_mim = training.objective != "supervised"
    mim = loaded_mim(encoder, parent.mim, training.mask_ratio, training.seed) if wants_mim else None
    learner = Learner(encoder, head, mim, training.mim_weight).to(device)
    learner.anchor(parent.encoder, training.proximal_mu)
    checkpoints = checkpoints_of(
        config, training, f"{config.parent.digest} {config.parent.parts_digest} {terms}", dataset, around
    )
    validation = Batches(dataset, split.validation, training.batch_size, device)
    fit = Fit(learner, train, validation, training, around.runtime, checkpoints, around.sink, around.clock)
    if head is not None and training.head_warmup_epochs:
        fit = replace(fit, prepare=partial(warm_up, encoder, head, train, training, around.runtime))
    metrics, record = (fit.run(), None) if terms is None else _run_privately(fit, learner, terms, config, around)
    trained = encoder_tensors(encoder)
    if training.private_norms:
        trained |= {name: parent.encoder[name].clone() for name in norm_names(encoder)}
    heads = {} if head is None else {config.data.task_name or PRIVATE_HEAD: tensors_of(head)}
    state = ModelState(trained, {} if mim is None else tensors_of(mim), heads)
    return Trained(state, dataset.classes if head is not None else (), metrics, train.images, record)


def _run_privately(
    fit: Fit, learner: Learner, terms: Terms, config: SiteJobConfig, around: Surroundings
) -> tuple[Metrics, DifferentialPrivacyRecord]:
    """Train by DP-SGD, entered in the hospital's ledger before the first step. Errors as ``PrivacyLedger.enter``."""
    mechanism = mechanism_of(terms, config.training, fit.train.images)
    entry = LedgerEntry(
        time=around.clock.now(),
        round=f"{config.round_namespace}/{config.round_name}",
        round_uid=config.round_uid,
        attempt=config.attempt,
        training=fit.checkpoints.config_digest,
        noise_multiplier=mechanism.noise_multiplier,
        max_grad_norm=terms.max_grad_norm,
        sample_rate=mechanism.sample_rate,
        steps=mechanism.steps,
    )
    ledger, budget, spent = PrivacyLedger.of(config), Budget(terms.budget, terms.budget_delta), [0.0]

    finished = work_folder(config) / FINISHED_NAME

    def begin(epochs: int) -> None:
        # Once a training has ended its outcome may be seen: only that very outcome goes on for nothing.
        goes_on = epochs == config.training.epochs or (epochs > 0 and not finished.exists())
        spent[0] = ledger.enter(entry, budget, goes_on)

    steps = PrivateSteps(learner, fit.train, mechanism, terms.max_grad_norm, around.runtime, around.entropy, begin)
    with only_one(work_folder(config) / LOCK_NAME):
        metrics = replace(fit, private=steps).run()
        with replace_file(finished):
            pass  # that it is there says all
    told = spent[0] if "metrics" in config.privacy.allowed_artifacts else None
    return metrics, record_of(terms, mechanism, told)


def _head(config: SiteJobConfig, parent: ModelState, encoder: Encoder, train: Batches, *, weighted: bool) -> AnyHead:
    """Return the task's head: the parent's shared one where there is one, else a new one."""
    seed = derive(config.training.seed, "head")
    head = create_head(config.data.task, encoder, train.targets(), seed, weighted=weighted)
    shared = parent.heads.get(config.data.task_name or "") if config.training.heads == "shared" else None
    if shared is not None:
        load_module(head, shared, f"shared head {config.data.task_name}")
    return head


def pretrain(config: InitJobConfig, dataset: ImageDataset, around: Surroundings) -> Trained:
    """Train a new encoder by masked image modelling on unlabelled images.

    Raises ConfigError for the architecture or image size, TrainingError when a loss is not finite.
    """
    spec, device = config.optimisation, around.runtime.device
    encoder = create_encoder(config.architecture, config.image_size, spec.seed)
    mim = loaded_mim(encoder, {}, spec.mask_ratio, spec.seed)
    learner = Learner(encoder, None, mim).to(device)
    train = Batches(dataset, np.arange(len(dataset)), spec.batch_size, device)
    checkpoints = checkpoints_of(config, spec, "random", dataset, around)
    fit = Fit(learner, train, None, spec, around.runtime, checkpoints, around.sink, around.clock)
    metrics = fit.run()
    return Trained(ModelState(encoder_tensors(encoder), tensors_of(mim)), (), metrics, train.images)


def work_folder(config: TrainingConfig) -> Path:
    """Return the folder of this Job's work in this round, the same in any attempt."""
    who = config.site if isinstance(config, SiteJobConfig) else config.kind.lower()
    return Path(config.work_path) / config.round_uid / who


def remove_work(folder: Path) -> None:
    """Remove a training's folder, and the round's folder when nothing else is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another site of the round still works there, or it never existed
        folder.parent.rmdir()


def loaded_encoder(architecture: str, image_size: int, tensors: Tensors) -> Encoder:
    """Return an encoder with a model's tensors, on the CPU.

    Raises ConfigError for architecture or image size, ArtifactError naming the first tensor that does not fit.
    """
    encoder = create_encoder(architecture, image_size, seed=0)
    load_encoder(encoder, tensors)
    return encoder


def loaded_mim(encoder: Encoder, tensors: Tensors, mask_ratio: float, seed: int) -> MimModel:
    """Return the MIM part with a model's decoder, or a new one from the seed where ``tensors`` is empty.

    Raises ArtifactError naming the first tensor that does not fit.
    """
    mim = create_mim(encoder, mask_ratio, derive(seed, "mim"))
    if tensors:
        load_module(mim, tensors, "MIM decoder")
    return mim


def load_encoder(encoder: Encoder, tensors: Tensors) -> None:
    """Put a model's tensors into an encoder. Raises ArtifactError naming the first tensor that does not fit."""
    load_module(encoder.net, tensors, f"encoder {encoder.architecture}")


def load_module(module: nn.Module, tensors: Tensors, what: str) -> None:
    """Put tensors into a module. Raises ArtifactError naming ``what`` and the first tensor that does not fit."""
    own, given = module.state_dict(), dict(tensors)  # once: a mapping may read a file at each look
    for name in sorted(own.keys() | given.keys()):
        if name not in own or name not in given or own[name].shape != given[name].shape:
            found = tuple(given[name].shape) if name in given else "missing"
            wanted = tuple(own[name].shape) if name in own else "no such tensor"
            raise ArtifactError(f"the model does not fit: {what}: tensor {name} is {found}, wanted is {wanted}")
    module.load_state_dict(given)


def encoder_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """Return copies of the encoder's tensors on the CPU."""
    return tensors_of(encoder.net)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of a module's tensors on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def norm_names(encoder: Encoder) -> list[str]:
    """Return the names of the tensors of all normalisation layers, sorted."""
    return sorted(
        f"{layer}.{name}"
        for layer, module in encoder.net.named_modules()
        if isinstance(module, NORMS)
        for name in module.state_dict()
    )


def checkpoints_of(
    config: TrainingConfig, spec: ApiModel, start: str, dataset: ImageDataset, around: Surroundings
) -> Checkpoints:
    """Return the checkpoints of this training. They are valid for the same task, start and images, in any attempt.

    ``start`` says what the training starts from.
    """
    who = work_folder(config).name
    digest = hashlib.sha256()
    for part in (config.round_uid, who, config.architecture, config.image_size, start, spec.model_dump_json()):
        digest.update(f"{part}\n".encode())
    for array in (dataset.images, dataset.targets, dataset.patients):
        if array is not None:
            digest.update(f"{array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
    return Checkpoints(work_folder(config), digest.hexdigest(), around.saved)
