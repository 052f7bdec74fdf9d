"""The components: command lines, configuration files and health addresses. Pure; `start` runs them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import settings as s
from hack.cluster.settings import Paths

SYSTEM_TOOLS = ("containerd",)
"""Components that Debian ships; the others are built."""


@dataclass(frozen=True)
class Component:
    """One daemon. health: address that answers 200 when it works ("" for containerd: its socket does)."""

    name: str
    command: tuple[str, ...]
    health: str


def _flags(**values: object) -> tuple[str, ...]:
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in values.items())


def _etcd(paths: Paths) -> tuple[str, ...]:
    pki, peer = paths.pki / "etcd", f"https://{s.NODE_IP}:2380"
    return _flags(
        name="umim",
        data_dir=paths.state / "etcd",
        listen_client_urls=f"https://{s.NODE_IP}:2379",
        advertise_client_urls=f"https://{s.NODE_IP}:2379",
        listen_peer_urls=peer,
        initial_advertise_peer_urls=peer,
        initial_cluster=f"umim={peer}",
        listen_metrics_urls=f"http://{s.NODE_IP}:2381",
        cert_file=pki / "server.crt",
        key_file=pki / "server.key",
        client_cert_auth="true",
        trusted_ca_file=pki / "ca.crt",
        peer_cert_file=pki / "peer.crt",
        peer_key_file=pki / "peer.key",
        peer_client_cert_auth="true",
        peer_trusted_ca_file=pki / "ca.crt",
        # A killed process loses nothing by it; only a host that loses power does.
        unsafe_no_fsync="true",
    )


def _apiserver(paths: Paths) -> tuple[str, ...]:
    pki = paths.pki
    return _flags(
        advertise_address=s.NODE_IP,
        bind_address=s.NODE_IP,
        secure_port=s.API_PORT,
        allow_privileged="true",
        authorization_mode="Node,RBAC",
        enable_admission_plugins="NodeRestriction",
        client_ca_file=pki / "ca.crt",
        tls_cert_file=pki / "apiserver.crt",
        tls_private_key_file=pki / "apiserver.key",
        etcd_servers=f"https://{s.NODE_IP}:2379",
        etcd_cafile=pki / "etcd/ca.crt",
        etcd_certfile=pki / "apiserver-etcd-client.crt",
        etcd_keyfile=pki / "apiserver-etcd-client.key",
        kubelet_client_certificate=pki / "apiserver-kubelet-client.crt",
        kubelet_client_key=pki / "apiserver-kubelet-client.key",
        # The node's name resolves nowhere; by default logs and exec would look it up.
        kubelet_preferred_address_types="InternalIP",
        proxy_client_cert_file=pki / "front-proxy-client.crt",
        proxy_client_key_file=pki / "front-proxy-client.key",
        requestheader_client_ca_file=pki / "front-proxy-ca.crt",
        requestheader_allowed_names="front-proxy-client",
        requestheader_extra_headers_prefix="X-Remote-Extra-",
        requestheader_group_headers="X-Remote-Group",
        requestheader_username_headers="X-Remote-User",
        service_account_issuer="https://kubernetes.default.svc.cluster.local",
        service_account_key_file=pki / "sa.pub",
        service_account_signing_key_file=pki / "sa.key",
        service_cluster_ip_range=s.SERVICE_CIDR,
        profiling="false",
    )


def _client_flags(paths: Paths, name: str) -> dict[str, object]:
    config = paths.kubeconfigs / f"{name}.conf"
    return {
        "kubeconfig": config,
        "authentication_kubeconfig": config,
        "authorization_kubeconfig": config,
        "bind_address": s.NODE_IP,
        "leader_elect": "false",
        "profiling": "false",
    }


def _controller_manager(paths: Paths) -> tuple[str, ...]:
    return _flags(
        **_client_flags(paths, "controller-manager"),
        cluster_cidr=s.POD_CIDR,
        flex_volume_plugin_dir=paths.state / "kubelet/volume-plugins",
        cluster_signing_cert_file=paths.pki / "ca.crt",
        cluster_signing_key_file=paths.pki / "ca.key",
        root_ca_file=paths.pki / "ca.crt",
        service_account_private_key_file=paths.pki / "sa.key",
        service_cluster_ip_range=s.SERVICE_CIDR,
        use_service_account_credentials="true",
    )


def _kubelet(paths: Paths) -> tuple[str, ...]:
    return _flags(
        config=paths.config / "kubelet.json",
        kubeconfig=paths.kubeconfigs / "kubelet.conf",
        hostname_override=s.NODE_NAME,
        node_ip=s.NODE_IP,
        root_dir=paths.state / "kubelet",
        cert_dir=paths.state / "kubelet/pki",
    )


def components(paths: Paths, tools: Mapping[str, Path]) -> dict[str, Component]:
    """All components by name, in the order in which they start. tools: built programs by name."""
    node = s.NODE_IP
    parts: list[tuple[str, tuple[str, ...], str]] = [
        ("containerd", ("--config", str(paths.config / "containerd.toml")), ""),
        ("etcd", _etcd(paths), f"http://{node}:2381/health"),
        ("kube-apiserver", _apiserver(paths), f"{s.API_URL}/readyz"),
        ("kube-controller-manager", _controller_manager(paths), f"https://{node}:10257/healthz"),
        ("kube-scheduler", _flags(**_client_flags(paths, "scheduler")), f"https://{node}:10259/readyz"),
        ("kube-proxy", _flags(config=paths.config / "kube-proxy.json"), f"http://{node}:10256/healthz"),
        ("kubelet", _kubelet(paths), f"http://{node}:10248/healthz"),
        ("coredns", ("-conf", str(paths.config / "Corefile")), f"http://{node}:8181/ready"),
    ]
    return {
        name: Component(name, (name if name in SYSTEM_TOOLS else str(tools[name]), *flags), health)
        for name, flags, health in parts
    }


# Configuration files --------------------------------------------------------------------------------


def kubelet_config(paths: Paths, resolv_conf: str) -> dict[str, object]:
    """KubeletConfiguration (kubelet.config.k8s.io/v1beta1)."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(paths.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "address": s.NODE_IP,
        "healthzBindAddress": s.NODE_IP,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{s.CGROUP}",
        "clusterDNS": [s.DNS_IP],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
        "failSwapOn": False,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        # 100 turns image collection off: there is no registry to fetch an image from again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 110,
        # The process may lack CAP_SYS_RESOURCE and then cannot lower it.
        "oomScoreAdj": 0,
        "podLogsDir": str(paths.pod_logs),
        "resolvConf": resolv_conf,
        "serializeImagePulls": False,
        "volumePluginDir": str(paths.state / "kubelet/volume-plugins"),
    }


