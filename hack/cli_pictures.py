"""Pictures of the command line tool for the documentation: ``python -m hack.cli_pictures --help``.

The commands run on the cluster of KUBECONFIG, and the pictures show what they print to a terminal. Run it while the
round trains: one of them watches it.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

TARGET = Path(__file__).resolve().parent.parent / "docs/images/cli"
WIDTH = 120
TIMED_OUT = 124
"""How ``umim rounds watch`` ends after ``--timeout``."""
_AGAIN = re.compile(r"(?:\r|\x1b\[2K|\x1b\[\d*A)+")
"""What a live display writes before it draws itself anew."""
_CURSOR = re.compile(r"\x1b\[\?25[lh]")

# rich's own template fetches a font from elsewhere.
SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def last_frame(output: str) -> str:
    """Return what stands on the terminal at the end: of a live display the last drawing."""
    frames = [one for one in _AGAIN.split(_CURSOR.sub("", output).replace("\r\n", "\n")) if one.strip()]
    return frames[-1].strip("\n") if frames else ""


def picture(command: str, output: str) -> str:
    """Return an SVG of a terminal in which a command has printed this, with its colours."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    console.print(Text.from_ansi(last_frame(output)))
    return console.export_svg(title="", theme=SVG_EXPORT_THEME, code_format=SVG, unique_id="umim")


def run(arguments: Sequence[str]) -> str:
    """Return what a umim command prints to a terminal. Raises SystemExit where it fails."""
    environ = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    tool = [str(Path(sys.executable).parent / "umim"), *arguments]
    done = subprocess.run(tool, env=environ, capture_output=True, text=True, check=False)
    if done.returncode not in (0, TIMED_OUT):
        raise SystemExit(f"error: umim {' '.join(arguments)}: {done.stderr or done.stdout}")
    return done.stdout


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m hack.cli_pictures", description="Takes pictures of the CLI.")
    parser.add_argument("namespace", help="the federation's namespace")
    parser.add_argument("campaign", help="the Federation")
    parser.add_argument("round", help="a round of it that trains now")
    parser.add_argument("model", help="a model of it")
    given = parser.parse_args()
    place = ["-n", given.namespace]
    TARGET.mkdir(parents=True, exist_ok=True)
    for command, name, unseen in (
        (["rounds", "watch"], given.round, ["--timeout", "5"]),
        (["federations", "describe"], given.campaign, []),
        (["models", "lineage"], given.model, []),
    ):
        shown, path = [*command, name, *place], TARGET / f"{'-'.join(command)}.svg"
        path.write_text(picture(f"umim {' '.join(shown)}", run([*shown, *unseen])))
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
