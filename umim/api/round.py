"""The FederationRound resource: one round of training at several hospitals, from one model to the next."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from umim.api.base import (
    INT64,
    ApiModel,
    Condition,
    Digest,
    DnsLabel,
    DnsSubdomain,
    Duration,
    FiniteFloat,
    HospitalReference,
    Metrics,
    ModelReference,
    PublicKey,
    QueueName,
    ResourceRequirements,
    Timestamp,
    cel_rules,
)
from umim.api.hospital import ARCHITECTURE_PATTERN, DatasetSpec
from umim.api.privacy import DifferentialPrivacyRecord, DifferentialPrivacySpec

Objective = Literal["supervised", "mim", "supervised+mim"]
ParentInit = Literal["random", "mim"]
HeadSharing = Literal["private", "shared"]
EncodingFormat = Literal["full", "delta", "bf16", "int8", "top-k"]
Weighting = Literal["samples", "equal"]
Mixing = Literal["none", "nearest-neighbors"]


class ParentSpec(ApiModel):
    """What the sites start from. Exactly one field is set."""

    global_model: DnsSubdomain | None = None
    """Name of a GlobalModel in the round's namespace."""
    init: ParentInit | None = None
    """Make a start model: random weights from the seed, or masked image modelling (mim) on the server's
    unlabelled images, see pretraining and serverDataset."""

    model_config = cel_rules(
        {
            "rule": "has(self.globalModel) != has(self.init)",
            "message": "model.parent needs exactly one of globalModel (a name) and init (random or mim)",
            "reason": "FieldValueInvalid",
        }
    )


class ModelSpec(ApiModel):
    """The encoder that is trained."""

    architecture: Annotated[str, Field(pattern=ARCHITECTURE_PATTERN, max_length=128)] = "vit_tiny_patch16_224"
    """timm name of a Vision Transformer or Swin Transformer."""
    image_size: Annotated[int, Field(ge=16, le=1024, multiple_of=8)] = 224
    """Side of the square input in pixels. Images are resized to it."""
    parent: ParentSpec
    """What the sites start from."""


class LabelSelector(ApiModel):
    """Labels that a resource must carry, as metav1.LabelSelector's matchLabels."""

    match_labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(min_length=1, max_length=16)]
    """Label names and values. All must match."""


class ParticipantsSpec(ApiModel):
    """Which hospitals take part. Exactly one of hospitals and selector is set."""

    hospitals: (
        Annotated[
            list[HospitalReference],
            Field(
                min_length=1,
                max_length=1000,
                json_schema_extra={
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["namespace", "name"],
                },
            ),
        ]
        | None
    ) = None
    """The hospitals by name. Each takes part only if its Hospital resource lists this round's namespace."""
    selector: LabelSelector | None = None
    """Picks the Hospital resources, in all namespaces, that carry these labels and list this round's namespace.
    Evaluated once, when the round is accepted."""
    quorum: Annotated[int, Field(ge=1, le=1000)] = 1
    """Fewest valid updates for a global model."""

    model_config = cel_rules(
        {
            "rule": "has(self.hospitals) != has(self.selector)",
            "message": "participants needs exactly one of hospitals (a list) and selector (labels)",
            "reason": "FieldValueInvalid",
        },
        {
            "rule": "!has(self.hospitals) || !has(self.quorum) || self.quorum <= size(self.hospitals)",
            "message": "participants.quorum must be between 1 and the number of participants.hospitals",
            "fieldPath": ".quorum",
            "reason": "FieldValueInvalid",
        },
    )


class OptimisationSpec(ApiModel):
    """How an encoder is trained: the part that pretraining and sites share."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Images a step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-4
    """Peak learning rate of AdamW, reached after the warm-up, then decayed to 0 by a cosine."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Decoupled weight decay of AdamW."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of all steps in which the learning rate rises linearly from 0."""
    gradient_clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest L2 norm of a step's gradient. A larger one is scaled down."""
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Share of the patches that masked image modelling hides (MAE, arXiv 2111.06377)."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 0
    """Seed of initial weights, data order, masks and augmentation. The same inputs give the same update on the
    same hardware and software."""


