"""`humanpref improve`: raising the score, and measuring by how much."""

from __future__ import annotations

import typer

from humanpref.cli_improve_finetune import finetune_command

improve_app = typer.Typer(no_args_is_help=True, help="Raise the score, and measure by how much.")


@improve_app.callback()
def improve_callback() -> None:
    """Raise the score, and measure by how much."""


improve_app.command("finetune")(finetune_command)
