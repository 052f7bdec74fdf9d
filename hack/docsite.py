"""What the site of the documentation needs beyond MkDocs: hooks, named in ``mkdocs.yml``.

- Pages link to files outside ``docs/``, as one does on a forge. Those files become part of the site, below ``repo/``;
  pages among them too, with their own links. A link to a file that does not exist is left alone: MkDocs reports it.
- A folder in ``nav`` stands for its pages that no other entry names, so that no page is left out.
- Lists read as on a forge: their items hold what is indented by two spaces (Python-Markdown wants four), and they may
  follow a paragraph without an empty line.
- Formulas become MathML. No script, so nothing to fetch.
- Code in tables has its pipes without the backslashes that the forge wants there, and long names break at dots.

https://www.mkdocs.org/dev-guide/plugins/#events
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import markdown
from latex2mathml.converter import convert
from markdown.extensions import Extension
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = "docs"
OUTSIDE = "repo"
"""Folder of the site for files of the repository outside ``docs/``."""

_FENCE = re.compile(r"^( *)(```+|~~~+).*?^ *\2 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\(\s*<?)([^)\s<>#]+)")
_ITEM = re.compile(r"^ *([-*+]|1[.)]) ")
_REMOTE = re.compile(r"^([a-z][a-z0-9+.-]*:|/)", re.IGNORECASE)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.DOTALL)
_CELL = re.compile(r"<td[ >].*?</td>", re.DOTALL)
_CODE = re.compile(r"(?<=<code>)[^<]*(?=</code>)")


class ForgeIndent(Extension):
    """Two spaces are one level, as CommonMark has it for the contents of ``- ``."""

    def extendMarkdown(self, md: markdown.Markdown) -> None:  # noqa: N802  # the name is the interface's
        """See ``Extension``. The parser is built anew, because its parts have copied the indent. Must come first."""
        md.tab_length = 2
        md.build_parser()


def site_path(path: str) -> str:
    """Return where a file of the repository lies in the site; both are relative, with forward slashes."""
    inside = path.removeprefix(f"{DOCS}/")
    return inside if inside != path else f"{OUTSIDE}/{path}"


def source_path(uri: str) -> str:
    """Return which file of the repository a file of the site is: the inverse of ``site_path``."""
    outside = uri.removeprefix(f"{OUTSIDE}/")
    return outside if outside != uri else f"{DOCS}/{uri}"


def relinked(text: str, source: str, exists: Callable[[str], bool]) -> tuple[str, list[str]]:
    """Rewrite the links of a page for the site, and return it with the files outside ``docs/`` that it links to.

    Args:
        text: the page in Markdown. What stands in fenced code stays.
        source: its path in the repository.
        exists: whether a path of the repository is a file.
    """
    outside: list[str] = []

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if _REMOTE.match(match[2]) or not exists(target):
            return match[0]
        if not target.startswith(f"{DOCS}/"):
            outside.append(target)
        return match[1] + posixpath.relpath(site_path(target), posixpath.dirname(site_path(source)) or ".")

    return _prose(text, lambda prose: _LINK.sub(link, prose)), outside


def spaced(text: str) -> str:
    """Return the page with an empty line between a paragraph, or fenced code, and a list that follows it."""

    def paragraphs(prose: str) -> str:
        lines, in_list = [""], False
        for line in prose.split("\n"):
            if not lines[-1].strip():
                in_list = _ITEM.match(line) is not None
            elif not in_list and _ITEM.match(line):
                lines.append("")
                in_list = True
            lines.append(line)
        # What stands behind fenced code begins with the end of the fence's line.
        behind_code = prose.startswith("\n") and _ITEM.match(prose[1:]) is not None
        return "\n" * behind_code + "\n".join(lines[1:])

    return _prose(text, paragraphs)


def _prose(text: str, change: Callable[[str], str]) -> str:
    """Return the page with everything changed that is not fenced code."""
    pieces, end = [], 0
    for fence in _FENCE.finditer(text):
        pieces += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, change(text[end:])])


def expanded(nav: list[Any], pages: Iterable[str]) -> list[Any]:
    """Return ``nav`` with each folder replaced by its pages that no other entry names, sorted. Empty groups go.

    Args:
        nav: as in ``mkdocs.yml``: paths, or groups as a mapping of one title to a path or a list.
        pages: paths of all pages, relative to ``docs/``.
    """
    named = set(_leaves(nav))
    left = sorted(set(pages) - named)

    def entries(items: list[Any]) -> Iterator[Any]:
        for item in items:
            if isinstance(item, str) and item.endswith("/"):
                folder = item.removesuffix("/")
                yield from (page for page in left if (posixpath.dirname(page) or ".") == folder)
            elif isinstance(item, dict) and isinstance(group := next(iter(item.values())), list):
                if inner := list(entries(group)):
                    yield {next(iter(item)): inner}
            else:
                yield item

    return list(entries(nav))


def _leaves(items: list[Any]) -> Iterator[str]:
    for item in items:
        if isinstance(item, str):
            yield item
            continue
        for value in item.values():
            yield from _leaves(value if isinstance(value, list) else [value])


def with_mathml(page: str) -> str:
    """Return the HTML with the formulas that ``arithmatex`` has marked as MathML."""

    def formula(match: re.Match[str]) -> str:
        return convert(html.unescape(match[2]), display="block" if match[1] == "div" else "inline")

    return _FORMULA.sub(formula, page)


def with_code_in_tables(page: str) -> str:
    """Return the HTML with code in tables as the forge shows it, with bare pipes, and with breaks after dots."""

    def code(match: re.Match[str]) -> str:
        return match[0].replace("\\|", "|").replace(".", ".<wbr>")

    return _CELL.sub(lambda cell: _CODE.sub(code, cell[0]), page)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Indent as the forge, and expand the folders of ``nav``."""
    config.markdown_extensions = [ForgeIndent(), *config.markdown_extensions]  # type: ignore[list-item]
    docs = Path(config.docs_dir)
    config.nav = expanded(config.nav or [], (path.relative_to(docs).as_posix() for path in docs.rglob("*.md")))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside ``docs/`` that pages link to, and those that they link to in turn."""
    root, exists = Path(config.docs_dir).parent, _is_file_below(config)
    waiting = [source_path(file.src_uri) for file in files.documentation_pages()]
    while waiting:
        source = waiting.pop()
        for target in relinked((root / source).read_text(), source, exists)[1]:
            if files.get_file_from_path(site_path(target)) is not None:
                continue
            files.append(File.generated(config, site_path(target), abs_src_path=str(root / target)))
            if target.endswith(".md"):
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Rewrite the links, and set lists apart."""
    return spaced(relinked(markdown, source_path(page.file.src_uri), _is_file_below(config))[0])


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Make MathML of the formulas, and tidy code in tables."""
    return with_code_in_tables(with_mathml(html))


def _is_file_below(config: MkDocsConfig) -> Callable[[str], bool]:
    root = Path(config.docs_dir).parent
    return lambda path: not path.startswith("..") and (root / path).is_file()
