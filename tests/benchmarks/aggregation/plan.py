"""What is measured, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

OURS = "umim"
LIMIT = "limit"
GROWTH = "stored"
"""Our path whose growth with the number of updates is measured: as the platform's Jobs read, from a store in ranges."""
RULES = ("mean", "median", "trimmed-mean", "krum")


@dataclass(frozen=True)
class Contender:
    """One way of one system to aggregate."""

    system: str
    """umim, a peer, or limit."""
    path: str
    """Which of its ways."""
    rules: tuple[str, ...]
    """What it computes."""
    modes: tuple[str, ...] = ("bare", "file")
    """How it is measured."""
    copies: float = 1.2
    """Size of the updates that it holds in memory, in copies of all of them: nothing is started that cannot end."""

    @property
    def name(self) -> str:
        """Name in the report."""
        return f"{self.system} {self.path}"


CONTENDERS: Sequence[Contender] = (
    Contender(OURS, "engine", RULES, ("bare",)),
    Contender(OURS, "unverified", RULES, ("file",), 0.1),
    Contender(OURS, "verified", RULES, ("file",), 0.1),
    Contender(OURS, GROWTH, ("mean",), ("file",), 0.1),
    Contender(LIMIT, "sha256", ("mean",), ("file",), 0),
    Contender(LIMIT, "cat", ("mean",), ("file",), 0),
    Contender("nvflare", "numpy", ("mean",)),
    Contender("nvflare", "torch", ("mean",)),
    Contender("openfl", "WeightedAverage", ("mean",)),
    Contender("openfl", "weighted_average", ("mean",), copies=1.6),
    Contender("openfl", "Median", ("median",), copies=1.3),
    Contender("flwr", "aggregate_arrayrecords", ("mean",)),
    Contender("flwr", "aggregate_inplace", ("mean",)),
    Contender("flwr", "aggregate", ("mean",), copies=2.2),
    Contender("flwr", "aggregate_median", ("median",), copies=1.3),
    Contender("flwr", "FedMedian", ("median",), copies=1.3),
    Contender("flwr", "aggregate_trimmed_avg", ("trimmed-mean",), copies=1.3),
    Contender("flwr", "FedTrimmedAvg", ("trimmed-mean",), copies=1.3),
    Contender("flwr", "aggregate_krum", ("krum",), copies=3.3),
    Contender("flwr", "select_multikrum", ("krum",), copies=4.2),
)
MODULES: Mapping[str, str] = {
    OURS: "ours",
    LIMIT: "limits",
    "flwr": "peers.flower",
    "nvflare": "peers.flare",
    "openfl": "peers.openfl",
}
"""Where each system's measurement is, below this package."""


@dataclass(frozen=True)
class Group:
    """Measurements that are compared with each other."""

    architecture: str
    """timm's name of the network."""
    count: int
    """Number of updates."""
    rule: str
    """See ``RULES``."""
    mode: str
    """bare or file, see ``harness.Task``."""
    growth: bool = False
    """Only this project's verified merge: how time and memory grow with the number of updates. Not compared with the
    reference."""

    @property
    def byzantine(self) -> int:
        """How many values are trimmed at each end, and Krum's f: as many as Krum allows, at most 3."""
        return max(0, min(3, (self.count - 3) // 2))

    @property
    def key(self) -> str:
        """Name for files."""
        return f"{self.architecture}-{self.count}-{self.rule}-{self.mode}"

    def contenders(self, systems: Sequence[str]) -> Iterator[Contender]:
        """Yield who takes part, of the systems that are there."""
        for one in CONTENDERS:
            if self.growth and one.path != GROWTH:
                continue
            if one.system in systems and self.rule in one.rules and self.mode in one.modes:
                yield one


@dataclass(frozen=True)
class Profile:
    """How much is measured."""

    name: str
    """quick or full."""
    main: str
    """timm's name of the network that all is measured with."""
    distinct: int
    """Number of its updates on the disk; more are hard links to these."""
    groups: tuple[Group, ...]
    """In the order of measurement."""
    growth: tuple[int, ...]
    """Numbers of updates."""
    repeats: int
    """How often each is measured, unless it takes long."""

    def all_groups(self) -> list[Group]:
        """Return the groups and those of the growth."""
        return [*self.groups, *(Group(self.main, count, "mean", "file", growth=True) for count in self.growth)]


LONG_SECONDS = 15.0
"""What takes longer is measured once."""

_BASE, _LARGE, _TINY = "vit_base_patch16_224", "vit_large_patch16_224", "test_vit"

PROFILES: Mapping[str, Profile] = {
    "full": Profile(
        "full",
        _BASE,
        16,
        (
            *(Group(_BASE, 16, rule, mode) for rule in ("mean", "median", "trimmed-mean") for mode in ("file", "bare")),
            # Flower's Krum holds four copies of all updates: eight are what fits beside the page cache.
            *(Group(_BASE, 8, "krum", mode) for mode in ("file", "bare")),
            *(Group(_LARGE, 4, rule, mode) for rule in ("mean", "median") for mode in ("file", "bare")),
        ),
        (4, 8, 16, 32, 64),
        3,
    ),
    "quick": Profile(
        "quick", _TINY, 6, tuple(Group(_TINY, 6, rule, mode) for rule in RULES for mode in ("file", "bare")), (4, 8), 1
    ),
}
