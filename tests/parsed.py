"""The command line with all its commands made out: for the process that `tests.commands` forks. It takes 0.2 s each time."""

from __future__ import annotations

import typer.main

from humanpref import cli

cli.app = typer.main.get_command(cli.app)
main = cli.main
