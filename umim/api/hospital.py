"""The Hospital resource: a hospital's consent, its data and its privacy floor."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from umim.api.base import (
    DNS_LABEL_PATTERN,
    ApiModel,
    Digest,
    DnsLabel,
    DnsSubdomain,
    FiniteFloat,
    PublicKey,
    Quantity,
    QueueName,
    Timestamp,
    cel_rules,
)
from umim.api.privacy import DifferentialPrivacyFloor, DifferentialPrivacyRecord

ARCHITECTURE_PATTERN = r"^[a-z0-9][a-z0-9_]*(\.[a-z0-9_]+)?$"
CLOCK_PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"

DataFormat = Literal["imagefolder", "npz", "dicom", "nifti"]
Task = Literal["classification", "multilabel", "segmentation", "none"]
ArtifactKind = Literal["update", "metrics", "head"]
Day = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]

RELATIVE_PATH_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_. -]*(/[A-Za-z0-9_][A-Za-z0-9_. -]*)*$"


class DatasetSpec(ApiModel):
    """Where images lie inside a volume and how to read them."""

    claim_name: DnsSubdomain
    """PersistentVolumeClaim with the images, in the same namespace. Mounted read-only."""
    path: Annotated[str, Field(pattern=RELATIVE_PATH_PATTERN, max_length=512)] | None = None
    """File or folder inside the volume, relative to its root. Default: the root."""
    format: DataFormat
    """imagefolder: image files with folder or CSV labels; npz: one file in MedMNIST form; dicom: folders of
    DICOM files; nifti: NIfTI volumes, cut into slices."""
    task: Task = "classification"
    """What the labels are: one class an image, several labels an image, a mask an image, or none."""
    task_name: Annotated[str, Field(pattern=DNS_LABEL_PATTERN, max_length=63)] | None = None
    """Name of the task, such as chest-pneumonia. Hospitals that give the same one agree on classes and their
    order, so that their heads can be merged. Default: the head is never shared."""
    labels_file: Annotated[str, Field(pattern=RELATIVE_PATH_PATTERN, max_length=512)] | None = None
    """CSV file, relative to path, with the columns file, label (or mask) and, where known, patient. Default:
    folder names are the labels (imagefolder), labels are in the file (npz)."""


class PrivacySpec(ApiModel):
    """What may leave the hospital. Enforced inside the site's Job; no round can lower it."""

    allowed_artifacts: Annotated[
        list[ArtifactKind],
        Field(min_length=1, max_length=3, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = ["update", "metrics"]
    """Kinds of artifact that may leave: update (model update with its number of samples), metrics (training
    and validation figures), head (the task head with the names of its classes, for rounds that share heads).
    A hospital without update takes part in no round."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest L2 norm of the update, over all tensors. A larger one is scaled down. Default: not clipped."""
    noise_multiplier: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Standard deviation of the Gaussian noise added to each value of the clipped update, as a multiple of
    clipNorm. Needs clipNorm. Default: 0, no noise."""
    min_patients: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Fewest patients in the training part; with fewer, the Job refuses to train."""
    differential_privacy: DifferentialPrivacyFloor | None = None
    """Demands DP-SGD of every round. Default: as the round says."""

    model_config = cel_rules(
        {
            "rule": "!has(self.noiseMultiplier) || self.noiseMultiplier == 0.0 || has(self.clipNorm)",
            "message": "privacy.noiseMultiplier above 0 needs privacy.clipNorm: noise is relative to it",
            "fieldPath": ".clipNorm",
            "reason": "FieldValueRequired",
        }
    )


class TimeWindow(ApiModel):
    """A time of the week in which Jobs may run, in UTC."""

    days: Annotated[
        list[Day], Field(min_length=1, max_length=7, json_schema_extra={"x-kubernetes-list-type": "set"})
    ] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    """Days on which it opens."""
    opens: Annotated[str, Field(pattern=CLOCK_PATTERN, max_length=5)]
    """Time at which it opens, as HH:MM in UTC."""
    closes: Annotated[str, Field(pattern=CLOCK_PATTERN, max_length=5)]
    """Time at which it closes, as HH:MM in UTC. Not later than opens: on the next day."""


class HospitalSpec(ApiModel):
    """What the hospital offers, to whom, and within which limits."""

    federations: Annotated[list[DnsLabel], Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "set"})]
    """Namespaces whose FederationRounds may train here. An empty list refuses all."""
    data: DatasetSpec
    """The private images. They never leave the Job."""
    work_claim_name: DnsSubdomain
    """PersistentVolumeClaim, in the same namespace, for checkpoints of running rounds."""
    service_account_name: DnsSubdomain = "umim-site"
    """ServiceAccount of the site's Pods. It needs no rights in the API."""
    queue_name: QueueName | None = None
    """LocalQueue of Kueue, in the same namespace, that admits the site's Jobs. Time in the queue counts towards the
    round's deadline. Default: Jobs start at once."""
    max_resources: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(default_factory=dict)
    """Upper bound of what a round may ask for here, by resource name (cpu, memory, nvidia.com/gpu). A round
    that asks for more is refused. Default: no bound but the namespace's quota."""
    architectures: (
        Annotated[
            list[Annotated[str, Field(pattern=ARCHITECTURE_PATTERN, max_length=128)]],
            Field(min_length=1, max_length=64, json_schema_extra={"x-kubernetes-list-type": "set"}),
        ]
        | None
    ) = None
    """timm names of the encoders that may be trained here. A round with another one is refused. Default: any."""
    max_epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Most passes over the images in one round, those of headWarmupEpochs counted. A round that asks for more is
    refused. Default: no bound."""
    time_windows: Annotated[list[TimeWindow], Field(min_length=1, max_length=32)] | None = None
    """When Jobs may run. Outside, a round waits here, and a running Job is stopped and goes on from its last
    checkpoint when the next window opens. Default: at any time."""
    privacy: PrivacySpec = PrivacySpec()
    """The privacy floor."""
    public_key: PublicKey | None = None
    """Ed25519 public key of the hospital, 32 bytes in base64, from umim keygen. With it every manifest must carry the
    hospital's signature, or the update counts in no model. Default: nothing is signed."""


class Participation(ApiModel):
    """One update that left the hospital."""

    round: str
    """namespace/name of the round."""
    round_uid: str
    """UID of the round."""
    update_digest: Digest
    """sha256 of the update that left."""
    head_digest: Digest | None = None
    """sha256 of the head that left with it. Absent: none left."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Size of the update in bytes."""
    head_size_bytes: Annotated[int, Field(ge=0)] | None = None
    """Size of the head in bytes. Absent: none left."""
    samples: Annotated[int, Field(ge=0)]
    """Number of training images behind it."""
    differential_privacy: DifferentialPrivacyRecord | None = None
    """With which differential privacy it was trained. Absent: with none."""
    time: Timestamp
    """When the operator saw it committed."""


class HospitalStatus(ApiModel):
    """What the operator knows of the hospital."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """Generation of the spec last seen by the operator."""
    participations: Annotated[int, Field(ge=0)] = 0
    """Number of updates that have left, over all rounds."""
    last_participation: Participation | None = None
    """The newest update that left."""
    epsilon_spent: FiniteFloat | None = None
    """Epsilon that all trainings in the hospital's ledger have spent together, as the newest update told it, at the
    delta of its budget. The ledger in the work volume counts. Absent where the hospital lets no metrics out."""
    ledger: Annotated[list[Participation], Field(max_length=100)] = Field(default_factory=list)
    """The newest 100 updates that left, oldest first."""
