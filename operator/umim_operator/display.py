"""What people read in ``kubectl get`` and in condition messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from umim.api.round import SiteStatus

MOST_PROBLEMS = 5
"""Sites that one message tells of."""


def sites_summary(sites: Sequence[SiteStatus], quorum: int) -> str:
    """Return updates done, quorum and number of sites, such as ``2/2/3``."""
    done = sum(site.phase == "Succeeded" for site in sites)
    return f"{done}/{quorum}/{len(sites)}"


def progress(sites: Sequence[SiteStatus]) -> str:
    """Return the mean progress of the sites that take part, such as ``42%``."""
    parts = [_percent(site) for site in sites if site.phase not in ("Refused", "Failed", "Late")]
    return f"{sum(parts) // len(parts)}%" if parts else "0%"


def _percent(site: SiteStatus) -> int:
    if site.phase in ("Succeeded", "Excluded"):
        return 100
    return site.progress.percent if site.progress is not None else 0


def problems(sites: Iterable[SiteStatus]) -> str:
    """Return what is wrong at which site, at most a few of them, as one line."""
    return _told(site for site in sites if site.message and site.phase != "Succeeded")


def outliers(sites: Iterable[SiteStatus]) -> str:
    """Return which sites' updates are in the model but unlike the others, at most a few of them, as one line."""
    return _told(site for site in sites if site.outlier)


def _told(sites: Iterable[SiteStatus]) -> str:
    found = [f"{site.name}: {site.message}" for site in sites]
    more = len(found) - MOST_PROBLEMS
    return " ".join(found[:MOST_PROBLEMS] + ([f"And {more} more."] if more > 0 else []))
