"""What the pages say of a cluster."""

from __future__ import annotations

from datetime import datetime
from typing import cast

import pytest

from tests.unit.cli.samples import condition, round_object
from tests.unit.console.samples import NOW, named, snapshot
from umim.cli.resources import Round, parse_round
from umim.console.charts import Series
from umim.console.cluster import Cache, Snapshot
from umim.console.pages import federations, hospitals, models, overview, rounds
from umim.console.pages.parts import BadQueryError, paged
from umim.console.prometheus import Answer, Curve, Prometheus


class Canned:
    """Answers like a Prometheus, and notes what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[list[str], datetime, datetime]] = []

    def curve(self, _: Curve, sites: list[str], start: datetime, end: datetime) -> Answer:
        self.asked.append((sites, start, end))
        return self.answer


def page(name: str, answer: Answer | None = None) -> rounds.RoundPage:
    seen = snapshot()
    prometheus = cast(Prometheus, Canned(answer)) if answer is not None else None
    return rounds.round_page(seen, found(seen, name), {}, NOW, prometheus)


def found(seen: Snapshot, name: str) -> Round:
    one = seen.round("federation", name)
    assert one is not None
    return one


def test_the_overview_counts_rounds_and_names_what_needs_a_person() -> None:
    shown = overview.overview(snapshot(), NOW)
    assert {tile.title: tile.number for tile in shown.tiles} == {
        "Running": 1,
        "Suspended": 0,
        "Complete": 1,
        "Failed": 1,
    }
    # Both were created in the same second: by name.
    assert [(one.name, one.word) for one in shown.attention] == [
        ("Round demo-1", "Waiting to try again"),
        ("Round trial-7", "Failed"),
    ]
    assert shown.attention[0].sentence.endswith("And 1 more site.")
    assert [one.name for one in shown.active] == ["demo-1"]


def test_a_refused_spec_needs_a_person() -> None:
    cache = Cache()
    cache.replace(
        "federationrounds", [round_object(phase="Pending", conditions=[condition("Accepted", "False", "no parent")])]
    )
    shown = overview.overview(cache.snapshot(), NOW)
    assert [(one.word, one.sentence) for one in shown.attention] == [("Refused", "no parent")]


def test_a_round_that_the_operator_cannot_go_on_with_needs_a_person() -> None:
    cache = Cache()
    stuck = [condition("Reconciled", "False", "The API server answers 422.")]
    cache.replace("federationrounds", [round_object(conditions=stuck)])
    shown = overview.overview(cache.snapshot(), NOW)
    assert [(one.word, one.sentence) for one in shown.attention] == [("Operator stuck", "The API server answers 422.")]


def test_an_empty_cluster_has_an_overview() -> None:
    assert overview.overview(Snapshot(), NOW).sentence == (
        "0 rounds running, 0 things to look at, 0 models published, 0 hospitals."
    )


def test_a_round_tells_each_sites_state_progress_attempt_and_losses() -> None:
    rows = {row.site.name: row for row in page("demo-1").sites.items}
    done, running = rows["hospital-a.neuro"], rows["hospital-b.thorax"]
    assert (done.state.word, done.percent, done.loss, done.change) == ("Succeeded", 100, "0.900 → 0.450", "−50 %")
    assert (running.percent, running.progress) == (50, "epoch 2 of 2, 81 images/s, 1 minute left")
    assert (running.attempt, running.samples) == ("1 of 3", "–")
    assert rows["hospital-d.eye"].state.shape == "failed"


def test_a_site_that_reports_no_speed_tells_the_rest_and_one_that_waits_for_quota_says_so() -> None:
    body = round_object()
    del body["status"]["sites"][1]["progress"]["imagesPerSecond"]
    body["status"]["sites"][0]["phase"] = "Queued"
    queued, running = rounds.round_page(Snapshot(), parse_round(body), {}, NOW, None).sites.items
    assert running.progress == "epoch 2 of 2, 1 minute left"
    assert (queued.state.word, queued.state.shape, queued.percent) == ("Waiting for quota", "waiting", None)


def test_a_site_links_to_its_hospital_only_where_there_is_one() -> None:
    assert [row.href for row in page("demo-1").sites.items] == [
        "/hospitals/hospital-a/neuro",
        "/hospitals/hospital-b/thorax",
        None,
        None,
    ]


def test_a_round_of_a_campaign_leads_to_it_and_to_its_model() -> None:
    facts = {fact.name: fact.href for fact in page("demo-1").facts}
    assert facts["Federation"] == "/federations/federation/spring"
    model = page("spring-ct-2").model
    assert model is not None
    assert model.name == "spring-ct-2"


def test_a_running_round_says_when_its_deadline_ends() -> None:
    ends = {fact.name: fact.moment for fact in page("demo-1").facts}["Deadline ends"]
    assert ends is not None
    assert (ends.iso, ends.relative) == ("2026-11-24T12:10:30Z", "in 30 seconds")


def test_without_prometheus_the_page_says_so_and_shows_the_losses_that_the_status_holds() -> None:
    shown = page("demo-1")
    assert "console.prometheusUrl" in shown.no_curves
    assert [chart.title for chart in shown.charts] == ["Loss on each hospital's own validation patients"]


def test_curves_of_prometheus_span_the_training_of_the_sites() -> None:
    seen = snapshot()
    prometheus = Canned(Answer((Series("hospital-a.neuro", ((0.0, 1.0), (1.0, 0.5))),)))
    one = found(seen, "spring-ct-2")
    shown = rounds.round_page(seen, one, {}, NOW, cast(Prometheus, prometheus))
    assert [chart.title for chart in shown.charts][1:] == ["Training loss", "Training speed"]
    assert shown.no_curves == ""
    assert prometheus.asked[0] == (
        ["hospital-a.neuro", "hospital-b.thorax"],
        one.status.start_time,
        one.status.completion_time,
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [(Answer(problem="Prometheus does not answer"), "does not answer"), (Answer(), "has no values of these sites")],
)
def test_a_prometheus_without_an_answer_is_said_once(answer: Answer, said: str) -> None:
    assert page("demo-1", answer).no_curves.count(said) == 1


def test_rounds_are_filtered_by_state_newest_first() -> None:
    shown = rounds.round_list(snapshot(), {"phase": "failed"})
    assert [one.name for one in shown.rounds.items] == ["trial-7"]
    assert shown.counts == {"running": 1, "suspended": 0, "complete": 1, "failed": 1}


@pytest.mark.parametrize(
    "query", [{"phase": "lost"}, {"page": "0"}, {"page": "2"}, {"page": "-1"}, {"page": "x"}, {"page": "²"}]
)
def test_a_query_that_no_page_has_is_refused_with_what_is_allowed(query: dict[str, str]) -> None:
    with pytest.raises(BadQueryError, match="must be"):
        rounds.round_list(snapshot(), query)


def test_a_long_list_is_cut_into_pages_that_lead_to_each_other() -> None:
    first = paged(list(range(120)), {"phase": "failed"}, "/rounds")
    assert (len(first.items), first.pages, first.previous) == (50, 3, None)
    assert first.next == "/rounds?phase=failed&page=2"
    last = paged(list(range(120)), {"page": "3"}, "/rounds")
    assert (list(last.items), last.first, last.last, last.next) == (list(range(100, 120)), 101, 120, None)


def test_a_round_of_a_thousand_sites_shows_a_hundred_a_page() -> None:
    body = round_object()
    body["status"]["sites"] = [
        {"name": f"h-{n:04}.x", "namespace": f"h-{n:04}", "hospital": "x", "phase": "Pending"} for n in range(1000)
    ]
    shown = rounds.round_page(Snapshot(), parse_round(named(body, "large")), {"page": "10"}, NOW, None)
    assert (len(shown.sites.items), shown.sites.items[0].site.name) == (100, "h-0900.x")


def test_a_campaign_shows_every_stage_also_those_that_have_not_started() -> None:
    seen = snapshot()
    shown = federations.federation_page(seen, seen.federations[0], {}, NOW)
    assert [(row.name, row.state.word, row.rounds) for row in shown.stages] == [
        ("ct", "Complete", "2 of 2 rounds"),
        ("mri", "Running", "0 of 3 rounds"),
    ]
    assert [row.round.name for row in shown.rounds.items] == ["demo-1", "spring-ct-2", "spring-ct-1"]
    assert [row.href for row in shown.rounds.items] == [
        "/rounds/federation/demo-1",
        "/rounds/federation/spring-ct-2",
        None,
    ]


def test_a_campaign_draws_the_figures_of_its_models_over_its_rounds() -> None:
    seen = snapshot()
    chart = federations.federation_page(seen, seen.federations[0], {}, NOW).chart
    assert chart is not None
    assert [line.name for line in chart.lines] == [
        "loss before the training, mean of the sites",
        "loss after the training, mean of the sites",
    ]
    assert [tick.label for tick in chart.x_ticks] == ["1", "2"]


def test_a_model_tells_whose_data_are_in_it_and_how_it_does() -> None:
    seen = snapshot()
    model = seen.model("federation", "spring-ct-2")
    assert model is not None
    shown = models.model_page(seen, model, {}, NOW)
    assert dict(shown.metrics) == {"loss_before": "0.75", "loss_after": "0.45"}
    row = shown.contributors.items[0]
    assert (row.site, row.share, row.data, row.href) == (
        "hospital-a.neuro",
        "100 %",
        "dicom, brain-ct",
        "/hospitals/hospital-a/neuro",
    )


def test_a_round_of_the_same_name_that_was_made_anew_did_not_make_the_model() -> None:
    seen = snapshot()
    model = seen.model("federation", "spring-ct-2")
    assert model is not None
    assert model.spec.round.name == "demo-1"
    assert models.model_page(seen, model, {}, NOW).round_href == "/rounds/federation/demo-1"
    other = parse_round(named(round_object(), "demo-1", uid="another"))
    changed = Snapshot(rounds=(other,), models=seen.models)
    assert models.model_page(changed, model, {}, NOW).round_href is None


def test_a_hospital_tells_what_leaves_what_stays_and_when_but_not_where_its_data_are() -> None:
    seen = snapshot()
    neuro, thorax = seen.hospitals
    shown = hospitals.hospital_page(seen, neuro, NOW)
    assert shown.leaves == ["model updates, with the number of images", "figures of training and validation"]
    assert shown.stays == ["images and labels, always", "the task head, with the names of its classes"]
    assert {fact.name: fact.text for fact in shown.limits}["When"] == "Mon to Fri, 20:00 to 06:00 the next day UTC"
    texts = [fact.text for fact in [*shown.facts, *shown.limits, *shown.privacy]]
    assert not [text for text in texts if neuro.spec.data.claim_name in text]
    private = {fact.name: fact.text for fact in hospitals.hospital_page(seen, thorax, NOW).privacy}
    assert private["Budget of epsilon"] == "8 at delta 1e-05; what is spent is not told"


def test_an_update_that_left_leads_to_its_round_while_that_exists() -> None:
    seen = snapshot()
    assert [row.href for row in hospitals.hospital_page(seen, seen.hospitals[0], NOW).ledger] == [
        "/rounds/federation/demo-1"
    ]
    assert hospitals.hospital_page(Snapshot(), seen.hospitals[0], NOW).ledger[0].href is None
