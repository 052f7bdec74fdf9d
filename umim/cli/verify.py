"""``umim verify`` and ``umim keygen``: who vouches for a model, and the keys to vouch with."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table
from rich.text import Text

from umim import contract
from umim.api.base import DIGEST_PATTERN
from umim.artifacts.chain import FolderModels, Link, StoreModels, read_trust, verify_chain
from umim.artifacts.local import LocalStore
from umim.artifacts.signing import Signer, key_id
from umim.cli import options
from umim.cli.kube import Cluster
from umim.cli.output import Format, show_json, show_list, show_text
from umim.cli.render import list_table
from umim.cli.store import open_store
from umim.cli.words import short
from umim.errors import ArtifactError, ConfigError

NOT_VOUCHED_FOR = 1


def verify(
    model: Annotated[
        str,
        typer.Argument(
            help="Name of a GlobalModel, a folder as `umim models pull` writes it, or a digest in the store of --store."
        ),
    ],
    trust: Annotated[
        Path, typer.Option(help="File of trusted keys: lines of an owner (namespace.name, or federation) and its key.")
    ],
    parent: Annotated[
        list[Path] | None, typer.Option(help="Folder of an ancestor, for a model in a folder. Once for each.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder of a store, as `umim simulate` writes it or a copy of a bucket.")
    ] = None,
    namespace: options.Namespace = None,
    endpoint: options.Endpoint = None,
    operator_namespace: options.OperatorNamespace = "umim-system",
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """Check a model and its ancestors down to the start model: bytes, signatures, contributors.

    A folder, and a digest with --store, are checked offline. Exit codes: 0 trusted keys vouch for all; 1 intact, but
    something is not signed or signed with another key; 66 a model of the chain is missing; 76 damaged or forged.
    """
    trusted = read_trust(trust)
    if store is not None:
        if re.fullmatch(DIGEST_PATTERN, model) is None:
            raise ConfigError(f"--store needs the digest of a model, 64 hexadecimal digits; {model!r} is none")
        _show(verify_chain(StoreModels(LocalStore(store)), model, trusted), output)
    elif Path(model).is_dir():
        folders = FolderModels([Path(model), *(parent or [])])
        _show(verify_chain(folders, folders.digests[0], trusted), output)
    else:
        cluster = Cluster.connect(context)
        spec = cluster.model(namespace or cluster.namespace, model).spec
        with open_store(cluster, os.environ, endpoint, operator_namespace) as opened:
            chain = verify_chain(StoreModels(opened), spec.digest, trusted)
        if spec.signature != chain[0].manifest.signature:
            raise ArtifactError(
                f"GlobalModel {model} has another signature than the manifest of its model in the store"
            )
        _show(chain, output)


def keygen(
    owner: Annotated[str, typer.Argument(help="Name of the Hospital, or federation for the key of a federation.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace where the Secret will lie.")],
    out: Annotated[Path, typer.Option(help="File for the Secret with the private key. It must not exist.")],
    output: options.Output = Format.table,
) -> None:
    """Make an Ed25519 key: a Secret as a file that only you can read, and the public key to publish. Needs no cluster.

    The private key is nowhere but in that file. Apply it in the namespace, then remove the file.
    """
    signer = Signer.new()
    manifest = signing_secret(owner, namespace, signer)
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be made: {error.strerror}. It holds a private key: name a new file"
        ) from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        yaml.safe_dump(manifest, file, sort_keys=False)
    public, identity = signer.public_key, key_id(signer.public_key)
    if output is Format.json:
        show_json({"publicKey": public, "keyId": identity, "secretFile": str(out.resolve())})
    else:
        show_text(f"public key: {public}\nkey id:     {identity}\nsecret:     {out}")


def signing_secret(owner: str, namespace: str, signer: Signer) -> dict[str, Any]:
    """Return the Secret from which the Jobs of a hospital, or of the federation's server, take their key."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": contract.signing_name(owner),
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "umim"},
        },
        "type": "Opaque",
        "stringData": {contract.SIGNING_FILE: signer.to_pem()},
    }


def _show(chain: Sequence[Link], output: Format) -> None:
    """Print the chain and end with the exit code that it deserves."""
    if output is Format.json:
        show_json({"models": [_json(link) for link in chain]})
    else:
        show_list(chain_table(chain))
        for link in chain:
            for kind, found in (("damaged", link.damage), ("not vouched for", link.gaps)):
                for text in found:
                    show_text(f"{kind}: model {short(link.manifest.file.digest)}: {text}")
    if any(link.damage for link in chain):
        raise typer.Exit(ArtifactError.exit_code)
    if any(link.gaps for link in chain):
        raise typer.Exit(NOT_VOUCHED_FOR)


def chain_table(chain: Sequence[Link]) -> Table:
    """Return one row a model, newest first."""
    table = list_table("MODEL", "STRATEGY", "SITES", "ATTESTED", "VERDICT")
    for link in chain:
        manifest = link.manifest
        verdict = "damaged" if link.damage else "not vouched for" if link.gaps else "verified"
        table.add_row(
            short(manifest.file.digest),
            Text(manifest.strategy),
            str(len(manifest.contributors)),
            str(len(manifest.attestations)),
            verdict,
        )
    return table


def _json(link: Link) -> dict[str, Any]:
    manifest = link.manifest
    return {
        "digest": manifest.file.digest,
        "strategy": manifest.strategy,
        "contributors": [one.site for one in manifest.contributors],
        "damage": list(link.damage),
        "gaps": list(link.gaps),
    }
