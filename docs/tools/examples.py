"""Run what the how-to pages show and put the output in: python docs/tools/examples.py [--check]

Every block of kind `console` is run: lines that begin with `$ ` are commands of bash, which go on after a backslash or
within an open quotation mark ('); the lines below are what they print. The pages share one fresh folder and are run in
the order of the navigation, so that a page may use what one before it made. `--check` changes nothing, and ends with
status 1 where the output is another.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "demo",
    "score",
    "models",
    "evaluate",
    "data",
    "prompts",
    "generate",
    "improve",
    "tokens",
    "finetune",
    "batch",
    "annotate",
    "serve",
    "official",
)
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARIES = re.compile(
    r"(?<![\w-])[\w-]{32}(?![\w-])|\b(?:[0-9a-f]{12}|[0-9a-f]{16})\b"  # tokens, handles, identities
    r"|\d{4}-\d\d-\d\dT[\d:.]+\S*| *\d+\.\d\d(?=   (?:run1|noisy|unchanged)$)"  # times, speeds
    r"| *\d+\.\d(?= +\d+   (?:table-)?scores$)"
    r"|(?<= \d\d) +\d+\.\d\d$| +\d+\.\d\d +\d+\.\d x$"  # seconds an image or prompt, costs
    r"|could not be downloaded \(.*?\)\. ",  # what the Hub's client says
    re.MULTILINE,
)
"""What is another each time."""


def main() -> int:
    """Run all pages; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        for name in PAGES:
            page = ROOT / "docs" / "how-to" / f"{name}.md"
            old = page.read_text(encoding="utf-8")
            new = BLOCK.sub(lambda match: f"```console\n{run_block(match[1], work)}```", old)
            if VARIES.sub("*", old) == VARIES.sub("*", new):
                continue
            different += 1
            print(*difflib.unified_diff(old.splitlines(), new.splitlines(), str(page), "as run", lineterm=""), sep="\n")
            if not check:
                page.write_text(new, encoding="utf-8")
    return 1 if check and different else 0


def run_block(block: str, work: Path) -> str:
    """Run a block's commands one after the other -> the block as it should read."""
    shown = []
    for command in commands(block):
        print(command, file=sys.stderr)
        code = re.sub(r"^(\$|>) ", "", command, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", code],
            cwd=work, env=environment(work), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        printed = done.stdout.replace(str(work.parent), "/home/you").rstrip("\n")
        shown.append(f"{command}\n{printed}".rstrip("\n"))
    return "\n".join("\n".join(line.rstrip() for line in text.splitlines()) for text in shown) + "\n"


def commands(block: str) -> list[str]:
    """The commands of a block, each with the lines it goes on over."""
    found: list[str] = []
    goes_on = False
    for line in block.splitlines():
        if goes_on:
            found[-1] += f"\n{line}"
        elif line.startswith("$ "):
            found.append(line)
        else:
            continue
        goes_on = found[-1].endswith("\\") or found[-1].count("'") % 2 == 1
    return found


def environment(work: Path) -> dict[str, str]:
    """No network, no cache of the user's, the commands of this interpreter first, a page's width of text."""
    bin_folder = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100", "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work.parent / "hub"), "HPS_ROOT": str(work.parent / "hps"), "PYTHONIOENCODING": "utf-8",
        "HUMANPREF_CACHE": str(work.parent / "scores.sqlite"), "TERM": "dumb",
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
