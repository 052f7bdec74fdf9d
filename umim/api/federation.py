"""The Federation resource: a stage-wise campaign of rounds, each starting from the model of the one before."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from umim.api.base import (
    ApiModel,
    Condition,
    DnsLabel,
    Duration,
    FiniteFloat,
    ModelReference,
    QueueName,
    ResourceRequirements,
    Timestamp,
    cel_rules,
)
from umim.api.hospital import DatasetSpec
from umim.api.round import (
    DEADLINE_RULE,
    PRETRAINING_RULES,
    AggregationSpec,
    DistillationSpec,
    ModelSpec,
    ParticipantsSpec,
    PretrainingSpec,
    RoundPhase,
    TrainingSpec,
)

MOST_STAGES = 64
MOST_ROUNDS = 500
"""Rounds of a campaign in all: its status names every one, and an object of the API server may have 1.5 MB."""

StagePhase = Literal["Pending", "Running", "Complete", "Failed", "Skipped"]
FederationPhase = Literal["Pending", "Running", "Suspended", "Complete", "Failed"]


def _list_map(key: str) -> dict[str, Any]:
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


class StageSpec(ApiModel):
    """One stage: who takes part, for how many rounds, and where it differs from the federation's own settings."""

    name: DnsLabel
    """Name of the stage, unique in the federation. It becomes part of the rounds' names."""
    participants: ParticipantsSpec
    """Which hospitals take part in each round of the stage and how many must deliver."""
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = 1
    """Rounds of the stage, one after another. All stages together have at most 500."""
    training: TrainingSpec | None = None
    """What each site optimises in this stage. Default: as the federation's training."""
    resources: ResourceRequirements | None = None
    """Resources of each site's Job in this stage. Default: as the federation's resources."""
    aggregation: AggregationSpec | None = None
    """How the updates of this stage become one model. Default: as the federation's aggregation."""
    distillation: DistillationSpec | None = None
    """What the server learns after each merge of this stage. Default: as the federation's distillation."""
    deadline: Duration | None = None
    """Time that the sites have in each round of this stage. Default: as the federation's deadline."""
    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    """How often a failed Job of this stage is tried again. Default: as the federation's retries."""

    model_config = cel_rules(
        {**DEADLINE_RULE, "rule": f"!has(self.deadline) || {DEADLINE_RULE['rule']}"},
    )


class StopEarlySpec(ApiModel):
    """When the campaign ends before its last stage."""

    metric: Literal["server_mim_loss"] = "server_mim_loss"
    """Figure of the GlobalModels that is watched: the loss of masked image modelling on the server's images."""
    patience: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = 1
    """Rounds in a row without a new best value after which the campaign ends."""
    min_improvement: Annotated[float, Field(ge=0)] = 0.0
    """A value counts as better only if it is below the best one by more than this."""


