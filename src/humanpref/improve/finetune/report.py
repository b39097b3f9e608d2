"""What a fine-tuning leaves for people: the LoRA's card with figures, curves and pictures, and its log as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from humanpref.errors import MissingExtraError
from humanpref.improve.finetune.loop import PICTURES
from humanpref.report.plots import new_figure
from humanpref.report.write import write_whole
from humanpref.training.checkpoints import LOG, read_log

if TYPE_CHECKING:
    from humanpref.improve.finetune.run import FinetuneReport
    from humanpref.improve.gains import Gain

CARD, CURVES, TABLE = "README.md", "curves.svg", "log.csv"
SOURCES = {
    "draft": "DRaFT, arXiv 2309.17400",
    "refl": "ReFL, arXiv 2304.05977",
    "dpo": "Diffusion-DPO, arXiv 2311.12908",
}


def write_report(report: FinetuneReport) -> None:
    """Write card, curves (where matplotlib is there) and log.csv into the run's folder."""
    rows = read_log(report.out / LOG)
    write_whole(report.out / TABLE, _csv(rows))
    curves = _curves(report, rows)
    if curves:
        write_whole(report.out / CURVES, curves)
    write_whole(report.out / CARD, card(report, curves=bool(curves)))


def card(report: FinetuneReport, *, curves: bool) -> str:
    """The LoRA's card in Markdown, with the Hub's metadata at its head."""
    config, best = report.config, report.state.best_step
    text = f"---\nlibrary_name: diffusers\npipeline_tag: text-to-image\nbase_model: {report.model}\n"
    text += "tags:\n- lora\n- text-to-image\n- human-preference\n---\n\n"
    text += f"# {report.out.resolve().name}\n\nA LoRA for `{report.model}`, fine-tuned by `humanpref improve finetune` "
    text += f"({SOURCES[config.algorithm]}).\n\n## What it gains\n\n"
    text += f"One image of each of {len(report.held_out)} held-out prompts, same noise before and after; gains with "
    text += "paired 95 % intervals by a bootstrap over prompts. The step was chosen on these very prompts.\n\n"
    text += "| scorer | before | after | gain |\n|---|---|---|---|\n"
    role = "" if config.algorithm == "dpo" else " (trained on)"
    text += _row(f"{report.scorer}{role}", report.reward)
    if report.check is not None:
        text += _row(f"{report.check_scorer} (decides, not trained on)", report.check)
    if best == 0:
        text += "\n**No step was better than the model as it was: this LoRA does nothing.**\n"
    if report.overoptimised:
        text += f"\nBeware: {report.overoptimised}.\n"
    text += f"\n![curves]({CURVES})\n" if curves else ""
    text += f"\nBefore, at step 0, and after:\n\n![before]({PICTURES}/step-000000.png)\n"
    text += f"\n![after]({PICTURES}/step-{best or 0:06d}.png)\n"
    text += "\n## Use\n\n```python\nfrom diffusers import DiffusionPipeline\n\n"
    text += f'pipeline = DiffusionPipeline.from_pretrained("{report.model}")\n'
    text += f'pipeline.load_lora_weights("{report.lora.parent.name}", weight_name="{report.lora.name}")\n```\n\n'
    text += f"or `humanpref generate PROMPTS --backend diffusers:{report.model} --lora {report.lora.name} ...`\n\n"
    text += "## Training\n\n" + "".join(f"- {name}: {value}\n" for name, value in facts(report))
    changed = [f"{f.name}={getattr(config, f.name)}" for f in fields(config) if getattr(config, f.name) != f.default]
    return text + f"- options: {', '.join(changed) or 'as they are by default'}\n"


def facts(report: FinetuneReport) -> list[tuple[str, str]]:
    """What a run was, in words."""
    done, config = report.state.step, report.config
    seen = done * config.batch * config.accumulate
    return [
        ("model", f"{report.model}, revision {report.revision}"),
        ("steps", f"{done:,} of {config.steps:,}" + (", stopped early" if report.stopped_early else "")),
        ("best step", f"{report.state.best_step:,}"),
        ("pairs seen" if config.algorithm == "dpo" else "images sampled", f"{seen:,}"),
        ("training prompts", f"{report.prompts:,}" + (f", {report.pairs:,} pairs" if report.pairs else "")),
        ("trained numbers", f"{report.parameters:,}"),
        *[("note", note) for note in report.notes],
    ]


def show(found: Gain) -> str:
    """A gain with its interval: "+0.031 [+0.012, +0.050]"."""
    text = f"{found.gain:+.4g}"
    if found.ci is None:
        return f"{text} (too few prompts for an interval)"
    return f"{text} [{found.ci[0]:+.4g}, {found.ci[1]:+.4g}]"


def _row(name: str, found: Gain) -> str:
    return f"| {name} | {found.baseline:.4g} | {found.mean:.4g} | {show(found)} |\n"


def _csv(rows: list[dict[str, Any]]) -> str:
    """One line for each logged step or validation: step, and means of what was logged."""
    flat = []
    for row in rows:
        held = {f"validation_{name}": sum(v) / len(v) for name, v in row.get("validation", {}).items() if v}
        flat.append({**{name: value for name, value in row.items() if name != "validation"}, **held})
    names = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _curves(report: FinetuneReport, rows: list[dict[str, Any]]) -> str:
    """Loss, and both scorers on the held-out prompts, over steps, as SVG; "" without matplotlib."""
    try:
        figure = new_figure(9, 2.8, facecolor="white")
    except MissingExtraError:
        return ""
    steps = [row for row in rows if "loss" in row]
    panels = [("loss", [row["step"] for row in steps], [row["loss"] for row in steps], "")]
    for name, kind in ((report.scorer, "reward"), (report.check_scorer, "check")):
        if name is not None:
            values = [sum(getattr(v, kind)) / len(getattr(v, kind)) for v in report.validations]
            panels.append((f"{name}, held out", [v.step for v in report.validations], values, "o"))
    for axis, (title, x, y, marker) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axis.plot(x, y, marker=marker, markersize=3, linewidth=1.2)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if marker:
            axis.axvline(report.state.best_step, color="0.5", linewidth=0.8, linestyle="--")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
