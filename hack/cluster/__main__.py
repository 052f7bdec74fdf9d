"""Command line of the embedded cluster: ``python3 -m hack.cluster --help``."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hack.cluster import cluster, gotools, images, status
from hack.cluster.progress import ClusterError, Progress, clock
from hack.cluster.settings import Paths


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m hack.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="build what is missing and start the cluster; harmless when it runs")
    down = commands.add_parser("down", help="stop it and remove everything it left on the host")
    down.add_argument("--purge", action="store_true", help="also delete its state (etcd, images, logs)")
    commands.add_parser("status", help="what runs and how it is; exit status 0 when healthy")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    tool = commands.add_parser("tool", help="build a program if needed and print its path")
    tool.add_argument("name", metavar="NAME", help=", ".join(gotools.TOOLS))
    load = commands.add_parser("load-image", help="import OCI archives into the cluster")
    load.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    return parser


def _run(arguments: argparse.Namespace, paths: Paths, progress: Progress) -> int:
    match arguments.command:
        case "up":
            cluster.up(paths, progress)
        case "down":
            cluster.down(paths, progress, purge=arguments.purge)
        case "status":
            text, healthy = status.report(paths)
            print(text)
            return 0 if healthy else 1
        case "kubeconfig":
            print(paths.kubeconfig)
        case "tool":
            gotools.module_of(arguments.name)
            print(gotools.ensure([arguments.name], paths.cache, progress)[arguments.name])
        case "load-image":
            images.load(paths, arguments.archives, progress)
    return 0


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit status. Failures the user can act on are one sentence."""
    arguments = _parser().parse_args(argv)
    progress = Progress()
    try:
        return _run(arguments, Paths.from_env(os.environ), progress)
    except (ClusterError, ValueError) as error:
        print(f"error after {clock(progress.elapsed)}: {error}", file=sys.stderr)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or "").strip()
        print(f"error: '{' '.join(map(str, error.cmd))}' failed: {reason}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
