"""The commands about generators: `humanpref benchmark ...`."""

from __future__ import annotations

import typer

from humanpref.cli_benchmark_reproduce import reproduce_command
from humanpref.cli_benchmark_run import run_command
from humanpref.cli_benchmark_tables import (
    compare_command,
    people_command,
    report_command,
    stability_command,
    table_command,
)

benchmark_app = typer.Typer(
    name="benchmark",
    help="Text-to-image models on a suite of prompts, beside the published ones.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
benchmark_app.command("run")(run_command)
benchmark_app.command("table")(table_command)
benchmark_app.command("compare")(compare_command)
benchmark_app.command("stability")(stability_command)
benchmark_app.command("report")(report_command)
benchmark_app.command("reproduce")(reproduce_command)
benchmark_app.command("people")(people_command)
