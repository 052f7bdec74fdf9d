"""A model card: what is known of a GlobalModel, for whoever is to use it. Pure.

The headings follow Mitchell et al. 2019 (Model Cards for Model Reporting, arXiv 1810.03993). What nobody recorded is
said to be unknown, never left out: a reader must see the difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from umim.api.artifacts import ModelManifest
from umim.api.globalmodel import Contributor
from umim.cli.resources import Hospital, Model, Round
from umim.cli.words import loading_code, size

Card = dict[str, Any]
"""The card as JSON: camelCase keys, None where something is not known."""

INPUT = "RGB (grey images three times), values from 0 to 1, then (x - 0.5) / 0.5"
"""How ``umim.data.transforms`` feeds the encoder."""
NOT_KNOWN = "not known"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&])")


@dataclass(frozen=True)
class Known:
    """What was found of a model. Only ``chain`` is always there."""

    chain: Sequence[Model]
    """The model and its ancestors, newest first."""
    manifest: ModelManifest | None = None
    """From the store."""
    round: Round | None = None
    """The round that made it."""
    hospitals: Mapping[str, Hospital] = field(default_factory=dict)
    """The contributors' Hospitals that may be read, by site."""
    missing: Sequence[str] = ()
    """Sentences: what could not be read."""


def card(known: Known) -> Card:
    """Return the card of the first model of the chain."""
    model = known.chain[0]
    spec = model.spec
    manifest = known.manifest.to_dict() if known.manifest is not None else {}
    raw = model.raw["spec"]
    return {
        "name": model.name,
        "namespace": model.namespace,
        "digest": spec.digest,
        "objectKey": spec.object_key,
        "sizeBytes": spec.size_bytes,
        "architecture": spec.architecture,
        "imageSize": spec.image_size,
        "input": INPUT,
        "parameters": _parameters(known.manifest),
        "created": raw["created"],
        "strategy": spec.strategy,
        "round": {"name": spec.round.name, "uid": spec.round.uid},
        "loading": loading_code(model.name, spec),
        "heads": [head.to_dict() for head in spec.heads],
        "partsDigest": spec.parts_digest,
        "images": sum(one.samples for one in spec.contributors),
        "contributors": [_contributor(one, known) for one in spec.contributors],
        "training": _training(known.round),
        "metrics": dict(sorted(spec.metrics.items())),
        "signature": raw.get("signature"),
        "seed": manifest.get("seed"),
        "software": manifest.get("software"),
        "lineage": [_ancestor(one) for one in known.chain],
        "lineageComplete": known.chain[-1].spec.parent is None,
        "notRead": list(known.missing),
    }


