"""Pictures of the command line tool: what they show of what was printed."""

from __future__ import annotations

import io
from xml.etree import ElementTree

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hack.cli_pictures import last_frame, picture


def watched(*frames: str) -> str:
    """What a live display that draws these prints to a terminal."""
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    with Live(console=console, auto_refresh=False) as live:
        for frame in frames:
            live.update(Text(frame, "green"), refresh=True)
    found = console.file
    assert isinstance(found, io.StringIO)
    return found.getvalue()


def test_of_a_live_display_the_last_drawing_is_shown() -> None:
    shown = Text.from_ansi(last_frame(watched("one\nof two", "0 %\nof ten", "100 %\nof ten"))).plain
    assert shown == "100 %\nof ten"


def test_what_is_printed_once_is_shown_whole() -> None:
    assert last_frame("a\r\nb\n\nc\n") == "a\nb\n\nc"
    assert last_frame("") == ""


def test_a_picture_is_svg_with_command_and_output_and_fetches_nothing() -> None:
    text = picture("umim rounds list", "\x1b[1mNAME\x1b[0m <a & b>\n")
    root = ElementTree.fromstring(text)
    words = " ".join("".join(root.itertext()).replace("\xa0", " ").split())
    assert "$ umim rounds list" in words
    assert "NAME <a & b>" in words
    assert "url(h" not in text
    assert "@import" not in text
