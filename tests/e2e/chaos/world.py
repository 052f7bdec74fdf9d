"""What all cases share: hospitals, small rounds, their undisturbed twin, and how a disturbed round is judged."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hack.testenv.api import Object
from hack.testenv.hospitals import Hospitals, Site, remove_rounds
from hack.testenv.images import SIDE
from hack.testenv.machine import PodProcess
from hack.testenv.models import START, publish_start
from hack.testenv.platform import FEDERATION, OPERATOR, PREFIX, RELEASE, SYSTEM, Platform
from hack.testenv.rounds import ARCHITECTURE, Round, round_body
from hack.testenv.waiting import wait_until
from tests.e2e.chaos.rows import FOLDER, NOTHING, Row
from umim import contract
from umim.api.artifacts import ModelManifest
from umim.artifacts.models import fetch_model, fetch_update
from umim.artifacts.store import ObjectStore

LONG = {"epochs": 40}
"""Seconds of training, so that a fault hits it."""
SHORT = {"epochs": 1}
LARGE_START = {"globalModel": "t-base-large"}
LARGE: dict[str, Any] = {
    "model": {"architecture": "vit_small_patch16_224", "imageSize": SIDE, "parent": LARGE_START},
    "training": {"epochs": 1},
}
"""An encoder of 87 MB, so that a transfer can be hit in its middle."""
SHOWN_SECONDS = 30.0
"""Within that time a site must say why it does not go on."""
END_SECONDS = 420.0
SEEDS = {"a": 1, "b": 2}
TWINS = FOLDER / "twins.json"


@dataclass(frozen=True)
class Twin:
    """How an undisturbed round of a shape went."""

    seconds: float
    """From its creation to its completion."""
    model: str
    """Digest of its model."""
    updates: tuple[str, ...]
    """Digests of its updates, sorted: the same hospital has another name in another case."""
    start: str
    """Digest of the model that it started from."""


@dataclass
class Trial:
    """A round that a fault hits."""

    round: Round
    sites: tuple[Site, ...]

    @property
    def duration(self) -> float:
        """Seconds from the creation of the round to its end, as the API server and the operator stamped them."""
        body = self.round.body
        return stamp(body["status"]["completionTime"]) - stamp(body["metadata"]["creationTimestamp"])


class World:
    """The platform with two hospitals that all harmless cases share."""

    def __init__(self, platform: Platform, hospitals: Hospitals, twins: Path = TWINS) -> None:
        self.platform = platform
        self.hospitals = hospitals
        self.company = ""
        """What else runs beside a round: undisturbed rounds are timed in the same company."""
        self._file = twins
        self._twins = _load_twins(twins)
        self._lock = threading.Lock()
        self._start: dict[str, ModelManifest] = {}
        self.publish(START["globalModel"])
        self.sites = self.pair("shared")

    # hospitals and rounds

    def pair(self, name: str) -> tuple[Site, Site]:
        """Make two hospitals of a case. Every pair has the same data, so that its rounds are twins of each other."""
        first, second = (self.site(name, letter) for letter in sorted(SEEDS))
        return first, second

    def site(self, name: str, letter: str, **changes: Any) -> Site:
        """Make one hospital of a case; ``changes`` as in ``Hospitals.add``."""
        return self.hospitals.add(f"{PREFIX}-x-{name}-{letter}", seed=SEEDS[letter], **changes)

    def launch(self, name: str, sites: Sequence[Site] | None = None, **spec: Any) -> Trial:
        """Create a round of a case, by default of the shared hospitals, with a long training."""
        chosen = tuple(sites or self.sites)
        body = round_body(f"x-{name}", chosen, **{"training": LONG, "parent": START, **spec})
        return Trial(Round.create(self.platform, body), chosen)

    def twin(self, shape: str = "small", **spec: Any) -> Twin:
        """Return how an undisturbed round of this shape goes; the first call of a shape runs it."""
        name = f"{shape}{self.company}"
        with self._lock:
            if name not in self._twins:
                trial = self.launch(f"twin-{name}", **spec)
                status = trial.round.wait_phase("Complete", END_SECONDS)
                self._twins[name] = Twin(
                    trial.duration, status["globalModel"]["digest"], _updates(status), status["parent"]["digest"]
                )
                _save_twins(self._twins, self._file)
            return self._twins[name]

    def publish(self, name: str, architecture: str = ARCHITECTURE) -> None:
        """Publish a model that rounds can start from, once."""
        if name not in self._start:
            with _scratch() as folder:
                self._start[name] = publish_start(self.platform, folder, architecture, name)

    @property
    def starts(self) -> list[ModelManifest]:
        """Models that rounds start from."""
        return [self._start[name] for name in sorted(self._start)]

    def remove_rounds(self) -> None:
        """Remove all rounds and what they made; models that rounds start from are there again."""
        remove_rounds(self.platform)
        published, self._start = self._start, {}
        for name, manifest in published.items():
            self.publish(name, manifest.architecture)

    def forget_models(self) -> None:
        """Remove the models that undisturbed twins made, so that a disturbed round must make its own."""
        for item in self.platform.api.select("GlobalModel", FEDERATION):
            if item["metadata"]["name"] not in self._start:
                self.platform.api.delete("GlobalModel", FEDERATION, item["metadata"]["name"])
        made = {digest for twin in self._twins.values() for digest in (twin.model, twin.start)}
        for digest in made - {manifest.file.digest for manifest in self._start.values()}:
            self.platform.store().delete_prefix(contract.model_prefix(digest))

    # processes

    def operator_pods(self) -> list[Object]:
        """Return the operator's Pods."""
        return self.component_pods("operator")

    def component_pods(self, component: str) -> list[Object]:
        """Return the Pods of a part of the platform."""
        labels = {"app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": component}
        return self.platform.api.select("Pod", SYSTEM, labels)

    def process(self, component: str, text: str) -> PodProcess:
        """Return the process of a part of the platform, whose command line holds a text."""

        def look() -> PodProcess | None:
            found = [PodProcess.of(pod, text) for pod in self.component_pods(component)]
            return next((process for process in found if process is not None), None)

        return wait_until(f"a process of {component}", look, 60, lambda: str(self.component_pods(component)))

    def process_of(self, pod: Object) -> PodProcess | None:
        """Return the process of a Job's Pod. None: it does not run yet."""
        return PodProcess.of(pod, "umim.entrypoints")

    def job_process(self, trial: Trial, role: str, namespace: str) -> PodProcess:
        """Return the process of a Job of a round, as soon as it runs."""

        def look() -> PodProcess | None:
            for pod in trial.round.pods(namespace):
                if pod["metadata"]["labels"].get(contract.LABEL_ROLE) == role:
                    process = self.process_of(pod)
                    if process is not None:
                        return process
            return None

        return wait_until(f"{trial.round.name}: a process of {role}", look, 120, trial.round.dump)

    def wait_operator(self) -> None:
        """Wait until the operator runs."""
        self.platform.wait_ready(OPERATOR)

    # judging

    def complete(
        self,
        trial: Trial,
        *,
        case: str,
        fault: str,
        phase: str,
        outcome: str = "",
        fault_seconds: float = 0.0,
        twin: Twin | None = None,
        undisturbed_seconds: float | None = None,
        reasons: Sequence[str] = (),
        contributors: Sequence[Site] | None = None,
        store: ObjectStore | None = None,
    ) -> Row:
        """Wait until a disturbed round is complete, and return its row.

        contributors: sites that deliver. store: the object store, if not the platform's. undisturbed_seconds: how long
        it takes undisturbed in the same company.
        """
        undisturbed = twin or self.twin()
        expected = undisturbed.seconds if undisturbed_seconds is None else undisturbed_seconds
        status = trial.round.wait_phase("Complete", END_SECONDS)
        took = trial.duration
        wanted = trial.sites if contributors is None else contributors
        lost = self._losses(trial.round, status, wanted, undisturbed, store or self.platform.store())
        told = f"Complete: {outcome or _attempts(status)}"
        late = max(0.0, took - expected - fault_seconds)
        return Row(case, fault, phase, told, round(late, 1), "; ".join(lost) or NOTHING, tuple(reasons))

    def failed(
        self, trial: Trial, *, case: str, fault: str, phase: str, reason: str, names: Sequence[str], begin: float
    ) -> Row:
        """Wait until a round has failed, check that ``kubectl describe`` alone explains it, and return its row.

        names: what the message must name. begin: when the fault began, by the monotonic clock.
        """
        trial.round.wait_phase("Failed", END_SECONDS)
        took = time.monotonic() - begin
        message = trial.round.condition("Failed")["message"]
        shown = self.described(trial.round)
        for text in (reason, *names):
            assert text in message or text in trial.round.status["reason"], f"{text!r} is not in {message!r}"
            assert text in shown, f"kubectl describe does not show {text!r}:\n{shown}"
        lost = _kept_updates(trial.round, trial.round.status, self.platform.store())
        return Row(case, fault, phase, f"Failed: {message}", round(took, 1), "; ".join(lost) or NOTHING, (reason,))

    def described(self, round_: Round) -> str:
        """Return what ``kubectl describe fround`` shows, its folded lines joined."""
        return " ".join(self.platform.run_kubectl("describe", "fround", round_.name, "-n", FEDERATION).split())

    def shown(self, trial: Trial, site: Site, begin: float, wanted: Callable[[Object], bool]) -> tuple[Object, float]:
        """Wait until a site says why it does not go on. Returns its status and the seconds it took; at most 30."""

        def look(status: Object) -> Object | None:
            found = [item for item in status.get("sites", []) if item["name"] == site.name and item.get("message")]
            return next((item for item in found if wanted(item)), None)

        item: Object = trial.round.wait("the reason on the site", look, SHOWN_SECONDS + 30)
        took = time.monotonic() - begin
        assert took <= SHOWN_SECONDS, f"shown after {took:.0f} s only: {item}"
        text = self.described(trial.round)
        assert item["reason"] in text, text
        assert " ".join(item["message"].split()) in text, text
        return item, took

    def _losses(
        self, round_: Round, status: Object, sites: Sequence[Site], twin: Twin, store: ObjectStore
    ) -> list[str]:
        """Return what a complete round has lost against its twin."""
        lost = _kept_updates(round_, status, store)
        names = {site.name for site in sites}
        lost += [f"update of {item['name']}" for item in _delivered(status, False) if item["name"] in names]
        every = len(sites) == len(twin.updates)
        if every and _updates(status) != twin.updates:
            lost.append("updates differ from the undisturbed twin's")
        digest = status["globalModel"]["digest"]
        if every and digest != twin.model:
            lost.append("model differs from the undisturbed twin's")
        with _scratch() as folder:
            fetch_model(store, digest, folder / "model")
        models = self.platform.api.select("GlobalModel", FEDERATION)
        own = [item for item in models if item["spec"]["round"]["uid"] == round_.uid and not _is_base(item)]
        if len(own) != 1:
            lost.append(f"{len(own)} GlobalModels")
        wait_until(f"{round_.name}: no Secret is left", lambda: not round_.secrets(), 30, round_.dump)
        return lost + _double(round_.jobs())


