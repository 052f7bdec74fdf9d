"""A headless Chromium for tests and pictures: ``python3 -m hack.browser`` installs it.

Debian's package, driven by playwright: playwright's own browsers are downloads of builds from elsewhere.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hack.cluster.debian import ensure_packages
from hack.cluster.progress import ClusterError, Progress

if TYPE_CHECKING:  # not there before the environment is installed
    from playwright.sync_api import Browser

PACKAGES = ("chromium", "fonts-inter")
"""Without recommended packages Chromium comes without a font that a page is meant for."""
EXECUTABLE = "chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium. Raises ClusterError when it is not installed."""
    from playwright.sync_api import sync_playwright

    path = shutil.which(EXECUTABLE)
    if path is None:
        raise ClusterError("there is no chromium: run python3 -m hack.browser, which installs Debian's package")
    with sync_playwright() as playwright:
        # Root may not use Chromium's sandbox; it sees nothing but our own pages here.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def main() -> int:
    """Install what is missing."""
    try:
        ensure_packages(PACKAGES, Progress())
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
