"""The documentation as a site: links, nav and Markdown as on the forge. ``make lint`` builds it strictly."""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import markdown
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mkdocs.config import load_config

from hack.docsite import (
    ForgeIndent,
    expanded,
    relinked,
    site_path,
    source_path,
    spaced,
    with_code_in_tables,
    with_mathml,
)

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"<(h[1-6]|table|tr|ul|ol|li|pre|img|blockquote|strong|em|hr)\b")
PART = st.from_regex(r"[a-z]{1,4}", fullmatch=True)
PATHS = st.lists(PART, min_size=1, max_size=4).map("/".join)


def build(site: Path, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site), *arguments]
    around = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def python_markdown() -> markdown.Markdown:
    config = load_config(str(ROOT / "mkdocs.yml"))
    return markdown.Markdown(
        extensions=[ForgeIndent(), *config.markdown_extensions], extension_configs=config.mdx_configs
    )


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        found = re.findall(r"<(?:link|script|img|iframe|source)[^>]*(?:src|href)=[\"']?(https?:)?//", page.read_text())
        assert not found, page


def test_every_page_and_every_file_that_one_links_to_is_in_the_site(site: Path) -> None:
    for page in PAGES:
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()
    assert (site / "repo/charts/umim/index.html").is_file()
    assert (site / "repo/manifests/samples/federation.yaml").is_file()


def test_every_relative_link_of_the_site_leads_to_a_file(site: Path) -> None:
    count = 0
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its links are absolute: it is served at any address
            continue
        for link in re.findall(r"(?:src|href)=\"?([^\"\s>]+)", page.read_text()):
            path = unquote(link.split("#")[0])
            if path and not re.match(r"[a-z]+:", path):
                assert (page.parent / path).exists(), (page, link)
                count += 1
    assert count > 1000


def test_every_page_has_a_place_in_the_menu(site: Path) -> None:
    menu = (site / "index.html").read_text()
    for page in PAGES:
        assert f'href="{page.relative_to(ROOT / "docs").with_suffix(".html")}"' in menu, page


def test_every_formula_is_drawn_and_none_has_a_command_that_the_site_does_not_know(site: Path) -> None:
    text = (site / "concepts/learning.html").read_text()
    source = (ROOT / "docs/concepts/learning.md").read_text()
    assert text.count('display="block"') == source.count("```math") > 2
    for page in site.rglob("*.html"):
        for formula in re.findall(r"<math .*?</math>", page.read_text(), re.DOTALL):
            assert "\\" not in formula, (page, formula)


def test_no_pipe_of_a_table_has_a_backslash(site: Path) -> None:
    text = (site / "reference/cli.html").read_text()
    assert "umim init federation|round|hospital" in text
    for cell in re.findall(r"<td[ >].*?</td>", text, re.DOTALL):
        assert "\\|" not in cell


def test_a_search_finds_the_words_of_a_page(site: Path) -> None:
    assert "noiseMultiplier" in (site / "search/search_index.json").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_the_same_parts_in_the_site_as_on_the_forge(page: Path, python_markdown: markdown.Markdown) -> None:
    text = page.read_text()
    without_formulas = re.sub(r"^```math\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    forge = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(without_formulas)
    assert Counter(BLOCK.findall(python_markdown.reset().convert(spaced(text)))) == Counter(BLOCK.findall(forge))


def test_each_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    wrong = ["missing.md", "../missing-outside.md", "page.md#nowhere", "/absolute.md", "page.html"]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# Start\n\n" + "\n\n".join(f"[x]({link})" for link in wrong))
    (tmp_path / "docs/page.md").write_text("# Page\n\n[back](index.md#start)\n")
    config = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[0]
    (tmp_path / "mkdocs.yml").write_text(config.replace("hack/docsite.py", str(ROOT / "hack/docsite.py")))
    done = build(tmp_path / "site", folder=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("WARNING") == len(wrong), done.stderr
    for link in wrong:
        assert link.split("#")[-1] in done.stderr


@given(PATHS)
def test_a_path_of_the_repository_and_one_of_the_site_name_each_other(path: str) -> None:
    for one in (path, f"docs/{path}"):
        if not one.startswith("repo"):
            assert source_path(site_path(one)) == one


@given(PATHS, PATHS, st.booleans(), st.booleans())
def test_a_link_leads_to_the_same_file_before_and_after(source: str, target: str, inside: bool, aims_in: bool) -> None:
    source, target = (
        f"docs/{source}.md" if inside else f"{source}.md",
        f"docs/{target}.md" if aims_in else f"{target}.md",
    )
    link = posixpath.relpath(target, posixpath.dirname(source) or ".")
    text, outside = relinked(f"[a]({link}#b)", source, lambda path: path == target)
    new = text.removeprefix("[a](").removesuffix("#b)")
    assert posixpath.normpath(posixpath.join(posixpath.dirname(site_path(source)), new)) == site_path(target)
    assert outside == ([] if target.startswith("docs/") else [target])


def test_links_in_code_and_to_other_hosts_stay() -> None:
    text = "[a](https://b.example/c.md) [d](#e)\n\n```md\n[x](../y.md)\n```\n"
    assert relinked(text, "docs/page.md", lambda _: True) == (text, [])


def test_a_folder_in_the_nav_stands_for_the_pages_that_nothing_else_names() -> None:
    nav = [{"A": ["a/one.md", "a/"]}, {"B": ["b/"]}, {"C": "c.md"}, {"More": ["./"]}]
    pages = ["a/two.md", "a/one.md", "a/three.md", "c.md", "d.md"]
    assert expanded(nav, pages) == [{"A": ["a/one.md", "a/three.md", "a/two.md"]}, {"C": "c.md"}, {"More": ["d.md"]}]


def test_a_list_behind_a_paragraph_is_set_apart_and_one_in_code_is_not() -> None:
    assert spaced("a\n- b\n- c\n") == "a\n\n- b\n- c\n"
    assert spaced("- a\n  b\n- c\n") == "- a\n  b\n- c\n"
    assert spaced("- a\n\n  ```\n  b\n  ```\n- c\n") == "- a\n\n  ```\n  b\n  ```\n\n- c\n"
    assert spaced("```\na\n- b\n```\n") == "```\na\n- b\n```\n"


def test_code_in_a_cell_breaks_at_dots_and_other_code_stays() -> None:
    page = r"<td>a.b <code>c.d\|e</code></td><p><code>f.g\|h</code></p>"
    assert with_code_in_tables(page) == r"<td>a.b <code>c.<wbr>d|e</code></td><p><code>f.g\|h</code></p>"


def test_a_formula_becomes_mathml() -> None:
    page = with_mathml(r'<p><span class="arithmatex">\(n &lt; 2f\)</span></p>')
    assert re.fullmatch(r"<p><math .*<mi>n</mi><mo>(<|&lt;|&#x0003C;)</mo>.*</math></p>", page)