class TrainingSpec(OptimisationSpec):
    """What each site optimises and for how long."""

    objective: Objective = "supervised"
    """Loss of the site: its labels (supervised), masked image modelling (mim), or their weighted sum."""
    mim_weight: Annotated[float, Field(ge=0, le=100)] = 0.1
    """Weight of the masked image modelling term in supervised+mim. The supervised term has weight 1."""
    proximal_mu: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Weight of the proximal term mu/2 * ||w - w_parent||^2 (FedProx, arXiv 1812.06127). Default: 0, none."""
    head_warmup_epochs: Annotated[int, Field(ge=0, le=1000)] = 0
    """Passes that train the new head alone on the features of the parent's encoder, before both are trained:
    a random head would spoil the encoder's features first (LP-FT, arXiv 2202.10054). Default: 0, none."""
    heads: HeadSharing = "private"
    """private: the head stays at the site and is made anew each round. shared: heads of one taskName are merged
    and published with the model, where the hospital allows it."""
    private_norms: bool = False
    """Normalisation layers are trained at the site but stay there: the update holds the parent's (FedBN, arXiv
    2102.07623)."""
    validation_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """Share of the patients set aside to measure the loss before and after training. Never trained on."""
    differential_privacy: DifferentialPrivacySpec | None = None
    """Trains by DP-SGD: the gradient of each image is clipped and noise is added. Then gradientClipNorm has no effect
    and no figures of the training leave. Default: only where a hospital demands it."""

    model_config = cel_rules(
        {
            "rule": "!has(self.differentialPrivacy) || self.headWarmupEpochs == 0",
            "message": "training.headWarmupEpochs must be 0 with training.differentialPrivacy: the warm-up adds no "
            "noise",
            "fieldPath": ".headWarmupEpochs",
            "reason": "FieldValueInvalid",
        }
    )


class PretrainingSpec(OptimisationSpec):
    """Masked image modelling on serverDataset, before the sites start."""

    resources: ResourceRequirements = ResourceRequirements()
    """Resources of the pretraining Job. Default: as for a site."""


DEFAULT_TOP_K_DENSITY = 0.05
"""Share of the changes that top-k keeps where the round says nothing."""


