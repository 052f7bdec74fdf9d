"""The hospital's record of what left. Pure."""

from __future__ import annotations

from datetime import datetime

from umim.api.artifacts import UpdateManifest
from umim.api.hospital import HospitalStatus, Participation
from umim.api.round import SiteStatus
from umim_operator.state import LedgerEntry, RoundView

LEDGER_SIZE = 100


def entry(view: RoundView, site: SiteStatus, update: UpdateManifest, now: datetime) -> LedgerEntry:
    """Return the record of one committed update."""
    return LedgerEntry(
        hospital=site.reference,
        participation=Participation(
            round=f"{view.namespace}/{view.name}",
            round_uid=view.uid,
            update_digest=update.file.digest,
            head_digest=None if update.head is None else update.head.file.digest,
            size_bytes=update.file.size_bytes,
            head_size_bytes=None if update.head is None else update.head.file.size_bytes,
            samples=update.samples,
            differential_privacy=update.differential_privacy,
            time=now,
        ),
    )


def record(status: HospitalStatus, new: Participation, generation: int) -> HospitalStatus:
    """Return the hospital's status with the update in its ledger. Recording it twice changes nothing."""
    if any(item.round_uid == new.round_uid for item in status.ledger):
        return status
    privacy = new.differential_privacy
    return HospitalStatus(
        observed_generation=generation,
        participations=status.participations + 1,
        last_participation=new,
        epsilon_spent=status.epsilon_spent
        if privacy is None or privacy.epsilon_spent is None
        else privacy.epsilon_spent,
        ledger=[*status.ledger, new][-LEDGER_SIZE:],
    )