def markdown(one: Card) -> str:
    """Return the card as Markdown. Text from the cluster is escaped: it cannot add headings, HTML or table cells."""
    sections = (
        _head(one),
        _model(one),
        _data(one),
        _how(one),
        _metrics(one),
        _privacy(one),
        _lineage(one),
        _use(one),
        _provenance(one),
    )
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def escaped(text: Any) -> str:
    """Return text for a line or table cell of Markdown: shown as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _parameters(manifest: ModelManifest | None) -> int | None:
    if manifest is None:
        return None
    return sum(math.prod(info.shape) for info in manifest.file.tensors.values())


def _contributor(one: Contributor, known: Known) -> dict[str, Any]:
    metrics = {} if known.round is None else {site.name: site.metrics for site in known.round.status.sites}
    hospital = known.hospitals.get(one.site)
    entry = {**one.to_dict(), "metrics": metrics.get(one.site), "data": None, "privacy": None, "inLedger": None}
    if hospital is not None:
        entry["data"] = {key: hospital.raw["spec"]["data"].get(key) for key in ("format", "task", "taskName")}
        entry["privacy"] = hospital.spec.privacy.to_dict()
        entry["inLedger"] = any(part.update_digest == one.update_digest for part in hospital.status.ledger)
    return entry


def _training(one: Round | None) -> dict[str, Any] | None:
    if one is None:
        return None
    spec = one.spec.to_dict()
    names = ("training", "pretraining", "aggregation", "distillation")
    return {name: spec[name] for name in names if name in spec} | {"quorum": one.spec.participants.quorum}


def _ancestor(model: Model) -> dict[str, Any]:
    spec = model.spec
    return {
        "name": model.name,
        "digest": spec.digest,
        "strategy": spec.strategy,
        "round": spec.round.name,
        "parent": spec.parent.to_dict() if spec.parent else None,
        "contributors": {one.site: one.samples for one in spec.contributors},
    }


def _head(one: Card) -> list[str]:
    if one["contributors"]:
        sites = len(one["contributors"])
        made = f"trained by {sites} hospital{'s' if sites > 1 else ''} with {one['images']} images"
    else:
        made = "a start model: no hospital's images are in it"
    return [
        f"# Model card: {escaped(one['name'])}",
        "",
        f"An image encoder for medical images, {made}. It holds no images.",
    ]


def _model(one: Card) -> list[str]:
    heads = [
        f"`{head['taskName']}` ({head['task']}: {', '.join(escaped(name) for name in head['classes'])})"
        for head in one["heads"]
    ]
    facts = [
        ("Architecture", f"{escaped(one['architecture'])} (timm), without a classifier"),
        ("Input", f"{one['imageSize']} x {one['imageSize']} pixels, {INPUT}"),
        ("Parameters", NOT_KNOWN if one["parameters"] is None else f"{one['parameters']:,}"),
        ("File", f"{escaped(one['objectKey'])}, {size(one['sizeBytes'])}"),
        ("sha256", f"`{one['digest']}`"),
        ("Made by", f"round {escaped(one['round']['name'])}, {escaped(one['strategy'])}, {one['created']}"),
        ("Shared heads", "; ".join(heads) or "none"),
    ]
    fetch = f"umim models pull {one['name']} -n {one['namespace']}"
    code = ["```sh", fetch, "```", "", "```python", *one["loading"].splitlines(), "```"]
    return ["## Model", "", *_table(("", ""), facts), "", "### Loading it", "", *code]


def _data(one: Card) -> list[str]:
    if not one["contributors"]:
        words = "It was made on the server, from its own unlabelled images." if one["strategy"] == "init-mim" else ""
        return ["## Training data", "", words or "None: its weights are random."]
    rows = []
    for site in one["contributors"]:
        data = site["data"]
        kind = NOT_KNOWN if data is None else f"{data['format']}, {data['taskName'] or data['task']}"
        rows.append(
            (
                escaped(site["site"]),
                str(site["samples"]),
                f"{100 * site['samples'] / one['images']:.0f} %",
                escaped(kind),
                f"`{site['updateDigest'][:12]}`",
            )
        )
    return [
        "## Training data",
        "",
        "What this model's own round added; earlier rounds are under Lineage. Images never left the hospitals.",
        "",
        *_table(("site", "images", "share", "data", "update"), rows),
        "",
        "Not recorded: age, sex and origin of the patients, scanners, and the time of the images.",
    ]


def _how(one: Card) -> list[str]:
    training = one["training"]
    if training is None:
        return ["## Training", "", f"Settings of the round: {NOT_KNOWN}, see Provenance."]
    lines = [
        f"- {name}: " + (", ".join(_settings(training[name])) or "defaults")
        for name in ("pretraining", "training", "aggregation", "distillation")
        if name in training
    ]
    return ["## Training", "", *lines, f"- quorum: {training['quorum']}"]


def _settings(part: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for name, value in part.items():
        if isinstance(value, Mapping):
            if name != "resources":
                yield from _settings(value, f"{prefix}{name}.")
        else:
            yield escaped(f"{prefix}{name} {value}")


def _metrics(one: Card) -> list[str]:
    lines = ["## Metrics", ""]
    if not one["metrics"]:
        return [*lines, "None were let out by the hospitals, and none measured by the server."]
    lines += _table(("figure", "value"), [(escaped(name), f"{value:.4g}") for name, value in one["metrics"].items()])
    sites = [site for site in one["contributors"] if site["metrics"]]
    if sites:
        rows = [
            (escaped(site["site"]), _figure(site["metrics"], "loss_before"), _figure(site["metrics"], "loss_after"))
            for site in sites
        ]
        lines += ["", *_table(("site", "loss before", "loss after"), rows)]
    return [
        *lines,
        "",
        "Figures without `server_` are means over the sites, weighted by images, each on the site's own validation "
        "part and of the site's own model before the merge. They say nothing of other hospitals.",
    ]


def _figure(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[name]:.4g}" if name in metrics else NOT_KNOWN


def _privacy(one: Card) -> list[str]:
    lines = ["## Privacy", ""]
    if not one["contributors"]:
        return [*lines, "No hospital's data are in this model."]
    rows = [(escaped(site["site"]), *_protection(site)) for site in one["contributors"]]
    unproven = [escaped(site["site"]) for site in one["contributors"] if not site.get("differentialPrivacy")]
    lines += [
        "Clipping and noise are those of the Hospitals today, which may differ from the day of the training.",
        "",
        *_table(("site", "differential privacy", "clipping and noise", "in the hospital's ledger"), rows),
    ]
    if unproven:
        lines += [
            "",
            f"No guarantee of differential privacy is recorded for {', '.join(unproven)}: the model may tell whether "
            "an image was trained on.",
        ]
    return lines


def _protection(site: Mapping[str, Any]) -> tuple[str, str, str]:
    record, privacy, ledger = site.get("differentialPrivacy"), site["privacy"], site["inLedger"]
    guarantee = (
        f"epsilon {record['epsilon']:.3g} at delta {record['delta']:.3g}, this round alone"
        if record
        else "none recorded"
    )
    if privacy is None:
        clipping = NOT_KNOWN
    elif privacy.get("clipNorm") is None:
        clipping = "none"
    else:
        clipping = f"clipped to {privacy['clipNorm']:g}, noise {privacy['noiseMultiplier']:g}"
    return guarantee, clipping, {None: NOT_KNOWN, True: "yes", False: "not among the newest 100"}[ledger]


def _lineage(one: Card) -> list[str]:
    lines = ["## Lineage", "", "Newest first.", ""]
    for number, ancestor in enumerate(one["lineage"], start=1):
        sites = ", ".join(f"{escaped(site)} ({images})" for site, images in ancestor["contributors"].items())
        lines.append(
            f"{number}. {escaped(ancestor['name'])}, `{ancestor['digest'][:12]}`, {escaped(ancestor['strategy'])}, "
            f"round {escaped(ancestor['round'])}" + (f": {sites}" if sites else "")
        )
    if not one["lineageComplete"]:
        parent = one["lineage"][-1]["parent"]
        lines += [
            "",
            f"The list ends here: {escaped(parent['name'])} (`{parent['digest']}`) is no longer in the namespace. What "
            f"was before it is {NOT_KNOWN}.",
        ]
    return lines


def _use(one: Card) -> list[str]:
    return [
        "## Intended use and limits",
        "",
        "- Meant for: research; as features or as a start for training on medical images of the kinds listed above.",
        "- Not meant for: diagnosis or treatment. It is no medical device and has no approval as one.",
        f"- Known: kinds and numbers of images, figures above. {NOT_KNOWN.capitalize()}: how it does on other kinds of "
        "images, scanners, hospitals and groups of patients, and whether it treats groups alike.",
        "- Before use: judge it on your own labelled images and look at each group of patients: "
        f"`umim evaluate {one['name']} -n {one['namespace']} --data FILE.npz`.",
    ]


def _provenance(one: Card) -> list[str]:
    signature = one["signature"]
    software = ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in (one["software"] or {}).items())
    lines = [
        "## Provenance",
        "",
        f"- GlobalModel: {escaped(one['namespace'])}/{escaped(one['name'])}",
        f"- Signature of the federation: {'key ' + escaped(signature['keyId']) if signature else 'none'}"
        + ("; `umim verify` checks it" if signature else ""),
        f"- Seed: {NOT_KNOWN if one['seed'] is None else one['seed']}",
        f"- Software: {software or NOT_KNOWN}",
    ]
    return lines + [f"- Not read: {escaped(sentence)}" for sentence in one["notRead"]]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table. Cells must be Markdown already."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
