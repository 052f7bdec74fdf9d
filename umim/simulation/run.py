"""A whole simulation: the rounds of a Federation one after another, each from the model of the one before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from umim.api.base import ModelReference
from umim.api.federation import FederationSpec
from umim.artifacts.manifests import read_model_manifest
from umim.artifacts.store import ObjectStore
from umim.errors import ConfigError
from umim.rounds.campaign import no_longer_better
from umim.rounds.consent import refusal
from umim.simulation.claims import Locate, data_path
from umim.simulation.resources import Campaign, Hospital, check_campaign, participants
from umim.simulation.result import RoundOutcome, SimulationResult
from umim.simulation.round import RoundRun, Setting, SimulatedRound, Watch, round_uid
from umim.training.site import Surroundings


def simulate(
    campaign: Campaign,
    hospitals: Iterable[Hospital],
    locate: Locate,
    store: ObjectStore,
    work: Path,
    around: Surroundings,
    *,
    parents: Mapping[str, ModelReference] | None = None,
    watch: Watch = lambda _round, _status: None,
) -> SimulationResult:
    """Run a Federation or a FederationRound in this process and return its rounds and models.

    Sites train one after another, by the functions of the Jobs, with the configurations that the operator would write:
    with the same software and threads a cluster gives the same digests. What the store holds of an earlier run is not
    computed again. Deadlines, retries and suspension mean nothing here; resources only for a hospital's limits.

    ``locate`` stands for the volumes, ``work`` for the disks of the Jobs. ``parents`` are models in the store that
    ``model.parent.globalModel`` may name. ``watch`` is told each change of a round's status. Raises ConfigError before
    anything runs when a Hospital, a folder or a parent is missing, and the errors of the server's Jobs.
    """
    here = Setting(store, work, locate, _by_site(hospitals), around, watch)
    check_campaign(campaign, here.hospitals)
    _check_folders(campaign, here)
    parent = _first_parent(campaign, parents or {}, store)
    outcomes: list[RoundOutcome] = []
    for number, (stage, name) in enumerate(campaign.rounds):
        spec = campaign.round(number, None if parent is None or number == 0 else parent.name)
        uid = round_uid(campaign.namespace, name, spec, parent, here)
        outcome = RoundRun(SimulatedRound(campaign.namespace, name, uid, spec), parent, here).run(stage)
        outcomes.append(outcome)
        parent = outcome.status.global_model
        if outcome.status.phase == "Failed":
            return _result(campaign, "Failed", f"Round {name} failed: {outcome.message}", outcomes)
        if _stops(campaign, outcomes):
            text = f"Stopped after round {name}: {outcomes[-1].server_mim_loss} is no improvement of server_mim_loss."
            return _result(campaign, "Complete", text, outcomes)
    return _result(campaign, "Complete", f"All {len(outcomes)} rounds are complete.", outcomes)


def _result(campaign: Campaign, phase: str, message: str, outcomes: list[RoundOutcome]) -> SimulationResult:
    return SimulationResult.model_validate(
        {
            "federation": f"{campaign.namespace}/{campaign.name}",
            "phase": phase,
            "message": message,
            "rounds": outcomes,
        }
    )


def _stops(campaign: Campaign, outcomes: list[RoundOutcome]) -> bool:
    if not isinstance(campaign.spec, FederationSpec) or campaign.spec.stop_early is None:
        return False
    return no_longer_better(campaign.spec.stop_early, [one.server_mim_loss for one in outcomes])


def _by_site(hospitals: Iterable[Hospital]) -> dict[str, Hospital]:
    found: dict[str, Hospital] = {}
    for hospital in hospitals:
        if hospital.site in found:
            raise ConfigError(f"Hospital {hospital.reference.namespace}/{hospital.reference.name} is given twice")
        found[hospital.site] = hospital
    return found


def _check_folders(campaign: Campaign, here: Setting) -> None:
    """Find all data before the first round: a name mistyped in the last stage should not cost the night before it."""
    for number in range(len(campaign.rounds)):
        spec = campaign.round(number, None if number == 0 else "the-model-before")
        if spec.server_dataset is not None:
            data_path(spec.server_dataset, campaign.namespace, here.locate)
        for reference in participants(spec.participants, campaign.namespace, here.hospitals):
            hospital = here.hospitals[reference.site].spec
            if refusal(campaign.namespace, spec, hospital) is None:
                data_path(hospital.data, reference.namespace, here.locate)


def _first_parent(
    campaign: Campaign, parents: Mapping[str, ModelReference], store: ObjectStore
) -> ModelReference | None:
    name = campaign.spec.model.parent.global_model
    if name is None:
        return None
    if name not in parents:
        known = ", ".join(sorted(parents)) or "none"
        raise ConfigError(f"spec.model.parent.globalModel: there is no model {name} here. Given are: {known}")
    manifest, model = read_model_manifest(store, parents[name].digest), campaign.spec.model
    for field, wanted, has in (
        ("architecture", model.architecture, manifest.architecture),
        ("imageSize", model.image_size, manifest.image_size),
    ):
        if wanted != has:
            raise ConfigError(f"spec.model.{field} is {wanted}, but model {name} has {has}: they must be equal")
    return parents[name]
