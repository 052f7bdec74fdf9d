"""The console over HTTP: addresses, methods, headers, escaping."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from starlette.testclient import TestClient

from tests.unit.cli.samples import model_object, round_object
from tests.unit.console.samples import HTML, NOW, digest, filled, named
from umim.console.app import Console, create_app
from umim.console.cluster import Cache
from umim.console.security import host_name

PAGES = {
    "/": "Overview",
    "/rounds": "Rounds",
    "/rounds?phase=running&page=1": "Rounds",
    "/rounds/federation/demo-1": "demo-1",
    "/rounds/federation/spring-ct-2": "spring-ct-2",
    "/rounds/federation/trial-7": "trial-7",
    "/federations": "Federations",
    "/federations/federation/spring": "spring",
    "/models": "Models",
    "/models/federation/base": "base",
    "/models/federation/spring-ct-2": "spring-ct-2",
    "/hospitals": "Hospitals",
    "/hospitals/hospital-a/neuro": "neuro",
    "/hospitals/hospital-b/thorax": "thorax",
}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'"


class Tags(HTMLParser):
    """The tags of a page as a browser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def client(cache: Cache) -> TestClient:
    app = create_app(Console(cache, clock=lambda: NOW), ("localhost",))
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture
def cache() -> Cache:
    return filled()


@pytest.fixture
def console(cache: Cache) -> Iterator[TestClient]:
    with client(cache) as made:
        yield made


@pytest.mark.parametrize(("address", "title"), PAGES.items())
def test_every_page_is_there_with_its_heading(console: TestClient, address: str, title: str) -> None:
    answer = console.get(address)
    assert answer.status_code == 200
    assert re.findall(r"<h1>(.*?)</h1>", answer.text) == [title]


@pytest.mark.parametrize("address", PAGES)
def test_every_link_of_a_page_leads_somewhere(console: TestClient, address: str) -> None:
    links = set(re.findall(r'(?:href|src)="(/[^"]*)"', console.get(address).text))
    assert links
    assert {link: console.get(link.replace("&amp;", "&")).status_code for link in links} == dict.fromkeys(links, 200)


@pytest.mark.parametrize("address", [*PAGES, "/static/console.js", "/nowhere", "/rounds?page=7", "/readyz"])
def test_every_answer_carries_the_headers_and_sets_no_cookie(console: TestClient, address: str) -> None:
    headers = console.get(address).headers
    assert headers["content-security-policy"].startswith(POLICY)
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in headers


def test_the_answer_to_an_error_of_the_console_itself_carries_the_headers_too() -> None:
    def broken() -> datetime:
        raise RuntimeError("no clock")

    app = create_app(Console(filled(), clock=broken), ("localhost",))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as console:
        answer = console.get("/")
    assert answer.status_code == 500
    assert "no clock" not in answer.text
    assert answer.headers["content-security-policy"].startswith(POLICY)


@pytest.mark.parametrize("address", PAGES)
def test_no_page_has_a_script_or_a_style_inside_it(console: TestClient, address: str) -> None:
    tags = Tags(console.get(address).text).found
    assert [attributes for tag, attributes in tags if tag == "script"] == [{"src": "/static/console.js", "defer": None}]
    assert not [tag for tag, _ in tags if tag in ("style", "form", "iframe", "object", "embed", "base")]
    names = {name for _, attributes in tags for name in attributes}
    assert not [name for name in names if name == "style" or name.startswith("on")]


@pytest.mark.parametrize("address", PAGES)
def test_a_page_is_kept_nowhere(console: TestClient, address: str) -> None:
    assert console.get(address).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("address", ["/", "/rounds/federation/demo-1", "/static/console.css"])
def test_nothing_but_get_and_head_is_answered(console: TestClient, method: str, address: str) -> None:
    answer = console.request(method, address)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}  # the order is a set's
    assert "kubectl" in answer.text


