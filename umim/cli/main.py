"""The command ``umim``. Exit codes: 0 done, 1 the watched round failed, 2 wrong usage, else as ``umim.errors``."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from umim.cli import federations, hospitals, init, models, rounds
from umim.cli.audit_leakage import audit_leakage
from umim.cli.evaluate import evaluate
from umim.cli.output import show_error
from umim.cli.preflight import preflight
from umim.cli.simulate import simulate
from umim.cli.verify import keygen, verify
from umim.errors import UmimError


class Commands(TyperGroup):
    """Turns the project's errors into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except UmimError as error:
            show_error(str(error))
            raise typer.Exit(error.exit_code) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Campaigns, rounds and models of federated training on Kubernetes.",
)
app.add_typer(federations.app, name="federations")
app.add_typer(hospitals.app, name="hospitals")
app.add_typer(rounds.app, name="rounds")
app.add_typer(models.app, name="models")
app.add_typer(init.app, name="init")
app.command()(evaluate)
app.command()(audit_leakage)
app.command()(simulate)
app.command()(preflight)
app.command()(verify)
app.command()(keygen)