def kube_proxy_config(paths: Paths) -> dict[str, object]:
    """KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1)."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": s.NODE_NAME,
        "clusterCIDR": s.POD_CIDR,
        "clientConnection": {"kubeconfig": str(paths.kubeconfigs / "kube-proxy.conf")},
        "healthzBindAddress": f"{s.NODE_IP}:10256",
        "metricsBindAddress": f"{s.NODE_IP}:10249",
        # NodePorts on the node's address only; the host's other addresses are not ours.
        "nodePortAddresses": ["primary"],
        # 0 leaves the kernel's connection tracking limits as the host has them.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "oomScoreAdj": 0,
    }


def kubeadm_config(paths: Paths) -> list[dict[str, object]]:
    """InitConfiguration and ClusterConfiguration (kubeadm.k8s.io/v1beta4) for the phases in use."""
    api = "kubeadm.k8s.io/v1beta4"
    return [
        {
            "apiVersion": api,
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": s.NODE_IP, "bindPort": s.API_PORT},
            "nodeRegistration": {"name": s.NODE_NAME, "criSocket": f"unix://{paths.containerd_socket}"},
        },
        {
            "apiVersion": api,
            "kind": "ClusterConfiguration",
            "clusterName": "umim",
            "kubernetesVersion": s.KUBERNETES_VERSION,
            "certificatesDir": str(paths.pki),
            "controlPlaneEndpoint": f"{s.NODE_IP}:{s.API_PORT}",
            "networking": {
                "serviceSubnet": s.SERVICE_CIDR,
                "podSubnet": s.POD_CIDR,
                "dnsDomain": "cluster.local",
            },
        },
    ]


def cni_config(paths: Paths) -> dict[str, object]:
    """CNI network list: one bridge, addresses kept below the runtime folder."""
    bridge = {
        "type": "bridge",
        "bridge": s.POD_BRIDGE,
        "isGateway": True,
        "hairpinMode": True,  # a pod may reach itself through its own Service
        "ipam": {
            "type": "host-local",
            "dataDir": str(paths.run / "cni"),
            "ranges": [[{"subnet": s.POD_CIDR, "gateway": s.POD_GATEWAY}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {"cniVersion": "0.4.0", "name": s.POD_BRIDGE, "plugins": [bridge]}


def corefile(paths: Paths, resolv_conf: str, nameservers: bool) -> str:
    """CoreDNS's Corefile. Without name servers on the host, only the cluster's names resolve."""
    lines = [
        ".:53 {",
        f"    bind {s.NODE_IP}",
        "    errors",
        f"    health {s.NODE_IP}:8080",
        f"    ready {s.NODE_IP}:8181",
        "    kubernetes cluster.local in-addr.arpa ip6.arpa {",
        f"        kubeconfig {paths.kubeconfigs / 'coredns.conf'}",
        "        pods insecure",
        "        fallthrough in-addr.arpa ip6.arpa",
        "        ttl 5",
        "    }",
        *([f"    forward . {resolv_conf}"] if nameservers else []),
        "    cache 30",
        "    loadbalance",
        "}",
        "",
    ]
    return "\n".join(lines)


def containerd_config(paths: Paths) -> str:
    """containerd's config.toml (version 2). Own root, state and sockets; Debian's instance is untouched."""
    cri = '[plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{paths.state}/containerd"
state = "{paths.run}/containerd"

[grpc]
  address = "{paths.containerd_socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{paths.state}/containerd/opt"

{cri}]
  sandbox_image = "{s.PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE a lower oom_score_adj is refused and runc dies with a bare EOF.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

{cri}.cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{paths.config}/cni"

{cri}.containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"

{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

{cri}.containerd.runtimes.runc.options]
  Root = "{paths.run}/runc"
  SystemdCgroup = false
"""