class EncodingSpec(ApiModel):
    """How the sites write their updates: fewer bytes leave the hospital, at some loss."""

    format: EncodingFormat = "full"
    """full: the trained values. delta: the changes of the parent in float32. bf16: the changes in bfloat16, half the
    bytes. int8: the changes in 8 bits with a scale for every channel (QSGD without its random rounding, Alistarh et
    al. 2016, arXiv 1610.02132), a quarter. top-k: the largest changes of every tensor alone (Lin et al. 2017, arXiv
    1712.01887). With bf16, int8 and top-k a site keeps what is lost and adds it to its next change (error feedback,
    Karimireddy et al. 2019, arXiv 1901.09847)."""
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the changes that top-k keeps, tensor by tensor. Only with top-k. Default: 0.05."""

    model_config = cel_rules(
        {
            "rule": "!has(self.density) || self.format == 'top-k'",
            "message": "encoding.density is an option of encoding.format top-k alone",
            "fieldPath": ".density",
            "reason": "FieldValueForbidden",
        }
    )

    @property
    def kept(self) -> float:
        """Share of the changes that are written: density or its default with top-k, else 1."""
        if self.format != "top-k":
            return 1.0
        return DEFAULT_TOP_K_DENSITY if self.density is None else self.density


class AggregationSpec(ApiModel):
    """How the updates become one model."""

    strategy: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=64)] = "fedavg"
    """Name of the strategy. Means of the changes:
    fedavg: mean weighted by samples (McMahan et al. 2016, arXiv 1602.05629);
    uniform: mean in which all sites weigh the same.
    fedavg followed by an optimiser of the server:
    fedavgm: momentum (Hsu et al. 2019, arXiv 1909.06335);
    fedadam, fedyogi, fedadagrad: Adam, Yogi, Adagrad (Reddi et al. 2020, arXiv 2003.00295).
    Robust against sites that send anything, see byzantine:
    median: median of each value (Yin et al. 2018, arXiv 1803.01498);
    trimmed-mean: mean of each value without the byzantine largest and smallest (the same paper);
    krum: the one update with the nearest neighbours (Blanchard et al. 2017, arXiv 1703.02757);
    multi-krum: mean of all but the byzantine updates that Krum likes least (the same paper);
    geometric-median: smoothed Weiszfeld (Pillutla et al. 2019, arXiv 1912.13445);
    centered-clipping: mean of the changes clipped around an estimate (Karimireddy et al. 2020, arXiv 2012.10333).
    Merges of tasks:
    ties: of each update the largest changes, then for each value the mean over the sites that agree on its sign
    (Yadav et al. 2023, arXiv 2306.01708);
    task-arithmetic: sum of the changes times scale (Ilharco et al. 2022, arXiv 2212.04089)."""
    options: Annotated[dict[str, float], Field(max_length=32)] = Field(default_factory=dict)
    """Numeric options of the strategy.
    fedavgm: momentum (0.9), serverLearningRate (1).
    fedadam, fedyogi: serverLearningRate (0.1), beta1 (0.9), beta2 (0.99), tau (0.001).
    fedadagrad: serverLearningRate (0.1), beta1 (0), tau (0.001).
    geometric-median: iterations (100), smoothing (0.000001).
    centered-clipping: iterations (3), radius (the median norm of the changes).
    ties: density, the share of the changes that is kept (1).
    task-arithmetic: scale (1).
    In brackets what holds where the round says nothing. The ranges are in docs/reference/api.md."""
    weighting: Weighting = "samples"
    """How much a site counts, in the mean and the strategies that start from it, geometric-median and ties, and as a
    teacher of the distillation. samples: by its training images. equal: as every other, so that a rare kind of
    images is not drowned by a common one."""
    byzantine: Annotated[int, Field(ge=0, le=499)] = 0
    """How many of the updates may be anything, by fault or intent, without spoiling the model. trimmed-mean, krum,
    multi-krum and mixing leave so many out. With n updates median, trimmed-mean, geometric-median and centered-clipping
    need n >= 2 * byzantine + 1, krum and multi-krum n >= 2 * byzantine + 3: participants.quorum must be at least that.
    The other strategies allow none: byzantine must be 0. Above 0 weighting is
    equal: who may lie may lie about its samples."""
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Largest L2 norm of a site's change over all values of the model. A larger one is scaled down to it before the
    merge (Sun et al. 2019, arXiv 1911.07963). Default: none."""
    mixing: Mixing = "none"
    """nearest-neighbors: before the merge each change is replaced by the mean of itself and its nearest ones, all but
    byzantine of them (NNM, Allouah et al. 2023, arXiv 2302.01772)."""
    encoding: EncodingSpec = EncodingSpec()
    """How the sites write their updates."""
    scales: Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=1, max_length=16)] = [1.0]
    """Factors for the merged change of the parent. Of several, the one with the smallest masked image modelling
    loss on the server's images is taken."""
    resources: ResourceRequirements = ResourceRequirements()
    """Resources of the aggregator Job. Default: as for a site. A merge takes less than 1Gi of memory whatever the
    number of hospitals and the size of the model, but with ties, which holds a whole tensor in each thread."""


class DistillationSpec(OptimisationSpec):
    """What the server learns after the merge: the features of the hospitals' encoders, on unlabelled images."""

    strategy: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=64)] = "features"
    """Name of the strategy. features: the merged encoder learns the features of every hospital's encoder."""
    options: Annotated[dict[str, float], Field(max_length=32)] = Field(default_factory=dict)
    """Numeric options of the strategy. features: projectors (0 or 1), tint, novelty, anchor and teachers, see
    docs/concepts/learning.md."""
    mim_weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Weight of the masked image modelling term. The distillation term has weight 1."""
    images: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Images of the server that are learned from, drawn by the seed; every pass has the same. Default: all."""
    resources: ResourceRequirements = ResourceRequirements()
    """Resources of the aggregator Job, which distils, in place of aggregation.resources. Default: those."""


PRETRAINING_RULES: tuple[dict[str, str], ...] = (
    {
        "rule": "(has(self.model.parent.init) && self.model.parent.init == 'mim') == has(self.pretraining)",
        "message": "pretraining must be set if and only if model.parent.init is mim",
        "fieldPath": ".pretraining",
        "reason": "FieldValueInvalid",
    },
    {
        "rule": "!has(self.pretraining) || has(self.serverDataset)",
        "message": "pretraining needs serverDataset: the server's unlabelled images",
        "fieldPath": ".serverDataset",
        "reason": "FieldValueRequired",
    },
)
"""Rules of every spec with model, pretraining and serverDataset."""
DEADLINE_RULE: dict[str, str] = {
    "rule": "duration(self.deadline) >= duration('10s')",
    "message": "deadline must be at least 10s",
    "fieldPath": ".deadline",
    "reason": "FieldValueInvalid",
}
"""Rule of every spec with a deadline."""