def _kept_updates(round_: Round, status: Object, store: ObjectStore) -> list[str]:
    """Return which committed updates are no longer in the store as they were committed."""
    lost = []
    with _scratch() as folder:
        for item in _delivered(status, True):
            manifest = fetch_update(store, round_.uid, item["name"], item["attempt"], folder / item["name"])
            if manifest.file.digest != item["updateDigest"]:
                lost.append(f"the committed update of {item['name']}")
    return lost


def _load_twins(path: Path) -> dict[str, Twin]:
    """Return the twins that an earlier turn of the same run has made."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    return {name: Twin(**{**item, "updates": tuple(sorted(item["updates"]))}) for name, item in found.items()}


def _save_twins(twins: dict[str, Twin], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: asdict(twin) for name, twin in twins.items()}, indent=1))


def stamp(text: str) -> float:
    """Return the seconds since the epoch of a time that the API server shows."""
    return datetime.fromisoformat(text).timestamp()


def _is_base(model: Object) -> bool:
    """Whether a GlobalModel is the start model of a round."""
    return not model["spec"].get("contributors")


def _delivered(status: Object, yes: bool) -> list[Object]:
    return [item for item in status.get("sites", []) if (item["phase"] == "Succeeded") == yes]


def _updates(status: Object) -> tuple[str, ...]:
    return tuple(sorted(item.get("updateDigest", "") for item in status["sites"]))


def _double(jobs: list[Object]) -> list[str]:
    """Return the attempts for which there is more than one Job."""
    marks = (contract.LABEL_ROLE, contract.LABEL_SITE, contract.LABEL_ATTEMPT)
    found = [tuple(job["metadata"]["labels"].get(mark, "") for mark in marks) for job in jobs]
    return [f"two Jobs of {'/'.join(one)}" for one in sorted(set(found)) if found.count(one) > 1]


def _attempts(status: Object) -> str:
    """Return how many attempts the Jobs of a round took, as a sentence."""
    servers = [job for job in (status.get("initialization"), status.get("aggregation")) if job]
    attempts = [item["attempt"] for item in (*status["sites"], *servers)]
    again = sum(attempts) - len(attempts)
    return "every Job ran once" if not again else f"{again} of {len(attempts)} Jobs ran again, from its checkpoint"


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="umim-chaos-") as folder:
        yield Path(folder)
