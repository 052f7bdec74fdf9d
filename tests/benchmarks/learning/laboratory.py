"""Running one arm of one seed: the same functions as ``umim simulate`` and the Jobs, then the evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from tests.benchmarks.learning import protocol
from tests.benchmarks.learning.pooled import train_pooled
from tests.benchmarks.learning.protocol import BUDGET, FEDERATED, LEFT_OUT, NAMESPACE, SERVER_SITE, START, Arm, Profile
from umim.api.base import HospitalReference, ModelReference
from umim.api.jobs import DatasetLocation, InitJobConfig
from umim.api.round import FederationRoundSpec, OptimisationSpec
from umim.artifacts.local import LocalStore
from umim.artifacts.manifests import read_job_result
from umim.artifacts.models import fetch_model
from umim.artifacts.tensors import read_safetensors
from umim.entrypoints.pretrain import initialise_once
from umim.evaluation.features import extract
from umim.evaluation.finetune import finetune
from umim.evaluation.pack import Pack
from umim.evaluation.probe import linear_probe
from umim.models.encoder import Encoder, create_encoder
from umim.models.state import Tensors
from umim.simulation.claims import LocalClaims
from umim.simulation.resources import Campaign, Hospital
from umim.simulation.run import simulate
from umim.training.reporter import Clock
from umim.training.runtime import Runtime
from umim.training.site import Surroundings, encoder_tensors, loaded_encoder

Scores = dict[str, dict[str, float]]
"""Score by data set, then by measure such as linear@10."""


@dataclass(frozen=True)
class Made:
    """What an arm made: one encoder for all domains, or one for each."""

    encoders: Mapping[str, Tensors]
    """By domain; under ``""`` where it is one for all."""
    history: Sequence[Tensors] = ()
    """The encoders after each round."""
    seconds: float = 0.0
    """Time of all training, also where an earlier run did it."""
    server_seconds: float = 0.0
    """That part of it that the server spent."""
    details: Mapping[str, Any] | None = None
    """Digests and the like, for the record."""

    def of(self, domain: str) -> Tensors:
        """Return the encoder for a domain."""
        return self.encoders.get(domain) or self.encoders[""]


class Laboratory:
    """One seed of the benchmark in one folder."""

    def __init__(
        self,
        packs: Mapping[str, Pack],
        data: Path,
        folder: Path,
        seed: int,
        runtime: Runtime,
        arms: Mapping[str, Arm] = FEDERATED,
    ) -> None:
        """``data`` holds <domain>.npz and server_pool.npz; ``folder`` gets the store; ``arms`` federate."""
        self._packs = packs
        self._data = data
        self._folder = folder
        self._seed = seed
        self._store = LocalStore(folder / "store")
        self._around = Surroundings(runtime, lambda _: None, Clock())
        self._runtime = runtime
        self._arms = arms

    def run(self, arm: str, profile: Profile) -> dict[str, Any]:
        """Return the record of an arm: scores, curve, times, digests."""
        made = self._make(arm, self.start())
        trained = monotonic()
        domains = [arm.removeprefix(LEFT_OUT)] if arm.startswith(LEFT_OUT) else sorted(self._packs)
        scores = {domain: self._judge(made.of(domain), domain, profile) for domain in domains}
        curve = [
            {name: self._linear(state, name, 10, profile.draws) for name in domains} for state in made.history[:-1]
        ]
        if made.history:  # the last model has been judged above
            curve.append({name: scores[name]["linear@10"] for name in domains})
        return {
            "arm": arm,
            "seed": self._seed,
            "scores": scores,
            "curve": curve,
            "seconds": {
                "training": round(made.seconds, 1),
                "server": round(made.server_seconds, 1),
                "evaluation": round(monotonic() - trained, 1),
            },
            "details": dict(made.details or {}),
        }

    def start(self) -> ModelReference:
        """Return the shared start, made unless it is there: MIM on the server's pool."""
        config = InitJobConfig(
            round_namespace=NAMESPACE,
            round_name=START,
            round_uid=f"start-{self._seed}-{BUDGET.architecture}-{BUDGET.start_epochs}-{BUDGET.mim_rate}",
            attempt=1,
            architecture=BUDGET.architecture,
            image_size=BUDGET.image_size,
            init="mim",
            optimisation=OptimisationSpec(epochs=BUDGET.start_epochs, learning_rate=BUDGET.mim_rate, seed=self._seed),
            data=DatasetLocation(path=str(self._data / protocol.SERVER_FILE), format="npz", task="none"),
            work_path=str(self._folder / "work"),
        )
        initialise_once(self._store, config, self._around)
        result = read_job_result(self._store, config.round_uid, "init")
        assert result is not None  # it was just written
        assert result.model_digest is not None
        return ModelReference(name=START, digest=result.model_digest, parts_digest=result.parts_digest)

    def _make(self, arm: str, start: ModelReference) -> Made:
        domains = sorted(self._packs)
        if arm == "A0":
            return Made({"": encoder_tensors(create_encoder(BUDGET.architecture, BUDGET.image_size, self._seed))})
        if arm == "A1":
            return self._server_only(start)
        if arm == "local":
            alone = {domain: self._alone(domain, start) for domain in domains}
            encoders = {domain: made.of(domain) for domain, made in alone.items()}
            return Made(encoders, seconds=sum(made.seconds for made in alone.values()))
        if arm == "pooled":
            spec = protocol.federation(FEDERATED["A2"], domains, self._seed).training
            spec = spec.model_copy(update={"epochs": BUDGET.rounds * BUDGET.epochs})
            packs, started = [self._packs[domain] for domain in domains], monotonic()
            trained = train_pooled(self._encoder(self._fetch(start.digest)), packs, spec, self._runtime)
            return Made({"": trained}, seconds=monotonic() - started)
        if arm.startswith(LEFT_OUT):
            domains.remove(arm.removeprefix(LEFT_OUT))
        name = "A4" if arm.startswith(LEFT_OUT) else arm
        return self._federated(arm, protocol.federation(self._arms[name], domains, self._seed), start)

    def _server_only(self, start: ModelReference) -> Made:
        """Return A1: masked image modelling goes on, as the training of a site that holds the server's pool."""
        own = {"objective": "mim", "epochs": BUDGET.extra_epochs, "batchSize": 64, "learningRate": BUDGET.mim_rate}
        training = {**protocol.PLAIN, **own}
        made = self._federated("A1", self._single(SERVER_SITE, training), start)
        return replace(made, server_seconds=made.seconds)

    def _alone(self, domain: str, start: ModelReference) -> Made:
        training = {**protocol.PLAIN, "epochs": BUDGET.rounds * BUDGET.epochs}
        return self._federated(f"local-{domain}", self._single(domain, training), start)

    def _single(self, domain: str, training: Mapping[str, Any]) -> FederationRoundSpec:
        return FederationRoundSpec.model_validate(
            {
                "model": {
                    "architecture": BUDGET.architecture,
                    "imageSize": BUDGET.image_size,
                    "parent": {"globalModel": START},
                },
                "participants": {"hospitals": [{"namespace": NAMESPACE, "name": domain}]},
                "training": {**training, "seed": 1000 * self._seed},
            }
        )

    def _federated(self, name: str, spec: Any, start: ModelReference) -> Made:
        kind = "FederationRound" if isinstance(spec, FederationRoundSpec) else "Federation"
        result = simulate(
            Campaign(kind, NAMESPACE, name.lower(), spec),
            self._hospitals(),
            LocalClaims(None, {(NAMESPACE, "data"): self._data}),
            self._store,
            self._folder / "work",
            self._around,
            parents={START: start},
        )
        if result.phase != "Complete":
            raise RuntimeError(f"seed {self._seed}, arm {name}: {result.message}")
        models = result.models
        history = [self._fetch(model.spec.digest) for model in models]
        metrics = [model.spec.metrics for model in models]
        details = {
            "digests": [model.spec.digest for model in models],
            "server_mim_loss": [one.get("server_mim_loss") for one in metrics],
        }
        server = sum(one.get("distillation_seconds", 0.0) for one in metrics)
        return Made({"": history[-1]}, history, sum(one.seconds for one in result.rounds), server, details)

    def _hospitals(self) -> Iterator[Hospital]:
        tasks = {name: pack.task for name, pack in self._packs.items()} | {SERVER_SITE: "none"}
        for name, task in sorted(tasks.items()):
            yield Hospital(HospitalReference(namespace=NAMESPACE, name=name), {}, protocol.hospital(name, task))

    def _fetch(self, digest: str) -> Tensors:
        path = self._folder / "work" / "fetched.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        fetch_model(self._store, digest, path)
        return read_safetensors(path)

    def _encoder(self, state: Tensors) -> Encoder:
        return loaded_encoder(BUDGET.architecture, BUDGET.image_size, state).to(self._runtime.device)

    def _judge(self, state: Tensors, domain: str, profile: Profile) -> dict[str, float]:
        encoder, pack = self._encoder(state), self._packs[domain]
        features = extract(encoder, pack, BUDGET.image_size, "test", self._runtime)
        scores = {
            f"linear@{labels or 'all'}": linear_probe(features, _available(pack, labels), profile.draws).score
            for labels in profile.linear
        }
        for labels in profile.finetuning:
            found = finetune(encoder, pack, self._runtime, labels_per_class=labels, draws=1)
            scores[f"finetune@{labels or 'all'}"] = found.score
        return scores

    def _linear(self, state: Tensors, domain: str, labels: int, draws: int) -> float:
        features = extract(self._encoder(state), self._packs[domain], BUDGET.image_size, "test", self._runtime)
        return linear_probe(features, labels, draws).score


def _available(pack: Pack, labels: int | None) -> int | None:
    """Return the labels a class to ask for: all of a class that has fewer are all that there are."""
    if labels is None or pack.task != "classification":
        return labels
    fewest = min(int((pack.train.targets == number).sum()) for number in range(len(pack.classes)))
    return min(labels, fewest)
