import json
import tomllib
from pathlib import Path

import pytest

from hack.cluster import components, gotools, settings
from hack.cluster.settings import Paths

PATHS = Paths(state=Path("/s"), run=Path("/r"), cache=Path("/c"))
TOOLS = {name: Path("/bin-dir") / name for name in gotools.CLUSTER_TOOLS}
PARTS = components.components(PATHS, TOOLS)


def test_the_store_and_the_runtime_start_before_what_needs_them() -> None:
    order = list(PARTS)
    assert order.index("etcd") < order.index("kube-apiserver") < order.index("kubelet")
    assert order.index("containerd") < order.index("kubelet")


def test_the_api_server_authorizes_nodes_and_roles_and_finds_the_node_by_its_address() -> None:
    command = PARTS["kube-apiserver"].command
    assert "--authorization-mode=Node,RBAC" in command
    assert "--enable-admission-plugins=NodeRestriction" in command
    assert "--kubelet-preferred-address-types=InternalIP" in command
    assert not any("disable-admission-plugins" in flag for flag in command)


def test_everything_listens_on_the_nodes_own_address() -> None:
    for part in PARTS.values():
        flags = [flag for flag in part.command if "bind-address" in flag or "listen" in flag]
        assert all(settings.NODE_IP in flag for flag in flags), part.name
        assert not part.health or settings.NODE_IP in part.health


def test_no_file_of_a_component_lies_outside_the_clusters_folders() -> None:
    kubelet = components.kubelet_config(PATHS, "/etc/resolv.conf")
    for key in ("podLogsDir", "volumePluginDir"):
        assert str(kubelet[key]).startswith("/s/")
    config = tomllib.loads(components.containerd_config(PATHS))
    assert config["root"] == "/s/containerd"
    assert config["state"] == "/r/containerd"
    assert config["grpc"]["address"] == "/r/containerd.sock"


def test_images_are_never_collected_because_no_registry_has_them() -> None:
    assert components.kubelet_config(PATHS, "x")["imageGCHighThresholdPercent"] == 100


def test_containerd_may_run_without_cap_sys_resource() -> None:
    config = tomllib.loads(components.containerd_config(PATHS))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is True
    assert cri["sandbox_image"] == settings.PAUSE_IMAGE
    assert cri["containerd"]["runtimes"]["runc"]["options"]["Root"] == "/r/runc"


def test_coredns_forwards_only_where_the_host_has_name_servers() -> None:
    assert "forward . /etc/resolv.conf" in components.corefile(PATHS, "/etc/resolv.conf", True)
    assert "forward" not in components.corefile(PATHS, "/etc/resolv.conf", False)


def test_every_plugin_of_the_corefile_is_compiled_in() -> None:
    source = (gotools.TOOLS_DIR / "kubernetes/coredns/main.go").read_text()
    lines = components.corefile(PATHS, "/etc/resolv.conf", True).splitlines()
    plugins = [line.split()[0] for line in lines if line.startswith("    ") and line[4] not in " }"]
    assert plugins
    for plugin in plugins:
        assert f'coredns/plugin/{plugin}"' in source


def test_configuration_files_are_json() -> None:
    documents = [components.kube_proxy_config(PATHS), components.cni_config(PATHS)]
    documents += components.kubeadm_config(PATHS)
    assert all(json.loads(json.dumps(document)) == document for document in documents)


def test_folders_come_from_the_environment() -> None:
    paths = Paths.from_env({"UMIM_CLUSTER_DIR": "/data/c", "HOME": "/home/u"})
    assert paths.kubeconfig == Path("/data/c/kubeconfig")
    assert paths.cache == Path("/home/u/.cache/umim")
    assert Paths.from_env({}).state == Path("/var/lib/umim-cluster")


@pytest.mark.parametrize("value", ["relative/path", "/"])
def test_a_folder_that_is_no_absolute_path_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match=f"UMIM_CLUSTER_DIR={value}"):
        Paths.from_env({"UMIM_CLUSTER_DIR": value})
