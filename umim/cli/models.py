"""``umim models``: list and fetch global models, and show where they come from."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from umim.api.artifacts import ModelManifest
from umim.artifacts.manifests import read_model_manifest
from umim.cli import card as cards
from umim.cli import complete, options, render, words
from umim.cli.kube import Cluster
from umim.cli.output import Format, json_list, show, show_found, show_json, show_text
from umim.cli.pull import pull_model, pull_parts
from umim.cli.resources import Hospital, Model, Round
from umim.cli.resources import lineage as ancestors
from umim.cli.store import open_store
from umim.errors import AccessDeniedError, ConfigError, NotFoundError, StoreError

app = typer.Typer(no_args_is_help=True, help="Published global models.")

T = TypeVar("T")

Name = Annotated[
    str, typer.Argument(help="Name of the GlobalModel.", autocompletion=complete.resources("globalmodels"))
]


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
def card(
    name: Name,
    namespace: options.Namespace = None,
    endpoint: options.Endpoint = None,
    operator_namespace: options.OperatorNamespace = "umim-system",
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """Write a model card in Markdown: how to load the model, its data, figures, privacy, lineage and limits.

    Holds what your rights let you read: the store's manifest, the round and the Hospitals. What is missing is listed.
    """
    cluster = Cluster.connect(context)
    chosen = namespace or cluster.namespace
    missing: list[str] = []

    def manifest() -> ModelManifest:
        with open_store(cluster, os.environ, endpoint, operator_namespace) as store:
            return read_model_manifest(store, model.spec.digest)

    model = cluster.model(chosen, name)
    found = cards.Known(
        chain=ancestors(name, cluster.models(chosen)),
        manifest=_if_readable(manifest, "the manifest in the store", missing),
        round=_if_readable(lambda: _round_of(cluster, model), f"round {model.spec.round.name}", missing),
        hospitals=_hospitals_of(cluster, model, missing),
        missing=missing,
    )
    written = cards.card(found)
    if output is Format.json:
        show_json(written)
    else:
        show_text(cards.markdown(written).removesuffix("\n"))


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
        show_text(f"\nLoad it with timm:\n\n{words.loading_code(str(target), manifest)}")


def _if_readable(read: Callable[[], T], what: str, missing: list[str]) -> T | None:
    """Return what ``read`` returns; where it is not there or may not be read, None and a sentence in ``missing``.

    Damage (ArtifactError) and a cluster that does not answer are errors all the same.
    """
    try:
        return read()
    except AccessDeniedError:
        missing.append(f"{what}: you may not read it")
    except NotFoundError:
        missing.append(f"{what}: it is not there")
    except StoreError:
        missing.append(f"{what}: the store does not answer")
    except ConfigError as error:
        missing.append(f"{what}: {error}")
    return None


def _round_of(cluster: Cluster, model: Model) -> Round:
    """Return the round that made the model. Raises NotFoundError where another one has its name now."""
    found = cluster.round(model.namespace, model.spec.round.name)
    if found.raw["metadata"]["uid"] != model.spec.round.uid:
        raise NotFoundError(f"round {found.name} was made anew since")
    return found


def _hospitals_of(cluster: Cluster, model: Model, missing: list[str]) -> dict[str, Hospital]:
    """Return the Hospitals of the model's contributors that may be read, by site."""
    found = {}
    for one in model.spec.contributors:
        namespace, _, name = one.site.partition(".")
        hospital = _if_readable(partial(cluster.hospital, namespace, name), f"Hospital {one.site}", missing)
        if hospital is not None:
            found[one.site] = hospital
    return found
