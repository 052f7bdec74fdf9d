"""``umim models``: list and fetch global models, and show where they come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from umim.cli import options, render
from umim.cli.kube import Cluster
from umim.cli.output import Format, json_list, show, show_found, show_json, show_text
from umim.cli.pull import pull_model, pull_parts
from umim.cli.resources import lineage as ancestors
from umim.cli.store import open_store

app = typer.Typer(no_args_is_help=True, help="Published global models.")

Name = Annotated[str, typer.Argument(help="Name of the GlobalModel.")]


@app.command("list")
def list_models(
    namespace: options.Namespace = None,
    all_namespaces: options.AllNamespaces = False,
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """List models with digest, architecture and strategy."""
    cluster = Cluster.connect(context)
    models = cluster.models(None if all_namespaces else namespace or cluster.namespace)
    show_found(models, render.models_table, output)


@app.command()
def lineage(
    name: Name,
    namespace: options.Namespace = None,
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """Show a model's ancestors and the sites that each holds. JSON: newest first."""
    cluster = Cluster.connect(context)
    chosen = namespace or cluster.namespace
    newest = cluster.model(chosen, name)
    chain = ancestors(newest.name, cluster.models(chosen))
    if output is Format.json:
        show_json(json_list([one.raw for one in chain]))
    else:
        show(render.lineage_tree(chain))


@app.command()
def pull(
    name: Name,
    folder: Annotated[Path | None, typer.Option("--dir", "-d", help="Folder to write to. Default: ./NAME.")] = None,
    parts: Annotated[
        Path | None,
        typer.Option(help="File for the MIM decoder and shared heads. Default: they are not fetched."),
    ] = None,
    namespace: options.Namespace = None,
    endpoint: options.Endpoint = None,
    operator_namespace: options.OperatorNamespace = "umim-system",
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """Fetch a model: model.safetensors and manifest.json, verified against the GlobalModel's digest.

    The store and its credentials come from --endpoint and UMIM_S3_*; what is missing is read from the operator's
    Deployment and Secret with your own rights in the cluster.
    """
    cluster = Cluster.connect(context)
    model = cluster.model(namespace or cluster.namespace, name)
    target = folder or Path(name)
    with open_store(cluster, os.environ, endpoint, operator_namespace) as store:
        manifest, fetched = pull_model(store, model.spec.digest, target)
        if parts is not None:
            pull_parts(store, model.name, model.spec, parts)
    if output is Format.json:
        show_json({"directory": str(target.resolve()), "fetched": fetched, "manifest": manifest.to_dict()})
    else:
        show(render.pulled(str(target), manifest, fetched))
        show_text(f"\nLoad it with timm:\n\n{render.loading_code(str(target), manifest)}")
