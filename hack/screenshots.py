"""Pictures of a console's pages for the documentation: ``python -m hack.screenshots`` on the embedded cluster.

They are of what is in the cluster, so run a round first: ``make demo``, then enable the console.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hack.browser import chromium
from hack.cluster import gotools
from hack.cluster.progress import Progress
from hack.cluster.settings import Paths
from hack.testenv.consoles import forwarded

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TARGET = Path(__file__).resolve().parent.parent / "docs/images/console"
WIDTH, HEIGHT = 1200, 800
Scheme = Literal["light", "dark"]


def pictures(browser: Browser, address: str, folder: Path, wanted: dict[str, tuple[str, Scheme]]) -> None:
    """Write a picture of each page: by file name, its address and colour scheme."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (path, scheme) in wanted.items():
        page: Page = browser.new_page(
            base_url=address, viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme
        )
        page.goto(path)
        page.evaluate("document.fonts.ready")
        page.screenshot(path=folder / f"{name}.png", full_page=True)
        page.close()
        print(f"wrote {folder / name}.png")


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m hack.screenshots", description="Takes pictures of the console.")
    parser.add_argument("--federation", required=True, help="a campaign, as namespace/name")
    parser.add_argument("--round", required=True, help="a round, as namespace/name")
    parser.add_argument("--hospital", required=True, help="a hospital, as namespace/name")
    chosen = parser.parse_args()
    paths = Paths.from_env(os.environ)
    kubectl = gotools.ensure(["kubectl"], paths.cache, Progress())["kubectl"]
    wanted: dict[str, tuple[str, Scheme]] = {
        "overview": ("/", "light"),
        "round": (f"/rounds/{chosen.round}", "light"),
        "round-dark": (f"/rounds/{chosen.round}", "dark"),
        "federation": (f"/federations/{chosen.federation}", "light"),
        "hospital": (f"/hospitals/{chosen.hospital}", "light"),
    }
    with forwarded(kubectl, paths.kubeconfig) as address, chromium() as browser:
        pictures(browser, address, TARGET, wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