class FederationRoundSpec(ApiModel):
    """What the round trains, where, and what counts as done. Immutable but for suspend."""

    model: ModelSpec
    """The encoder and what it starts from."""
    pretraining: PretrainingSpec | None = None
    """Masked image modelling on the server. Set if and only if model.parent.init is mim."""
    participants: ParticipantsSpec
    """Which hospitals take part and how many must deliver."""
    training: TrainingSpec = TrainingSpec()
    """What each site optimises."""
    resources: ResourceRequirements = ResourceRequirements()
    """Resources of each site's Job. Default: 1 cpu and 2Gi of memory requested, memory limited to 4Gi."""
    aggregation: AggregationSpec = AggregationSpec()
    """How the updates become one model."""
    server_dataset: DatasetSpec | None = None
    """The server's unlabelled images, in a volume of the round's namespace. Labels are ignored. Needed by
    pretraining, by distillation, by more than one of aggregation.scales, and to measure the model after the merge."""
    distillation: DistillationSpec | None = None
    """What the server learns after the merge. Default: nothing."""
    deadline: Duration = "1h"
    """Time from the start of training at the sites after which missing updates are not waited for, such as
    30m. Then the round aggregates if quorum holds, else it fails with reason QuorumNotReached."""
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """How often a failed site is tried again, with backoff. The same number holds for the other Jobs."""
    queue_name: QueueName | None = None
    """LocalQueue of Kueue, in the round's namespace, that admits the server's Jobs. Each hospital names the queue of
    its own Jobs in its Hospital. Default: the server's Jobs start at once."""
    suspend: bool = False
    """Stops the round's Jobs without losing what is trained; false continues it and starts the deadline
    anew."""
    ttl_after_finished: Duration | None = None
    """Time after which a finished round is deleted with its Jobs, such as 24h. The GlobalModel stays. Default:
    never."""

    model_config = cel_rules(
        *PRETRAINING_RULES,
        {
            "rule": "!has(self.distillation) || has(self.serverDataset)",
            "message": "distillation needs serverDataset: the server's unlabelled images",
            "fieldPath": ".serverDataset",
            "reason": "FieldValueRequired",
        },
        {
            "rule": "size(self.aggregation.scales) <= 1 || has(self.serverDataset)",
            "message": "more than one of aggregation.scales needs serverDataset: the server's unlabelled images",
            "fieldPath": ".serverDataset",
            "reason": "FieldValueRequired",
        },
        DEADLINE_RULE,
    )


SitePhase = Literal["Pending", "Refused", "Queued", "Running", "Backoff", "Succeeded", "Failed", "Excluded", "Late"]
JobPhase = Literal["Pending", "Queued", "Running", "Backoff", "Succeeded", "Failed"]
RoundPhase = Literal["Pending", "Initializing", "Training", "Aggregating", "Complete", "Failed", "Suspended"]


