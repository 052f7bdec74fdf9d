"""Command line of the image builder: `python3 -m hack.images --help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hack.cluster.progress import ClusterError
from hack.cluster.settings import Paths
from hack.images import check, constraints, deliver, report, sbom
from hack.images.build import Builder
from hack.images.buildah import require_root
from hack.images.steps import ImageError
from hack.images.workspace import default_workspace


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    top = argparse.ArgumentParser(prog="python3 -m hack.images", description="Build and deliver UMIM's images.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--tag", default="dev", help="tag of the images (default: dev)")
    common.add_argument("--target", choices=["cpu", "gpu"], default="cpu", help="processor (default: cpu)")
    names = argparse.ArgumentParser(add_help=False, parents=[common])
    names.add_argument("names", nargs="*", metavar="NAME", help="images (default: all that a cluster runs)")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("build", parents=[names], help="build what changed")
    commands.add_parser("load", parents=[names], help="build, then import into the embedded cluster what it lacks")
    commands.add_parser("check", parents=[names], help="build, then prove users, missing compilers, BLAS; print sizes")
    archive = commands.add_parser(
        "archive", parents=[common], help="build, then write an OCI archive and bills of materials"
    )
    archive.add_argument("file", type=Path, metavar="FILE", help="archive to write (for kind, k3d, ctr, podman)")
    archive.add_argument("names", nargs="*", metavar="NAME", help="images (default: all that a cluster runs)")
    bill = commands.add_parser("sbom", parents=[common], help="build, then copy the images' bills of materials")
    bill.add_argument("folder", type=Path, metavar="FOLDER", help="where to write NAME.cdx.json (CycloneDX 1.6)")
    bill.add_argument("names", nargs="*", metavar="NAME", help="images (default: all that a cluster runs)")
    push = commands.add_parser("push", parents=[common], help="build, then push to a registry")
    push.add_argument("registry", metavar="REGISTRY", help="where to, with the path, without the image's name")
    push.add_argument("names", nargs="*", metavar="NAME", help="images (default: all that a cluster runs)")
    push.add_argument("--plain-http", action="store_true", help="the registry speaks HTTP (a local one of k3d or kind)")
    commands.add_parser("list", parents=[common], help="list the images")
    commands.add_parser("sizes", parents=[common], help="print sizes and how much is shared")
    commands.add_parser("clean", help="remove storage, logs and downloads of the builder")
    commands.add_parser("constraints", help="resolve constraints.txt anew from pyproject.toml")
    return top


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for.

    Raises:
        ImageError: a step failed; the message says what to do.
        ValueError: an argument is wrong.
    """
    workspace = default_workspace(dict(os.environ))
    if arguments.command == "constraints":
        constraints.write()
        return
    require_root()
    if arguments.command == "clean":
        deliver.clean(workspace)
        return
    tag, target = arguments.tag, arguments.target
    if arguments.command == "list":
        report.print_list(workspace, tag, target)
    elif arguments.command == "sizes":
        report.print_sizes(workspace, tag, target)
    else:
        if arguments.command == "archive" and not arguments.file.absolute().parent.is_dir():
            raise ImageError(f"{arguments.file}: the folder {arguments.file.absolute().parent} does not exist")
        images = Builder(workspace, tag, target).build(arguments.names)
        if arguments.command == "load":
            deliver.load(workspace, images, tag, target, Paths.from_env(os.environ))
        elif arguments.command == "archive":
            deliver.archive(workspace, images, tag, target, arguments.file)
            sbom.copy(workspace, images, tag, target, f"{arguments.file}.")
        elif arguments.command == "sbom":
            sbom.copy(workspace, images, tag, target, f"{arguments.folder}/")
        elif arguments.command == "push":
            deliver.push(workspace, images, tag, target, arguments.registry, plain_http=arguments.plain_http)
        elif arguments.command == "check":
            check.check(workspace, images, tag, target)
            report.print_sizes(workspace, tag, target)


def main() -> int:
    """Run the command line; return the exit status (1 with a sentence on standard error when something failed)."""
    try:
        run(parser().parse_args())
    except (ImageError, ClusterError, ValueError, FileNotFoundError) as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("images: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