class FederationSpec(ApiModel):
    """The campaign. Once its first stage has started, only stages that have not, stopEarly and suspend may change."""

    model: ModelSpec
    """The encoder and what the first round starts from. Every later round starts from the model of the one before."""
    pretraining: PretrainingSpec | None = None
    """Masked image modelling on the server before the first round. Set if and only if model.parent.init is mim."""
    server_dataset: DatasetSpec | None = None
    """The server's unlabelled images, in a volume of the federation's namespace. Labels are ignored. Needed by
    pretraining, distillation, more than one of aggregation.scales, and stopEarly."""
    training: TrainingSpec = TrainingSpec()
    """What each site optimises. Round k of the campaign, counted from 0, adds k to the seed."""
    resources: ResourceRequirements = ResourceRequirements()
    """Resources of each site's Job. Default: 1 cpu and 2Gi of memory requested, memory limited to 4Gi."""
    aggregation: AggregationSpec = AggregationSpec()
    """How the updates become one model."""
    distillation: DistillationSpec | None = None
    """What the server learns after each merge. Round k, counted from 0, adds k to the seed. Default: nothing."""
    deadline: Duration = "1h"
    """Time that the sites have in each round, see FederationRound."""
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """How often a failed Job of a round is tried again, see FederationRound."""
    queue_name: QueueName | None = None
    """LocalQueue of Kueue that admits the server's Jobs, see FederationRound."""
    stages: Annotated[list[StageSpec], Field(min_length=1, max_length=MOST_STAGES, json_schema_extra=_list_map("name"))]
    """The stages in their order. A stage that has started may not be edited, removed or moved; later ones may be
    edited, added and removed while the campaign runs."""
    stop_early: StopEarlySpec | None = None
    """Ends the campaign when the model no longer gets better. Default: all stages run."""
    suspend: bool = False
    """Suspends the running round and starts no new one; false goes on."""

    model_config = cel_rules(
        *PRETRAINING_RULES,
        {
            "rule": "has(self.serverDataset) || (!has(self.distillation) && self.stages.all(s, !has(s.distillation)))",
            "message": "distillation, of the federation or of a stage, needs serverDataset: the server's unlabelled "
            "images",
            "fieldPath": ".serverDataset",
            "reason": "FieldValueRequired",
        },
        {
            "rule": "has(self.serverDataset) || (size(self.aggregation.scales) <= 1 && "
            "self.stages.all(s, !has(s.aggregation) || size(s.aggregation.scales) <= 1))",
            "message": "more than one of aggregation.scales, of the federation or of a stage, needs serverDataset: the "
            "server's unlabelled images",
            "fieldPath": ".serverDataset",
            "reason": "FieldValueRequired",
        },
        {
            "rule": "!has(self.stopEarly) || has(self.serverDataset)",
            "message": "stopEarly needs serverDataset: server_mim_loss is measured on the server's unlabelled images",
            "fieldPath": ".serverDataset",
            "reason": "FieldValueRequired",
        },
        DEADLINE_RULE,
        {
            "rule": f"self.stages.map(s, s.rounds).sum() <= {MOST_ROUNDS}",
            "message": f"all stages together may have at most {MOST_ROUNDS} rounds",
            "fieldPath": ".stages",
            "reason": "FieldValueInvalid",
        },
    )


class StageRound(ApiModel):
    """One round of a stage."""

    name: Annotated[str, Field(max_length=253)]
    """Name of the FederationRound, in the federation's namespace."""
    phase: RoundPhase = "Pending"
    """Phase of the FederationRound."""
    global_model: ModelReference | None = None
    """The model that the round published."""
    server_mim_loss: FiniteFloat | None = None
    """Loss of masked image modelling of that model on the server's images, where it was measured."""


class StageStatus(ApiModel):
    """Where one stage stands."""

    name: DnsLabel
    """Name of the stage."""
    phase: StagePhase = "Pending"
    """Pending, Running, Complete, Failed, or Skipped (the campaign ended before it)."""
    rounds: Annotated[list[StageRound], Field(max_length=MOST_ROUNDS, json_schema_extra=_list_map("name"))] = Field(
        default_factory=list
    )
    """The rounds of the stage that have been started, in their order."""


class FederationStatus(ApiModel):
    """What the operator observed. Written by the operator only."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """Generation of the spec that this status was computed from."""
    phase: FederationPhase = "Pending"
    """Summary for display. Use the conditions in programs."""
    reason: Annotated[str, Field(max_length=64)] | None = None
    """Reason of the phase, for display."""
    stage: Annotated[str, Field(max_length=16)] | None = None
    """Number of the newest stage that has started / stages in all, for display."""
    current_round: Annotated[str, Field(max_length=253)] | None = None
    """Name of the newest FederationRound."""
    frozen_stages: Annotated[int, Field(ge=0, le=MOST_STAGES)] = 0
    """So many stages, from the first on, may no longer change: they have started, or the campaign has ended."""
    start_time: Timestamp | None = None
    """When the first stage started."""
    completion_time: Timestamp | None = None
    """When the campaign became Complete or Failed."""
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=_list_map("type"))] = Field(
        default_factory=list
    )
    """Accepted, Suspended, Complete, Failed."""
    stages: Annotated[list[StageStatus], Field(max_length=MOST_STAGES, json_schema_extra=_list_map("name"))] = Field(
        default_factory=list
    )
    """One entry a stage, in the order of spec.stages."""
    lineage: Annotated[list[ModelReference], Field(max_length=MOST_ROUNDS + 1)] = Field(default_factory=list)
    """The models from the one that the first round started from to the newest."""
    global_model: ModelReference | None = None
    """The newest model that a round published."""
