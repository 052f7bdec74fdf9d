"""Run one long command with its output in a log file."""

from __future__ import annotations

import subprocess
from pathlib import Path

_TAIL_LINES = 20


class ImageError(Exception):
    """A failure that the user can act on: the message says what failed and what to do."""


def tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a log file, or nothing where there is none."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def run_logged(command: list[str], log: Path, environ: dict[str, str], descriptor: int) -> None:
    """Run `command`, append its output to `log`, hand it the lock's file descriptor.

    Raises:
        ImageError: it ended with another status than 0; the message has the end of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"\n$ {' '.join(command)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            pass_fds=(descriptor,),
        )
        try:
            status = process.wait()
        except BaseException:  # Ctrl-C as well: no command may go on unattended
            process.terminate()
            process.wait()
            raise
    if status != 0:
        raise ImageError(
            f"`{command[0]}` ended with status {status}. The end of {log}:\n{tail(log)}\n"
            "Run the same command again: images that are done are kept."
        )