def test_head_answers_as_get_without_a_body(console: TestClient) -> None:
    assert (console.head("/rounds").status_code, console.head("/rounds").text) == (200, "")


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/rounds/federation/none", 404, "There is no FederationRound none in namespace federation"),
        ("/models/federation/none", 404, "There is no GlobalModel none"),
        ("/rounds/", 404, "There is no such page"),
        ("/secrets", 404, "There is no such page"),
        ("/static/../app.py", 404, "There is no such page"),
        ("/static/app.py", 404, "There is no such file"),
        ("/static/%2e%2e%2fapp.py", 404, "no such"),
        ("/rounds?phase=lost", 400, "phase must be one of running, suspended, complete, failed"),
        ("/models?page=2", 400, "page must be a whole number from 1 to 1"),
        ("/?x=" + "y" * 600, 414, "longer than 512 characters"),
    ],
)
def test_an_address_that_leads_nowhere_is_answered_with_what_is_wrong(
    console: TestClient, address: str, status: int, said: str
) -> None:
    answer = console.get(address)
    assert answer.status_code == status
    assert said in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example.org", "", "localhost.evil.example.org", "localhost@evil", "LOCALHOST:80:80"]
)
def test_another_host_name_is_refused_so_that_no_foreign_page_can_read_it(console: TestClient, host: str) -> None:
    answer = console.get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "demo-1" not in answer.text
    assert "console.hosts" in answer.text


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8080", "localhost"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        (":80", ":80"),
    ],
)
def test_the_port_is_no_part_of_the_host_name(header: str, name: str) -> None:
    assert host_name(header) == name


def test_html_in_a_resource_is_shown_as_text(console: TestClient, cache: Cache) -> None:
    hostile = model_object("hostile", digest(3), {"name": "base", "digest": digest(0)})
    hostile["spec"]["strategy"] = HTML
    hostile["spec"]["metrics"] = {HTML: 1.0}
    hostile["spec"]["contributors"][0]["site"] = HTML
    cache.put("globalmodels", hostile)
    troubled = round_object(phase="Training", reason=HTML)
    troubled["status"]["sites"][1]["message"] = HTML
    troubled["status"]["sites"][1]["job"] = HTML
    cache.put("federationrounds", named(troubled, "troubled"))
    for address in ("/", "/models", "/models/federation/hostile", "/rounds", "/rounds/federation/troubled"):
        text = console.get(address).text
        assert "<img src=x" not in text, address
        assert "&lt;img src=x onerror=" in text, address


def test_html_in_an_address_is_shown_as_text(console: TestClient) -> None:
    text = console.get("/rounds/federation/%3Cimg%20src=x%20onerror=alert(1)%3E").text
    assert "<img src=x" not in text
    assert "There is no FederationRound &lt;img src=x onerror=alert(1)&gt;" in text


def test_it_is_ready_only_when_every_kind_was_read_and_lives_before() -> None:
    cache = Cache()
    with client(cache) as console:
        assert console.get("/healthz").text == "ok\n"
        answer = console.get("/readyz")
        assert answer.status_code == 503
        assert "federationrounds" in answer.text
        assert "Still reading FederationRounds" in console.get("/").text


def test_a_page_of_before_says_since_when_the_api_server_is_silent(console: TestClient, cache: Cache) -> None:
    cache.failed("hospitals", datetime(2026, 11, 24, 12, 0, tzinfo=UTC), "the API server does not answer")
    text = console.get("/").text
    assert "Not up to date." in text
    assert '<time datetime="2026-11-24T12:00:00Z" title="24 Nov 2026, 12:00:00 UTC">10 minutes ago</time>' in text
    assert console.get("/readyz").status_code == 200


def test_a_resource_of_another_version_is_named_on_every_page_and_has_none_of_its_own(
    console: TestClient, cache: Cache
) -> None:
    odd = named(round_object(), "odd")
    odd["spec"]["teleport"] = True
    cache.put("federationrounds", odd)
    assert "FederationRound federation/odd is of another version" in console.get("/hospitals").text
    answer = console.get("/rounds/federation/odd")
    assert answer.status_code == 501
    assert "teleport" in answer.text


def test_state_is_told_by_word_and_shape_not_by_colour_alone(console: TestClient) -> None:
    text = console.get("/rounds/federation/demo-1").text
    badges = re.findall(r'<span class="badge badge-(\w+)"><svg class="icon icon-(\w+)".*?</svg>([^<]+)</span>', text)
    assert {(kind, word) for kind, _, word in badges} == {
        ("running", "Training"),
        ("done", "Succeeded"),
        ("running", "Running"),
        ("warning", "Waiting to try again"),
        ("failed", "Refused"),
    }
    assert all(kind == shape for kind, shape, _ in badges)


def test_every_time_is_for_machines_too(console: TestClient) -> None:
    for address in PAGES:
        for at in re.findall(r"<time([^>]*)>", console.get(address).text):
            assert re.match(r' datetime="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"', at)
