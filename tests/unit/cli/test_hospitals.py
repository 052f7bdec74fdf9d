"""What ``umim hospitals`` shows: the terms in full, and what has left."""

from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console, RenderableType

from tests.unit.cli.samples import hospital_object
from umim.cli.hospitals import hospital_detail, hospitals_table
from umim.cli.resources import parse_hospital
from umim.errors import ConfigError

NOW = datetime(2026, 11, 24, 12, 6, 10, tzinfo=UTC)
HOSPITAL = parse_hospital(hospital_object("a", "neuro"))

DETAIL = """\
Hospital      hospital-a/neuro
Trains for    federation
Data          dicom, classification, volume images
Task name     brain-ct
Checkpoints   volume site-work
Account       umim-site
At most       the quota
May leave     update, metrics
Updates are   clipped to 10, noise 0.5 of it
Patients      at least 20
Updates left  1


 UPDATE         ROUND               IMAGES   SIZE       HEAD   LEFT
 ───────────────────────────────────────────────────────────────────────
 abababababab   federation/demo-1   96       21.0 MiB   -      2m10s ago
"""

LIST = """\

 NAMESPACE    NAME    FEDERATIONS   FORMAT   TASK       UPDATES   LAST ROUND          AGE
 ─────────────────────────────────────────────────────────────────────────────────────────
 hospital-a   neuro   federation    dicom    brain-ct   1         federation/demo-1   1h6m
"""


def text(renderable: RenderableType) -> str:
    console = Console(width=100, record=True, file=StringIO())
    console.print(renderable)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()).rstrip("\n") + "\n"


def test_the_description_shows_terms_and_ledger() -> None:
    assert text(hospital_detail(HOSPITAL, NOW)) == DETAIL


def test_the_list_shows_consent_data_and_the_newest_round() -> None:
    assert text(hospitals_table([HOSPITAL], NOW)) == LIST


def test_a_hospital_that_refuses_all_and_that_nobody_has_looked_at_can_be_shown() -> None:
    raw = hospital_object("a", "neuro", federations=[], privacy={})
    del raw["status"]
    shown = text(hospital_detail(parse_hospital(raw), NOW))
    assert "nobody: spec.federations is empty" in shown
    assert "not clipped" in shown


def test_terms_that_have_no_line_of_their_own_are_shown_as_they_are() -> None:
    raw = hospital_object("a", "neuro")
    raw["spec"]["maxEpochs"] = 5
    raw["spec"]["privacy"]["differentialPrivacy"] = {"minNoiseMultiplier": 1.1}
    raw["status"]["epsilonSpent"] = 2.5
    shown = text(hospital_detail(replace(HOSPITAL, raw=raw), NOW))
    assert "maxEpochs            5" in shown
    assert 'differentialPrivacy  {"minNoiseMultiplier": 1.1}' in shown
    assert "epsilonSpent         2.5" in shown


def test_a_hospital_of_another_version_names_the_field() -> None:
    with pytest.raises(ConfigError, match=r"Hospital hospital-a/neuro is of another version.*colour"):
        parse_hospital(hospital_object("a", "neuro", colour="blue"))
