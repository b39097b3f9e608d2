"""What a run leaves for people: the model card, and one HTML page with its curves."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from humanpref.errors import MissingExtraError
from humanpref.report.plots import new_figure
from humanpref.report.write import write_whole
from humanpref.training.checkpoints import LOG, read_log
from humanpref.training.config import PRESETS, TrainConfig

if TYPE_CHECKING:
    from humanpref.records import Measure
    from humanpref.training.run import TrainReport

PAGE, CARD = "report.html", "README.md"


def write_card(report: TrainReport) -> None:
    """Write the model card into the export folder: the data, the recipe, the accuracy and its interval, how to load
    it."""
    if report.exported is None:
        return
    write_whole(report.exported.folder / CARD, card(report))


def card(report: TrainReport) -> str:
    """The model card in Markdown, with the Hub's metadata at its head."""
    exported, counts = report.exported, report.counts
    assert exported is not None
    rows = [
        ("rankings", f"{counts.rankings:,}"),
        ("training examples", f"{counts.examples:,}"),
        ("labelled pairs", f"{counts.pairs:,} ({counts.tied_pairs:,} ties)"),
        ("prompts, images", f"{counts.prompts:,}, {counts.images:,}"),
        (
            "images missing or unreadable",
            f"{counts.missing_images:,} missing, {report.outcome.skipped:,} examples unreadable",
        ),
        ("rankings and rows left out", f"{counts.dropped_rankings:,}, {counts.bad_rows:,}"),
    ]
    text = _METADATA + f"# {exported.name}\n\n"
    text += (
        "A human preference model: given a prompt, which image would a person prefer? Trained by `humanpref train`.\n\n"
    )
    text += "## Accuracy\n\n" + _accuracy(report) + "\n\n## Use\n\n```python\nimport humanpref\n\n"
    text += f'scorer = humanpref.load_scorer("{exported.folder.name}")  # this folder\n'
    text += 'scores = scorer.score(["a.png", "b.png"], "A cat with two horns on its head")\n```\n\n'
    text += "## Data\n\n" + "".join(f"- {name}: {value}\n" for name, value in rows) + "\n## Training\n\n"
    base = report.config.base or "none (random weights)"
    text += f"- from: {base}, architecture {report.config.arch}\n"
    text += f"- trained numbers: {report.free:,} of {report.parameters:,}\n"
    text += f"- steps: {report.outcome.state.step:,}"
    text += " (stopped early)\n" if report.outcome.stopped_early else f" of {report.config.steps:,}\n"
    text += f"- preset `{report.config.preset}`" + _changes(report.config) + "\n"
    return text


def _accuracy(report: TrainReport) -> str:
    if report.evaluation is None:
        return "Not measured: there was no validation data."
    found, (scorer,) = report.evaluation, report.evaluation.scorers
    lines = [
        f"On the validation data ({found.instances} groups, {found.prompts} prompts, {found.pairs} pairs), with 95 % "
        "intervals by a bootstrap over prompts; the weights are the best of the run by this very data:",
        "",
        f"- pairs ordered as people do: {_percent(scorer['pair_accuracy'])}",
        f"- by HPD v2's rule: {_percent(scorer['accuracy'])}",
    ]
    if report.overlap is not None:
        lines.append(f"- beware: {report.overlap}")
    return "\n".join(lines)


def _percent(measure: Measure) -> str:
    text = f"{100 * measure.value:.1f} %"
    if measure.ci is None:
        return text + " (too few prompts for an interval)"
    return text + f" [{100 * measure.ci[0]:.1f}, {100 * measure.ci[1]:.1f}]"


def _changes(config: TrainConfig) -> str:
    base = PRESETS.get(config.preset, TrainConfig())
    changed = [
        f"{f.name}={getattr(config, f.name)}"
        for f in fields(config)
        if getattr(config, f.name) != getattr(base, f.name)
    ]
    return f" with {', '.join(changed)}" if changed else " as it is"


def write_page(report: TrainReport) -> None:
    """Write `report.html`: figures, curves, configuration; without matplotlib the curves stay in `log.jsonl`."""
    rows = read_log(report.out / LOG)
    try:
        curves = _curves(rows)
    except MissingExtraError:
        curves = "<p>The curves are in log.jsonl; to draw them: pip install &quot;humanpref[report]&quot;.</p>"
    facts = [
        ("steps", f"{report.outcome.state.step:,} of {report.config.steps:,}"),
        ("trained numbers", f"{report.free:,} of {report.parameters:,}"),
        ("examples, pairs", f"{report.counts.examples:,}, {report.counts.pairs:,}"),
        ("prompts, images", f"{report.counts.prompts:,}, {report.counts.images:,}"),
    ]
    best = report.outcome.state
    if best.best_accuracy is not None:
        facts.append(("best validation", f"{100 * best.best_accuracy:.1f} % of pairs, at step {best.best_step:,}"))
    if report.evaluation is not None:
        facts.append(
            ("exported model", f"{_percent(report.evaluation.scorers[0]['pair_accuracy'])} of the validation pairs")
        )
    facts += [("note", note) for note in report.notes]
    config = [(f.name, str(getattr(report.config, f.name))) for f in fields(report.config)]
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>Training</title><style>{_STYLE}</style>"
    page += f"<h1>Training: {html.escape(report.out.name)}</h1>{_table(facts)}{curves}"
    page += f"<h2>Configuration</h2>{_table(config)}"
    write_whole(report.out / PAGE, page + "</html>\n")


def _curves(rows: Sequence[dict[str, Any]]) -> str:
    """Loss, accuracy, learning rate and throughput over steps, as inline SVG."""
    figure = new_figure(9, 6)
    steps = [row for row in rows if "loss" in row]
    checks = [row for row in rows if "validation" in row]
    axes = figure.subplots(2, 2)

    def draw(
        axis: Any, title: str, lines: Sequence[tuple[str, Sequence[dict[str, Any]], Callable[[Any], float]]]
    ) -> None:
        for label, own, value in lines:
            if own:
                marker = "." if len(own) < 60 else ""
                axis.plot([r["step"] for r in own], [value(r) for r in own], label=label, marker=marker, linewidth=1.2)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if len([1 for _, own, _ in lines if own]) > 1:
            axis.legend(frameon=False, fontsize=8)

    def checked(name: str) -> Callable[[Any], float]:
        return lambda row: float(row["validation"][name])

    losses = [("training", steps, lambda r: r["loss"]), ("validation, pair loss", checks, checked("loss"))]
    draw(axes[0][0], "loss", losses)
    right = [("training", steps, lambda r: r["accuracy"]), ("validation", checks, checked("pair_accuracy"))]
    draw(axes[0][1], "pairs ordered as people do", right)
    draw(axes[1][0], "learning rate", [("", steps, lambda r: r["learning_rate"])])
    draw(axes[1][1], "images per second", [("", steps, lambda r: r["images_per_second"])])
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return f"<figure>{text[text.index('<svg') :]}</figure>"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
th{text-align:left;font-weight:400;color:#666;padding-right:2rem;vertical-align:top}figure{margin:1.5rem 0}
svg{max-width:100%;height:auto;background:#fff}"""

_METADATA = """---
library_name: humanpref
pipeline_tag: image-text-to-text
tags:
- human-preference
- text-to-image
- clip
---

"""
