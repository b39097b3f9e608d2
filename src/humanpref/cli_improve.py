"""`humanpref improve`: raising the score, and measuring by how much. A command a module."""

from __future__ import annotations

import typer

from humanpref.cli_improve_best_of import best_of_command
from humanpref.cli_improve_compare import compare_command
from humanpref.cli_improve_finetune import finetune_command
from humanpref.cli_improve_tokens import templates_command, tokens_command

improve_app = typer.Typer(no_args_is_help=True, help="Raise the score, and measure by how much.")
improve_app.command("compare")(compare_command)
improve_app.command("best-of")(best_of_command)
improve_app.command("tokens")(tokens_command)
improve_app.command("templates")(templates_command)
improve_app.command("finetune")(finetune_command)
