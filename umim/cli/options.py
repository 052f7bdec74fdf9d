"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from umim.cli.output import Format

Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace. Default: that of the kubeconfig's context.")
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")]
Output = Annotated[Format, typer.Option("--output", "-o", help="Form of the output.")]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig. Default: its current one.")]
