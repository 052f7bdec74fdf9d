import os
import subprocess
import sys

import pytest

from hack.cluster import proc


def test_the_mark_names_the_component_and_foreign_processes_have_none() -> None:
    assert proc.marker_of(b"PATH=/bin\0UMIM_EMBEDDED_CLUSTER=kubelet\0HOME=/root\0") == "kubelet"
    assert proc.marker_of(b"PATH=/bin\0X_UMIM_EMBEDDED_CLUSTER=kubelet\0") == ""
    assert proc.marker_of(b"") == ""


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("9:name=systemd:/\n4:memory:/umim-cluster/kubepods/besteffort/pod1/abc\n0::/\n", True),
        ("0::/umim-cluster\n", True),
        ("0::/umim-cluster-of-another/x\n", False),
        ("4:memory:/kubepods/pod1\n0::/\n", False),
        ("", False),
    ],
)
def test_a_pods_process_is_known_by_the_clusters_cgroup(text: str, inside: bool) -> None:
    assert proc.in_cgroup(text) is inside


def test_a_command_name_with_spaces_and_brackets_does_not_shift_the_fields_of_stat() -> None:
    fields = ["S", "1", "42", "42", *["0"] * 15, "777", "0", "99"]
    assert proc.parse_stat(f"42 (a) b (c) {' '.join(fields)}") == ("S", 42, 777, 99)


def test_this_test_is_no_process_of_the_cluster() -> None:
    assert os.getpid() not in {found.pid for found in proc.processes()}


def test_a_process_that_ignores_sigterm_is_killed_and_others_are_left() -> None:
    ignore = (
        "import signal,sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); sys.stdin.read()"
    )

    def start() -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            [sys.executable, "-c", ignore], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "on\n"
        return child

    with start() as victim, start() as other:
        target = proc.Process(victim.pid, "x", "", True, 0, 0)
        proc.stop(lambda: [target] if victim.poll() is None else [], grace_s=0.2)
        assert victim.wait(timeout=10) < 0
        assert other.poll() is None
        other.kill()


def test_waiting_ends_when_the_condition_never_holds() -> None:
    assert proc.wait_until(lambda: True, 0)
    assert not proc.wait_until(lambda: False, 0.1)
