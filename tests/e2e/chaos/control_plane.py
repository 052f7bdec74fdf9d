"""API server, etcd and the node are killed and started again."""

from __future__ import annotations

from hack.testenv.machine import kill_components
from tests.e2e.chaos.registry import case
from tests.e2e.chaos.rows import Row
from tests.e2e.chaos.world import SHORT, World

DOWN_SECONDS = 5.0


def _kill(world: World, name: str, fault: str, components: tuple[str, ...]) -> list[Row]:
    """Kill parts of the cluster while one round trains and another one merges."""
    twins = {"Training": world.twin(), "Aggregating": world.twin("short", training=SHORT)}
    trials = {"Aggregating": world.launch(f"{name}-aggregating", training=SHORT)}
    trials["Aggregating"].round.wait_site(trials["Aggregating"].sites[0], "Succeeded")
    trials["Training"] = world.launch(f"{name}-training")
    world.job_process(trials["Training"], "site", world.sites[0].namespace)
    trials["Aggregating"].round.wait_phase("Aggregating")
    took = kill_components(components, DOWN_SECONDS)
    return [
        world.complete(trial, case=name, fault=fault, phase=phase, fault_seconds=took, twin=twins[phase])
        for phase, trial in trials.items()
    ]


@case("api-server", alone=True)
def api_server(world: World) -> list[Row]:
    """The only API server is killed and is away for seconds."""
    return _kill(world, "api-server", "API server killed (SIGKILL)", ("kube-apiserver",))


@case("etcd", alone=True)
def etcd(world: World) -> list[Row]:
    """The only etcd is killed and is away for seconds."""
    return _kill(world, "etcd", "etcd killed (SIGKILL)", ("etcd",))


@case("node", alone=True)
def node(world: World) -> list[Row]:
    """The node's kubelet and containerd are killed and start again; the containers run on."""
    return _kill(world, "node", "node: kubelet and containerd killed (SIGKILL)", ("containerd", "kubelet"))
