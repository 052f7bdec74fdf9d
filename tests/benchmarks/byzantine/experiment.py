"""One federation under one attack with one rule, merged by UMIM's own engine, and what the rule did to whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tests.benchmarks.byzantine.attacks import ATTACKS, Attack, Changes, Liars, as_trained
from tests.benchmarks.byzantine.federation import SITES, Task, accuracy, join, split, start_model, train
from umim.aggregation.engine import Engine
from umim.aggregation.interface import Combination
from umim.aggregation.names import fewest_sites
from umim.aggregation.outliers import outliers
from umim.aggregation.strategy import make_strategy
from umim.aggregation.updates import BadUpdateError, Update
from umim.api.round import AggregationSpec
from umim.artifacts.sources import MemorySource
from umim.errors import ArtifactError

ROUNDS = 10
CLIP_NORM = 2.0
"""About the largest norm of an honest change in the first rounds."""
NOBODY = "none"
"""Name of the attack in which all sites are honest, whatever the rule expects."""
ABSENT = "absent"
"""Name of the attack in which the liars send nothing: what the others reach without them."""
MIXED = "+nnm"

Values = NDArray[np.float32]


def _rules() -> dict[str, dict[str, Any]]:
    robust = ("median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "centered-clipping")
    plain: dict[str, dict[str, Any]] = {"fedavg": {}, "fedavg+clip": {"strategy": "fedavg", "clip_norm": CLIP_NORM}}
    plain |= {name: {"strategy": name} for name in robust}
    mixed = {name + MIXED: {"strategy": name, "mixing": "nearest-neighbors"} for name in robust}
    return plain | mixed


RULES: Mapping[str, Mapping[str, Any]] = _rules()
"""spec.aggregation by the name of the rule, without byzantine."""
NOT_ROBUST = ("fedavg", "fedavg+clip")
"""Rules that take no byzantine."""
SELECTING = ("krum", "multi-krum")
"""Rules that leave whole sites out."""
TRIMMING = "trimmed-mean"
"""The rule that leaves single values out."""


@dataclass
class Share:
    """So many of so many."""

    of: float = 0.0
    all: float = 0.0

    def add(self, of: float, all_: float) -> None:
        self.of += of
        self.all += all_


@dataclass
class Tally:
    """What a rule and the report of outliers made of the sites, over all rounds of a federation."""

    honest_lost: Share = field(default_factory=Share)
    """Honest sites, or values of theirs, that a selecting or trimming rule left out."""
    liars_kept: Share = field(default_factory=Share)
    """Liars, or values of theirs, that it did not leave out."""
    honest_flagged: Share = field(default_factory=Share)
    """Honest sites that the report of outliers flags. Only rules that know the changes' Gram matrix have one."""
    liars_flagged: Share = field(default_factory=Share)
    """Liars that the report flags."""
    excluded: int = 0
    """Liars that the merge excluded."""
    honest_excluded: int = 0
    """Honest sites that it excluded: after an attack that worked their training is not finite."""
    failed: int = 0
    """Rounds without a model. The federation goes on with the last."""


def run(
    task: Task, seed: int, attack: str, liars_number: int, rules: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a record for each rule: the accuracy after the last round, and the tally.

    ``liars_number`` is what the rules expect, and how many lie unless the attack is NOBODY. All federations have the
    same sites, the same liars, start and batches.
    """
    what = ATTACKS.get(attack, Attack(attack, as_trained))
    chosen = np.random.default_rng([seed, 1]).permutation(SITES)[: 0 if attack == NOBODY else liars_number]
    liars: Liars = np.isin(np.arange(SITES), chosen)
    present = [site for site in range(SITES) if attack != ABSENT or not liars[site]]
    specs = [_spec(name, rule, liars_number) for name, rule in rules.items()]
    tallies = [Tally() for _ in specs]
    models = np.stack([start_model(seed)] * len(specs))
    for number in range(ROUNDS):
        trained = train(task, models, liars & what.flips_labels, seed, number)
        for index, spec in enumerate(specs):
            with np.errstate(all="ignore"):  # a federation that was broken trains on what is not finite
                sent = what.forge(trained[index], liars)
            models[index] = _merge(models[index], sent, liars, present, spec, task, tallies[index])
    return [
        {"rule": name, "accuracy": score, **asdict(tally)}
        for name, score, tally in zip(rules, accuracy(task, models), tallies, strict=True)
    ]


def _spec(name: str, rule: Mapping[str, Any], byzantine: int) -> AggregationSpec:
    return AggregationSpec(**rule, byzantine=0 if name in NOT_ROBUST else byzantine)


def _merge(
    parent: Values,
    sent: Changes,
    liars: Liars,
    present: list[int],
    spec: AggregationSpec,
    task: Task,
    tally: Tally,
) -> Values:
    """Return the merged model, or the parent when the round fails, as ``umim.aggregation.run.merge`` decides it."""
    source = MemorySource(save(split(parent)))
    with np.errstate(all="ignore"):
        files = {site: save(split(parent + sent[site])) for site in present}
    updates = [Update(str(site), task.samples[site], MemorySource(file)) for site, file in files.items()]
    strategy = make_strategy(spec)
    while len(updates) >= fewest_sites(spec):
        engine = Engine(source, updates, spec, 1)
        try:
            plan = strategy.plan(engine)
            merged = join({piece.slot.name: values.copy() for piece, _, values in engine.merged(plan)})
        except BadUpdateError as bad:
            tally.excluded += bool(liars[int(bad.site)])
            tally.honest_excluded += not liars[int(bad.site)]
            updates = [update for update in updates if update.site != bad.site]
            continue
        except ArtifactError:
            break
        _count(tally, engine, plan, spec, sent, liars, [int(update.site) for update in updates])
        return merged
    tally.failed += 1
    return parent


def _count(
    tally: Tally, engine: Engine, plan: object, spec: AggregationSpec, sent: Changes, liars: Liars, sites: list[int]
) -> None:
    """Add what a merge did to whom."""
    lying = liars[sites]
    if spec.mixing == "none" and spec.strategy in SELECTING:
        assert isinstance(plan, Combination)
        kept = np.array(plan.coefficients) != 0
        tally.honest_lost.add(int((~kept & ~lying).sum()), int((~lying).sum()))
        tally.liars_kept.add(int((kept & lying).sum()), int(lying.sum()))
    if spec.mixing == "none" and spec.strategy == TRIMMING:
        kept_values = _untrimmed(sent[sites], spec.byzantine)
        tally.honest_lost.add(float((1 - kept_values[~lying]).sum()), int((~lying).sum()))
        tally.liars_kept.add(float(kept_values[lying].sum()), int(lying.sum()))
    if engine.known_gram is not None:
        flags = np.array([one.outlier for one in outliers([str(s) for s in sites], engine.known_gram, engine.shares)])
        tally.honest_flagged.add(int((flags & ~lying).sum()), int((~lying).sum()))
        tally.liars_flagged.add(int((flags & lying).sum()), int(lying.sum()))


def _untrimmed(changes: Changes, drop: int) -> NDArray[np.float64]:
    """Return the share of each site's values that a trimmed mean keeps, [K]."""
    ranks = changes.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    kept: NDArray[np.float64] = ((ranks >= drop) & (ranks < len(changes) - drop)).mean(axis=1)
    return kept
