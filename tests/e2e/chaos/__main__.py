"""Faults on the real cluster: ``python -m tests.e2e.chaos [CASE...]``.

A case that has passed is kept in build/chaos at once, so that a run that was interrupted goes on where it was.
docs/reliability is written at the end; there a case that this checkout has not run keeps its rows.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hack.cluster.progress import Progress
from hack.testenv.hospitals import Hospitals, remove_rounds, sweep
from hack.testenv.platform import bring_up
from tests.e2e.chaos import page, rows
from tests.e2e.chaos.cases import CASES
from tests.e2e.chaos.registry import Case
from tests.e2e.chaos.world import TWINS, World


def main(arguments: Sequence[str]) -> int:
    """Run the cases that have not passed yet, and write the page."""
    options = _parser().parse_args(arguments)
    if options.list:
        for case in CASES.values():
            print(f"{case.name:26} {(case.run.__doc__ or '').strip()}")
        return 0
    unknown = sorted(set(options.cases) - set(CASES))
    if unknown:
        print(f"error: no such cases: {', '.join(unknown)}. There are: {', '.join(CASES)}", file=sys.stderr)
        return 2
    if options.again:
        for path in (
            TWINS,
            rows.FOLDER / "calm.json",
            *(rows.FOLDER / f"{name}.json" for name in options.cases or CASES),
        ):
            path.unlink(missing_ok=True)
    wanted = [CASES[name] for name in options.cases or CASES]
    open_ = [case for case in wanted if rows.load(case.name) is None]
    progress = Progress()
    failed = _run(open_, options.jobs, options.seconds, progress) if open_ else []
    found = {**page.written(), **{name: kept for name in CASES if (kept := rows.load(name)) is not None}}
    missing = [name for name in CASES if name not in found or rows.failure(name).exists()]
    page.write([row for name in CASES if name not in missing for row in found[name]], missing)
    progress.line("docs/reliability is written")
    if missing:
        progress.line(f"{len(missing)} of {len(CASES)} cases have not passed: {', '.join(missing)}")
    if failed:
        print(f"error: not survived: {', '.join(failed)}. Why is in build/chaos/CASE.failed.", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.chaos", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names; default: all that have not passed yet")
    parser.add_argument("--list", action="store_true", help="print the cases and end")
    parser.add_argument("--again", action="store_true", help="forget what has passed")
    parser.add_argument("--jobs", type=int, default=3, help="cases beside each other, where they may be; default: 3")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no case after so many seconds")
    return parser


def _run(cases: Sequence[Case], jobs: int, seconds: float, progress: Progress) -> list[str]:
    """Run cases and keep what they found. Returns the names of those that did not pass."""
    end = time.monotonic() + seconds
    signal.signal(signal.SIGTERM, _interrupt)
    progress.line(f"{len(cases)} cases; bringing the platform up")
    platform = bring_up()
    sweep(platform)
    with tempfile.TemporaryDirectory(prefix="umim-chaos-") as folder:
        Path(folder).chmod(0o755)
        hospitals = Hospitals(platform, Path(folder))
        try:
            world = World(platform, hospitals)
            together = [case for case in cases if not case.alone]
            world.company = "-in-company" if len(together) > 1 and jobs > 1 else ""
            with ThreadPoolExecutor(max(1, jobs)) as pool:
                results = list(pool.map(lambda case: _try(case, world, end, progress), together))
            world.company = ""
            for case in cases:
                if case.alone:
                    results.append(_try(case, world, end, progress))
        finally:
            remove_rounds(platform)
            hospitals.remove()
    return [name for name in results if name]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _try(case: Case, world: World, end: float, progress: Progress) -> str:
    """Run one case. Returns its name when it did not pass, else an empty string."""
    if time.monotonic() > end:
        return ""
    begin = time.monotonic()
    try:
        if case.alone:
            world.forget_models()
        found = list(case.run(world))
        lost = [row for row in found if row.lost != rows.NOTHING]
        assert not lost, lost
    except Exception:  # noqa: BLE001 one case that fails must not take the others with it
        rows.FOLDER.mkdir(parents=True, exist_ok=True)
        rows.failure(case.name).write_text(traceback.format_exc())
        progress.line(f"{case.name}: NOT PASSED after {time.monotonic() - begin:.0f} s")
        if case.alone:
            world.remove_rounds()  # the next one is alone, too
        return case.name
    rows.save(case.name, found)
    rows.failure(case.name).unlink(missing_ok=True)
    for row in found:
        progress.line(
            f"{case.name}: {row.phase}: {row.outcome[:100]}; recovery {row.recovery_s} s; lost {row.lost} "
            f"({time.monotonic() - begin:.0f} s)"
        )
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
