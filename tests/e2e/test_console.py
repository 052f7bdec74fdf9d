"""The console as it is deployed, after a real round, in a real Chromium."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from hack.browser import chromium
from hack.testenv.consoles import forwarded
from hack.testenv.hospitals import Site
from hack.testenv.platform import CONSOLE, FEDERATION, Platform
from hack.testenv.rounds import Round
from tests.e2e.conftest import Launch


@pytest.fixture(scope="module")
def done(platform: Platform, launch: Launch, sites: tuple[Site, Site, Site]) -> Round:
    """A round over three hospitals that is complete."""
    platform.wait_ready(CONSOLE)
    found = launch("console", *sites)
    found.wait_phase("Complete")
    return found


@pytest.fixture(scope="module")
def page(platform: Platform) -> Iterator[Page]:
    with (
        forwarded(platform.kubectl, platform.kubeconfig) as address,
        chromium() as browser,
        browser.new_context(base_url=address) as context,
    ):
        yield context.new_page()


def test_a_person_finds_the_way_from_a_round_to_its_model_and_its_hospitals(
    platform: Platform, done: Round, sites: tuple[Site, Site, Site], page: Page
) -> None:
    model = done.model()
    page.goto("/")
    page.get_by_role("link", name=re.compile("Complete")).click()
    page.get_by_role("row", name=re.compile(f"^{done.name} ")).get_by_role("link", name=done.name, exact=True).click()
    expect(page.locator("#state")).to_contain_text("Complete")
    rows = page.locator("#sites tbody tr")
    expect(rows).to_have_count(len(sites))
    for site in sites:
        row = rows.filter(has_text=site.name)
        status = done.site(site)
        expect(row).to_contain_text("Succeeded")
        expect(row).to_contain_text("100 %")
        expect(row).to_contain_text(f"{status['metrics']['loss_before']:.3f} → {status['metrics']['loss_after']:.3f}")
    page.locator("#model").get_by_role("link", name=model["metadata"]["name"]).click()
    expect(page.get_by_text(model["spec"]["digest"], exact=True)).to_be_visible()
    expect(page.locator("#lineage a")).to_have_attribute("href", f"/models/{FEDERATION}/t-base")
    page.locator("#data").get_by_role("link", name=sites[0].name).click()
    expect(page.locator("#ledger")).to_contain_text(f"{FEDERATION}/{done.name}")
    expect(page.locator("#artifacts")).to_contain_text("images and labels, always")


def test_the_pages_of_a_real_round_break_no_rule_of_accessibility(done: Round, page: Page) -> None:
    model = done.model()["metadata"]["name"]
    for path in ("/", f"/rounds/{FEDERATION}/{done.name}", f"/models/{FEDERATION}/{model}"):
        page.goto(path)
        assert Axe().run(page).generate_snapshot() == "", path


def test_a_round_that_is_suspended_meanwhile_is_seen_without_a_reload(
    platform: Platform, launch: Launch, sites: tuple[Site, Site, Site], page: Page
) -> None:
    running = launch("console-live", *sites, training={"epochs": 400})
    running.wait_phase("Training")
    page.goto(f"/rounds/{FEDERATION}/{running.name}")
    expect(page.locator("#state")).to_contain_text("Training")
    platform.api.patch("FederationRound", FEDERATION, running.name, {"spec": {"suspend": True}})
    running.wait_phase("Suspended")
    begin = time.monotonic()
    expect(page.locator("#state")).to_contain_text("Suspended", timeout=20_000)
    assert time.monotonic() - begin < 20
    platform.api.delete("FederationRound", FEDERATION, running.name)
