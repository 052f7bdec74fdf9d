"""Builds the cluster's programs from released Go modules, once per pinned version.

The pins are the go.mod and go.sum files under tools/. Binaries lie in <cache>/bin/<digest>/, the digest
being that of the pins and the build flags: a fresh clone on the same machine builds nothing.

One module holds Kubernetes, etcd, CoreDNS and Helm. etcd is the version that kubeadm 1.34.4
itself names, CoreDNS 1.12.4 and Helm 3.19 are written against Kubernetes 1.34, so their dependencies agree
and the bulk
of the packages is compiled once. Those of MinIO, of Kueue, of the OpenTelemetry Collector and of Jaeger do not agree;
each has a module of its own. Of the Collector only the few components are built that the chart configures: a minute on
two cores. Jaeger compiles all its stores: four minutes.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster import golang
from hack.cluster.progress import ClusterError, Progress
from hack.cluster.settings import HELM_VERSION, KUBERNETES_VERSION

TOOLS_DIR = Path(__file__).parent / "tools"
POLL_S = 0.5


@dataclass(frozen=True)
class Module:
    """A folder with go.mod and go.sum. tools: program name -> Go package."""

    name: str
    tools: Mapping[str, str]
    ldflags: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The module's folder."""
        return TOOLS_DIR / self.name


def _version_flags() -> tuple[str, ...]:
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    values = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    flags = [f"-X {package}.{key}={value}" for package in packages for key, value in values.items()]
    # Without these Helm takes every cluster that it cannot ask (template, lint) for Kubernetes 1.20.
    helm = {"internal/version.version": HELM_VERSION}
    helm |= {"pkg/chartutil.k8sVersionMajor": major, "pkg/chartutil.k8sVersionMinor": minor}
    return (*flags, *(f"-X helm.sh/helm/v3/{name}={value}" for name, value in helm.items()))


_KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "kubeadm",
)
MODULES = (
    Module(
        "kubernetes",
        {name: f"k8s.io/kubernetes/cmd/{name}" for name in _KUBERNETES}
        | {
            "etcd": "go.etcd.io/etcd/server/v3",
            "coredns": "umim.invalid/hack/cluster/tools/kubernetes/coredns",
            "helm": "helm.sh/helm/v3/cmd/helm",
        },
        _version_flags(),
    ),
    Module("minio", {"minio": "github.com/minio/minio"}),
    Module("kueue", {"kueue": "sigs.k8s.io/kueue/cmd/kueue"}),
    Module("telemetry", {"otelcol": "umim.invalid/hack/cluster/tools/telemetry/otelcol"}),
    Module("jaeger", {"jaeger": "github.com/jaegertracing/jaeger/cmd/jaeger"}),
)
TOOLS = tuple(name for module in MODULES for name in module.tools)
CLUSTER_TOOLS = tuple(MODULES[0].tools)
"""What `up` builds: one `go build` compiles what they share only once."""

BUILD_FLAGS = ("-trimpath", "-buildvcs=false", "-pgo=off", "-gcflags=all=-dwarf=false")
"""No debug information: it costs a tenth of the compile time and nothing here reads it."""


def module_of(tool: str) -> Module:
    """The module that builds a tool. Raises ClusterError for an unknown name."""
    for module in MODULES:
        if tool in module.tools:
            return module
    raise ClusterError(f"tool {tool!r} is unknown; allowed: {', '.join(TOOLS)}")


def flags_of(module: Module) -> list[str]:
    """The `go build` flags that influence a module's binaries."""
    return [*BUILD_FLAGS, "-ldflags=" + " ".join(("-s", "-w", *module.ldflags))]


def digest(files: Mapping[str, bytes], flags: Sequence[str]) -> str:
    """Cache key: sha256 over the file names, contents and flags, 16 hex digits."""
    sha = hashlib.sha256()
    for part in [*(piece for name in sorted(files) for piece in (name.encode(), files[name])), *map(str.encode, flags)]:
        sha.update(len(part).to_bytes(8, "big") + part)
    return sha.hexdigest()[:16]


def bin_dir(module: Module, cache: Path) -> Path:
    """Folder of a module's binaries."""
    names = sorted(p for p in module.path.rglob("*") if p.name in ("go.mod", "go.sum") or p.suffix == ".go")
    files = {str(p.relative_to(module.path)): p.read_bytes() for p in names}
    return cache / "bin" / digest(files, flags_of(module))


def tool_path(tool: str, cache: Path) -> Path:
    """Where a tool's binary lies, or will lie once built."""
    return bin_dir(module_of(tool), cache) / tool


