"""The federation of the load: namespaces, hospitals and rounds, and one watch that sees the rounds end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import urllib3
import yaml

from hack.testenv.api import Api
from hack.testenv.models import register_start
from tests.benchmarks.operator.plane import ADMIN_USER, OPERATOR_USER, Plane
from tests.benchmarks.operator.tensors import ARCHITECTURE, IMAGE_SIZE, parent
from tests.benchmarks.operator.watching import TABLE, Client
from umim.artifacts.minio import MinioStore
from umim.artifacts.writer import write_safetensors

Object = dict[str, Any]
ROOT = Path(__file__).parents[3]
FEDERATION = "federation"
HOSPITAL = "radiology"
BASE = "base"
WRITERS = 4
NARROW = "umim-benchmark-narrow"
FAIRNESS = "/apis/flowcontrol.apiserver.k8s.io/v1"
SETTLING_SECONDS = 2.0
"""After which the API server goes by a new level."""
CLUSTER_KINDS = ("ClusterRole", "ClusterRoleBinding")
OWN_KINDS = ("Role", "RoleBinding")


class Federation:
    """Makes objects as the administrator."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self._api = Api(plane.kubeconfigs[ADMIN_USER])
        self._paths = self._api._api  # the client, for kinds that the tests' class does not know

    def install(self) -> None:
        """Install the CRDs, the operator's rights and the model that rounds start from, as the charts do."""
        for path in sorted((ROOT / "manifests/crds").glob("*.yaml")):
            self._api.apply(yaml.safe_load(path.read_text()))
        for namespace in ("umim-system", FEDERATION):
            self._namespace(namespace)
        for body in _rendered("umim-production.yaml"):
            if body["kind"] in CLUSTER_KINDS or (body["kind"] in OWN_KINDS and _place(body) == FEDERATION):
                self._rights(body)
        self._wait_for_kinds()
        self._publish()

    def hospitals(self, count: int, public_key: str) -> None:
        """Make hospitals 0 to count - 1, each in a namespace of its own with the rights that its chart gives."""
        rights = [body for body in _rendered("umim-hospital.yaml") if body["kind"] in OWN_KINDS]
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda number: self._hospital(number, rights, public_key), range(count)))

    def start(self, name: str, sites: Sequence[int], deadline: str = "20m") -> str:
        """Create a round over hospitals by number and return its UID."""
        participants = [{"namespace": namespace(number), "name": HOSPITAL} for number in sites]
        made = self._api.create(
            {
                "apiVersion": "umim.dev/v1alpha1",
                "kind": "FederationRound",
                "metadata": {"name": name, "namespace": FEDERATION},
                "spec": {
                    "model": {
                        "architecture": ARCHITECTURE,
                        "imageSize": IMAGE_SIZE,
                        "parent": {"globalModel": BASE},
                    },
                    "participants": {"hospitals": participants, "quorum": len(sites)},
                    "training": {"epochs": 1, "seed": 1},
                    "deadline": deadline,
                },
            }
        )
        uid: str = made["metadata"]["uid"]
        return uid

    @contextmanager
    def throttled(self) -> Iterator[None]:
        """Give the operator for a block a priority level of its own with hardly any room, which rejects at once."""
        level = {
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": 1,
                "lendablePercent": 0,
                "borrowingLimitPercent": 0,
                "limitResponse": {"type": "Reject"},
            },
        }
        subject = {"kind": "User", "user": {"name": OPERATOR_USER}}
        every = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": True, "namespaces": ["*"]}
        schema = {
            "priorityLevelConfiguration": {"name": NARROW},
            "matchingPrecedence": 100,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [subject], "resourceRules": [every]}],
        }
        for kind, spec in (("PriorityLevelConfiguration", level), ("FlowSchema", schema)):
            path = f"{FAIRNESS}/{kind.lower()}s"
            body = {"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind, "metadata": {"name": NARROW}}
            self._api._request("POST", path, [], {**body, "spec": spec})
        time.sleep(SETTLING_SECONDS)
        try:
            yield
        finally:
            for kind in ("flowschemas", "prioritylevelconfigurations"):
                self._api._request("DELETE", f"{FAIRNESS}/{kind}/{NARROW}", [], {})

    def round(self, name: str) -> Object:
        """Return a round."""
        return self._api.get("FederationRound", FEDERATION, name)

    def delete(self, names: Iterable[str]) -> None:
        """Delete rounds."""
        for name in names:
            self._api.delete("FederationRound", FEDERATION, name)

    def api(self) -> Api:
        """Return the API as the administrator sees it."""
        return self._api

    def _hospital(self, number: int, rights: Iterable[Object], public_key: str) -> None:
        place = namespace(number)
        self._namespace(place)
        for body in rights:
            self._rights({**body, "metadata": {**body["metadata"], "namespace": place}})
        self._api.create(
            {
                "apiVersion": "umim.dev/v1alpha1",
                "kind": "Hospital",
                "metadata": {"name": HOSPITAL, "namespace": place},
                "spec": {
                    "federations": [FEDERATION],
                    "data": {"claimName": "images", "format": "npz", "path": "images.npz", "task": "classification"},
                    "workClaimName": "work",
                    "maxResources": {"cpu": "4", "memory": "16Gi"},
                    "publicKey": public_key,
                },
            }
        )

    def _namespace(self, name: str) -> None:
        self._api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def _rights(self, body: Object) -> None:
        kind, place = body["kind"], _place(body)
        scope = f"/namespaces/{place}" if place else ""
        path = f"/apis/rbac.authorization.k8s.io/v1{scope}/{kind.lower()}s"
        self._api._request("POST", path, [], body)

    def _wait_for_kinds(self) -> None:
        for _ in range(200):
            try:
                for kind in ("Federation", "FederationRound", "Hospital", "GlobalModel"):
                    self._api.select(kind)
            except Exception:  # noqa: BLE001 the server does not serve the new kinds yet
                time.sleep(0.1)
            else:
                return
        raise RuntimeError("the API server does not serve the kinds of umim.dev")

    def _publish(self) -> None:
        path = self.plane.folder / "parent.safetensors"
        write_safetensors(parent(), path)
        store, meta = MinioStore.from_settings(self.plane.store), {"name": BASE, "namespace": FEDERATION}
        register_start(store, self._api, path, meta, ARCHITECTURE, IMAGE_SIZE)


class Watcher:
    """Notes when the end of each round became visible, by a watch over the table that kubectl prints."""

    def __init__(self, plane: Plane) -> None:
        self.ended: dict[str, tuple[float, str]] = {}
        """Time and phase of the end by name."""
        self._phases: dict[str, str] = {}
        self._client = Client(plane.kubeconfigs[ADMIN_USER])
        self._changed = threading.Condition()
        threading.Thread(target=self._watch, daemon=True).start()

    def wait(self, names: Iterable[str], seconds: float) -> None:
        """Wait until the rounds have ended. Raises TimeoutError with the phases."""
        wanted, end = set(names), time.monotonic() + seconds
        with self._changed:
            while not wanted <= self.ended.keys():
                if not self._changed.wait(end - time.monotonic()):
                    left = {name: self._phases.get(name) for name in sorted(wanted - self.ended.keys())[:10]}
                    raise TimeoutError(f"rounds did not end in {seconds:.0f} s: {left}")

    def _watch(self) -> None:
        path = f"/apis/umim.dev/v1alpha1/namespaces/{FEDERATION}/federationrounds"
        with suppress(urllib3.exceptions.HTTPError):  # at the end the API server goes before this thread
            self._read(self._client.watch(path, "includeObject=None", TABLE))

    def _read(self, tables: Iterable[Object]) -> None:
        columns: list[str] = []
        for table in tables:
            # Only the first table of a watch names its columns.
            columns = [column["name"].lower() for column in table.get("columnDefinitions") or []] or columns
            for row in table["rows"]:
                self._seen(row["cells"][columns.index("name")], row["cells"][columns.index("phase")] or "")

    def _seen(self, name: str, phase: str) -> None:
        with self._changed:
            self._phases[name] = phase
            if phase in ("Complete", "Failed") and name not in self.ended:
                self.ended[name] = (time.time(), phase)
                self._changed.notify_all()


def namespace(number: int) -> str:
    """Return the namespace of a hospital."""
    return f"hospital-{number:04d}"


def _rendered(file: str) -> list[Object]:
    documents = yaml.safe_load_all((ROOT / "manifests/rendered" / file).read_text())
    return [body for body in documents if body is not None]


def _place(body: Object) -> str:
    return str(body["metadata"].get("namespace", ""))
