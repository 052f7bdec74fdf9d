"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from umim.cli import complete
from umim.cli.output import Format

Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="Namespace. Default: that of the kubeconfig's context.",
        autocompletion=complete.namespaces,
    ),
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")]
Output = Annotated[Format, typer.Option("--output", "-o", help="Form of the output.")]
Context = Annotated[
    str | None,
    typer.Option(
        "--context",
        help="Context of the kubeconfig. Default: its current one.",
        autocompletion=complete.kubeconfig_contexts,
    ),
]
Endpoint = Annotated[
    str | None, typer.Option(help="URL of the object store. Default: UMIM_S3_ENDPOINT, or the operator's.")
]
OperatorNamespace = Annotated[
    str,
    typer.Option(
        help="Namespace of the operator, to find the store when UMIM_S3_* are not set.",
        autocompletion=complete.namespaces,
    ),
]
