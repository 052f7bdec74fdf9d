"""What comes out of a simulation. Also the form of ``result.json`` and of what is kept to go on later."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from umim import contract
from umim.api.base import ApiModel
from umim.api.globalmodel import GlobalModelSpec
from umim.api.round import FederationRoundStatus
from umim.errors import NotFoundError


class PublishedModel(ApiModel):
    """One GlobalModel, as a cluster would show it."""

    name: str
    """Name of the GlobalModel."""
    spec: GlobalModelSpec
    """Digest, parent, contributors, metrics."""


class RoundOutcome(ApiModel):
    """One finished round."""

    stage: str = ""
    """Name of its stage. Empty for a FederationRound of its own."""
    name: str
    """Name of the FederationRound."""
    uid: str
    """What the round's objects are stored under: stands for its spec, parent, hospitals and data."""
    seconds: float
    """How long it took."""
    status: FederationRoundStatus
    """As the operator would write it, without conditions."""
    message: str = ""
    """Why it failed."""
    models: list[PublishedModel] = Field(default_factory=list)
    """What it published: the start model where it made one, and the global model."""

    @property
    def server_mim_loss(self) -> float | None:
        """Loss of masked image modelling of the global model on the server's images, where it was measured."""
        return self.models[-1].spec.metrics.get("server_mim_loss") if self.models else None


class SimulationResult(ApiModel):
    """A finished simulation."""

    kind: Literal["Simulation"] = "Simulation"
    federation: str
    """The Federation or FederationRound as namespace/name."""
    phase: Literal["Complete", "Failed"]
    """Complete, or Failed with the last round."""
    message: str
    """How it ended."""
    rounds: list[RoundOutcome]
    """The rounds that ran, in their order."""

    @property
    def models(self) -> list[PublishedModel]:
        """All models that were published, oldest first."""
        return [model for one in self.rounds for model in one.models]

    @property
    def model(self) -> PublishedModel:
        """The newest model. Raises NotFoundError when there is none."""
        if not self.models:
            raise NotFoundError(f"the simulation of {self.federation} has published no model: {self.message}")
        return self.models[-1]

    @property
    def model_key(self) -> str:
        """Key of the newest model's tensors file in the store. Raises NotFoundError when there is none."""
        return contract.model_key(self.model.spec.digest)