class AttemptStatus(ApiModel):
    """Where a Job of the round stands, over its attempts."""

    attempt: Annotated[int, Field(ge=0)] = 0
    """Number of the current attempt, from 1. 0: none yet."""
    failures: Annotated[int, Field(ge=0)] = 0
    """Attempts that failed. At most retries + 1."""
    job: Annotated[str, Field(max_length=63)] | None = None
    """Name of the current attempt's Job."""
    reason: Annotated[str, Field(max_length=64)] | None = None
    """Machine-readable cause of the phase, from a fixed list."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """The cause as a sentence for people."""
    retry_time: Timestamp | None = None
    """When the next attempt may start, in phase Backoff."""


class Progress(ApiModel):
    """The newest live report of a Job."""

    epoch: Annotated[int, Field(ge=0), INT64]
    """Epochs finished."""
    epochs: Annotated[int, Field(ge=1), INT64]
    """Epochs in all."""
    step: Annotated[int, Field(ge=0), INT64]
    """Steps finished, over all epochs."""
    steps: Annotated[int, Field(ge=1), INT64]
    """Steps in all. While updates are merged, the slices of one pass over them; some strategies take two passes."""
    loss: FiniteFloat | None = None
    """Mean training loss since the report before. Absent where the hospital lets no metrics out."""
    images_per_second: Annotated[FiniteFloat, Field(ge=0)] | None = None
    """Training throughput since the report before, in images a second. Absent while updates are merged."""
    eta_seconds: Annotated[FiniteFloat, Field(ge=0)]
    """Estimated time to the end of the training, or of the pass over the updates, in seconds."""
    time: Timestamp
    """When the Job reported this."""

    @property
    def percent(self) -> int:
        """Share of the steps that are finished, in whole per cent, rounded down."""
        return min(100, 100 * self.step // self.steps)


class JobStatus(AttemptStatus):
    """Where a Job of the server side stands: making the start model, or aggregation."""

    phase: JobPhase = "Pending"
    """Pending, Queued (its Job waits to be admitted by Kueue), Running, Backoff (failed, will be tried again),
    Succeeded or Failed (no retries left)."""
    progress: Progress | None = None
    """The newest live report of pretraining, merge or distillation, at most 15 s old while the Job runs and Redis
    answers."""


class SiteStatus(AttemptStatus):
    """Where one hospital stands in the round."""

    name: Annotated[str, Field(max_length=320)]
    """The site as namespace.name of its Hospital."""
    namespace: DnsLabel
    """Namespace of the hospital."""
    hospital: DnsSubdomain
    """Name of the Hospital resource."""
    phase: SitePhase = "Pending"
    """Pending, Refused (no consent or beyond its limits), Queued (its Job waits to be admitted by Kueue), Running,
    Backoff, Succeeded, Failed (no retries left), Excluded (update invalid), or Late (stopped at the deadline)."""
    progress: Progress | None = None
    """The newest live report, at most 15 s old while the Job runs and Redis answers."""
    public_key: PublicKey | None = None
    """Public key of the hospital as it was when its first Job was launched: the update must be signed with it."""
    update_digest: Digest | None = None
    """sha256 of the committed update."""
    head_digest: Digest | None = None
    """sha256 of the head that left with it. Absent where none left."""
    samples: Annotated[int, Field(ge=0)] | None = None
    """Number of training images behind the update."""
    metrics: Metrics | None = None
    """Figures that the hospital let out, such as loss_before and loss_after on its validation part."""
    differential_privacy: DifferentialPrivacyRecord | None = None
    """With which differential privacy the update was trained. Absent: with none."""
    update_norm: FiniteFloat | None = None
    """L2 norm of the change that the update makes to the parent. Present where the strategy or a filter looks at
    whole updates."""
    update_cosine: FiniteFloat | None = None
    """Cosine between that change and the mean of the other sites' changes. Present with updateNorm."""
    outlier: bool | None = None
    """Whether the update is unlike the others. A report: it counts in the model as the strategy says. Present with
    updateNorm."""

    @property
    def reference(self) -> HospitalReference:
        """The Hospital resource of the site."""
        return HospitalReference(namespace=self.namespace, name=self.hospital)


class FederationRoundStatus(ApiModel):
    """What the operator observed. Written by the operator only."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """Generation of the spec that this status was computed from."""
    phase: RoundPhase = "Pending"
    """Summary for display. Use the conditions in programs."""
    reason: Annotated[str, Field(max_length=64)] | None = None
    """Reason of the phase, for display."""
    sites_summary: Annotated[str, Field(max_length=64)] | None = None
    """Updates done / quorum / sites in all, for display."""
    progress: Annotated[str, Field(max_length=16)] | None = None
    """Mean progress of the sites' training, for display."""
    trace_id: Annotated[str, Field(max_length=55)] | None = None
    """W3C trace id of the round's trace."""
    start_time: Timestamp | None = None
    """When training at the sites started, or went on after a suspension. The deadline counts from here."""
    completion_time: Timestamp | None = None
    """When the round became Complete or Failed."""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = Field(default_factory=list)
    """Accepted, Suspended, TrainingFinished, QuorumReached, Aggregated, Complete, Failed, Reconciled."""
    sites: Annotated[
        list[SiteStatus],
        Field(
            max_length=1000,
            # By key, the API server would keep an owner for each field of each site: of a thousand sites, more than
            # they are themselves, and seconds a write. The operator alone writes them.
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ] = Field(default_factory=list)
    """One entry a hospital, sorted by name."""
    initialization: JobStatus | None = None
    """The Job that makes the start model, where model.parent.init is set."""
    parent: ModelReference | None = None
    """The model that the sites start from."""
    aggregation: JobStatus | None = None
    """The Job that merges the updates."""
    global_model: ModelReference | None = None
    """The published result."""

    def server_jobs(self) -> dict[str, JobStatus]:
        """Return the Jobs of the server that the round has had, by role."""
        jobs = {"init": self.initialization, "aggregate": self.aggregation}
        return {role: job for role, job in jobs.items() if job is not None}
