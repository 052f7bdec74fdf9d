"""The strategies by name. The interface is in ``interface``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from umim.aggregation.centered_clipping import CenteredClipping
from umim.aggregation.fedadagrad import FedAdagrad
from umim.aggregation.fedadam import FedAdam
from umim.aggregation.fedavg import FedAvg
from umim.aggregation.fedavgm import FedAvgM
from umim.aggregation.fedyogi import FedYogi
from umim.aggregation.geometric_median import GeometricMedian
from umim.aggregation.interface import Strategy
from umim.aggregation.krum import Krum
from umim.aggregation.median import Median
from umim.aggregation.multi_krum import MultiKrum
from umim.aggregation.names import check_strategy, registered
from umim.aggregation.task_arithmetic import TaskArithmetic
from umim.aggregation.ties import Ties
from umim.aggregation.trimmed_mean import TrimmedMean
from umim.aggregation.uniform import Uniform
from umim.api.round import AggregationSpec
from umim.errors import ConfigError

FACTORIES: Mapping[str, Callable[..., Strategy]] = {
    "fedavg": FedAvg,
    "uniform": Uniform,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "krum": Krum,
    "multi-krum": MultiKrum,
    "geometric-median": GeometricMedian,
    "centered-clipping": CenteredClipping,
    "ties": Ties,
    "task-arithmetic": TaskArithmetic,
}
"""Makes each strategy of ``names.STRATEGIES`` from its options, given by name."""


def make_strategy(spec: AggregationSpec) -> Strategy:
    """Return the strategy of a round: UMIM's own, or one that an installed package registers.

    Raises ConfigError naming the field, see ``names.check_strategy``, and where the package cannot be loaded.
    """
    check_strategy(spec)
    options = {_snake(name): value for name, value in spec.options.items()}
    factory = FACTORIES[spec.strategy] if spec.strategy in FACTORIES else _loaded(spec.strategy)
    return factory(**options)


def _loaded(name: str) -> Callable[..., Strategy]:
    point = registered()[name]
    try:
        factory: Callable[..., Strategy] = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"spec.aggregation.strategy: {name!r} is {point.value}, which has no such code: {error}"
        ) from error
    return factory


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
