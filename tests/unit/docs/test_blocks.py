"""Command blocks of README, tutorial and guides: each is run by a test, or says why not."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.documentation import COMMANDS, PAGES, ROOT, Reader, blocks, loose, missing, parse, steps, to_run


def reader(folder: Path) -> Reader:
    (folder / "checkout").mkdir()
    return Reader(folder / "checkout", os.environ)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_block_is_run_or_says_why_not(page: str) -> None:
    run = {str(block) for block in to_run(page)}
    for block in blocks(page):
        assert block.language, f"{block}: a block needs a language; text for what is no command"
        if block.language in COMMANDS:
            reason = block.not_run
            assert (str(block) in run) != (reason is not None), block
            assert reason is None or len(reason.split()) >= 4, f"{block}: the reason is no sentence: {reason!r}"
        else:
            hidden = re.search(r"^\$ |^(umim|kubectl|helm|make) ", block.text, re.MULTILINE)
            assert not hidden, f"{block}: a command in a block of {block.language}, which nobody runs"


@pytest.mark.parametrize("page", PAGES)
def test_most_of_what_a_page_tells_to_type_is_run(page: str) -> None:
    commands = [block for block in blocks(page) if block.language in COMMANDS]
    if page != "README.md":  # whose commands are those that set everything up
        assert len(to_run(page)) > len(commands) / 2


def test_a_block_in_a_list_counts_and_a_comment_belongs_to_the_block_right_behind_it() -> None:
    text = "<!-- not run: a reason -->\n```sh\na\n```\n\n```sh\nb\n```\n\n- x\n\n  ```console\n  $ c\n  d\n  ```\n"
    found = parse("page", text)
    assert [(one.language, one.text, one.not_run) for one in found] == [
        ("sh", "a\n", "a reason"),
        ("sh", "b\n", None),
        ("console", "$ c\nd\n", None),
    ]
    assert [(one.command, one.output) for one in steps(found[2])] == [("c", ("d",))]


def test_a_console_block_that_begins_with_output_is_no_console_block() -> None:
    with pytest.raises(ValueError, match=r"page:1.*'\$ command'"):
        steps(parse("page", "```console\noutput\n```\n")[0])


def test_numbers_digests_and_ages_may_differ_and_words_may_not() -> None:
    page = "demo-1   Complete   3/2/3   100%   demo-1-67d72a37   1m40s   1.372 -> 0.846    -38 %"
    here = "demo-2  Complete  3/2/3  100%  demo-2-0edbde5d  28s  0.9 -> 1.1  +4 %"
    assert loose(page) == loose(here)
    assert missing([page], f"before\n{here}\nafter") == []
    assert missing([page], here.replace("Complete", "Failed")) == [page]


def test_every_new_key_is_another_one() -> None:
    page, here = (f"public key: {key}" for key in ("oL03P35J0TNVYgo4dhGQumEximQwr9sLw3P21JwkvsI=", f"{'A/' * 21}+="))
    assert missing([page], here) == []


def test_expected_lines_come_in_their_order() -> None:
    assert missing(["a", "b"], "a\nx\nb") == []
    assert missing(["b", "a"], "a\nx\nb") == ["a"]
    assert missing(["a", "...", "b"], "a\nx\nb") == []


def test_a_reader_keeps_variables_and_stops_at_the_first_command_that_fails(tmp_path: Path) -> None:
    typing = reader(tmp_path)
    for block in parse("page", "```sh\nNAME=x\n```\n\n```console\n$ echo $NAME 7\nx 8\n```\n"):
        typing.run(block)
    (wrong,) = parse("page", "```sh\nfalse\ntouch reached\n```\n")
    with pytest.raises(AssertionError, match="exit status 1 of page:1"):
        typing.run(wrong)
    assert not (typing.folder / "reached").exists()


def test_output_that_is_not_what_the_page_shows_fails(tmp_path: Path) -> None:
    (block,) = parse("page", "```console\n$ echo NAME AGE\nNAME PHASE\n```\n")
    with pytest.raises(AssertionError, match="the page shows, the command does not print:\nNAME PHASE"):
        reader(tmp_path).run(block)


def test_a_command_that_umim_no_longer_has_fails(tmp_path: Path) -> None:
    (block,) = parse("page", "```sh\npython -c 'from umim.cli.main import app; app()' rounds describe-all\n```\n")
    typing = reader(tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    typing.environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}"}
    with pytest.raises(AssertionError, match="exit status 2"):
        typing.run(block)


def test_a_file_of_the_page_is_written_with_this_clusters_names(tmp_path: Path) -> None:
    typing = reader(tmp_path)
    typing.replace = {"hospital-a": "t-guide"}
    (block,) = parse("page", "<!-- file: a/hospital-a.yaml -->\n```yaml\nname: hospital-a\n```\n")
    typing.run(block)
    assert (typing.folder / "a/t-guide.yaml").read_text() == "name: t-guide\n"