@contextmanager
def locked(path: Path, progress: Progress, what: str) -> Iterator[None]:
    """Hold an exclusive lock file; say so when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step(f"waiting for another process that {what}"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def source(tool: str, cache: Path, progress: Progress) -> Path:
    """Folder with the source of a tool's module, read-only, fetched if need be: its chart, its CRDs.

    Raises ClusterError when it cannot be had.
    """
    module = module_of(tool)
    go, env = golang.ensure_go(cache, progress), golang.build_env(os.environ)
    package = ["list", "-f", "{{.Module.Path}}", module.tools[tool]]
    answers: list[str] = []
    for command in (package, ["mod", "download", "-json"]):
        done = subprocess.run(
            [go, *command, *answers], cwd=module.path, env=env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ClusterError(f"go {' '.join(command)} failed in {module.path}: {done.stderr.strip()[-600:]}")
        answers.append(done.stdout.strip())
    return Path(json.loads(answers[1])["Dir"])


def ensure(tools: Sequence[str], cache: Path, progress: Progress) -> dict[str, Path]:
    """Build what is missing of `tools`; return every tool's path.

    Raises ClusterError when Go cannot be had or a build fails; what the compiler did until then stays in
    Go's own cache, so a second try continues.
    """
    paths = {tool: tool_path(tool, cache) for tool in tools}
    for module in MODULES:
        wanted = [tool for tool in module.tools if tool in paths and not paths[tool].exists()]
        if not wanted:
            continue
        with locked(cache / f"build-{module.name}.lock", progress, f"builds {module.name}"):
            missing = [tool for tool in wanted if not paths[tool].exists()]
            if missing:
                _Build(module, missing, cache, progress).run()
    return paths


@dataclass
class _Build:
    """One `go build` of several programs of a module, with progress."""

    module: Module
    tools: Sequence[str]
    cache: Path
    progress: Progress
    packages: int = 0
    last: str = "loading modules"
    errors: list[str] = field(default_factory=list)

    def run(self) -> None:
        target = bin_dir(self.module, self.cache)
        partial = target.with_name(f"{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        title = f"building {len(self.tools)} of the Go tools ({self.module.name} module)"
        with self.progress.step(title, self._detail):
            self._go_build(golang.ensure_go(self.cache, self.progress), partial)
        target.mkdir(exist_ok=True)
        for tool in self.tools:
            (partial / self._output(tool)).replace(target / tool)
        shutil.rmtree(partial)

    def _output(self, tool: str) -> str:
        """The name `go build` gives a program: its path's last element that is not a major version."""
        parts = self.module.tools[tool].split("/")
        return parts[-2] if parts[-1][0] == "v" and parts[-1][1:].isdigit() else parts[-1]

    def _finished(self, partial: Path) -> list[str]:
        return [tool for tool in self.tools if (partial / self._output(tool)).exists()]

    def _detail(self) -> str:
        return f"{self.packages} packages compiled, now {self.last}"

    def _go_build(self, go: Path, partial: Path) -> None:
        command = [str(go), "build", "-v", *flags_of(self.module), "-o", f"{partial}/"]
        command += [self.module.tools[tool] for tool in self.tools]
        process = subprocess.Popen(
            command, cwd=self.module.path, env=golang.build_env(os.environ), stderr=subprocess.PIPE, text=True
        )
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        try:
            self._watch(process, partial)
        finally:
            process.kill()
            process.wait()
        reader.join()
        if process.returncode:
            tail = "\n".join(self.errors[-15:])
            raise ClusterError(
                f"go build failed in {self.module.path}; run the same command again to continue:\n{tail}"
            )

    def _read(self, process: "subprocess.Popen[str]") -> None:
        for line in process.stderr or ():
            text = line.strip()
            if text.startswith("go: downloading"):
                self.last = text.removeprefix("go: ")
            elif " " in text:
                self.errors.append(text)
            else:
                self.packages += 1
                self.last = text

    def _watch(self, process: "subprocess.Popen[str]", partial: Path) -> None:
        begin = time.monotonic()
        seen: list[str] = []
        while True:
            running = process.poll() is None
            for tool in self._finished(partial):
                if tool not in seen:
                    seen.append(tool)
                    left = len(self.tools) - len(seen)
                    self.progress.line(
                        f"[{len(seen)}/{len(self.tools)}] {tool} … {time.monotonic() - begin:.0f} s, {left} left"
                    )
            if not running:
                return
            time.sleep(POLL_S)
