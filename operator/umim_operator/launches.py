"""Names of what the launches of a round left behind. Pure."""

from __future__ import annotations

from umim import contract
from umim_operator.state import RoundView


def secret_names(view: RoundView, namespace: str) -> list[str]:
    """Return the names of all Secrets that the round may have left in a namespace, sorted.

    Each attempt's Secret is named like its Job. The attempt after the recorded one may have been launched, too.
    """
    status = view.status
    found: set[str] = set()
    for site in status.sites:
        if site.namespace == namespace:
            found |= _attempt_names(view, "site", site.name, site.attempt)
    if namespace == view.namespace:
        found |= _attempt_names(view, "init", "", status.initialization.attempt if status.initialization else 0)
        found |= _attempt_names(view, "aggregate", "", status.aggregation.attempt if status.aggregation else 0)
    return sorted(found)


def _attempt_names(view: RoundView, role: contract.Role, site: str, attempt: int) -> set[str]:
    return {contract.job_name(role, view.name, view.uid, site, number) for number in range(1, attempt + 2)}
