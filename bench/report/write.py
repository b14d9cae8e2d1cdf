"""Writes a run's report: ``report.md``, ``report.html``, ``figures/``.  All numbers come from the record."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from bench import atomic
from bench.report import gallery, plots, tables

VIDEO_COLUMNS = ("generator", "psnr (dB)", "ssim", "frames")
SUBTASKS = (
    "Success of the subtasks that an arm attempted, and how many: it attempts one only where it solved those "
    "before it in the chain, so a better arm is asked harder ones."
)
OFFLINE = (
    "Each policy's actions against those of held-out demonstrations, in action units (1 is 2 cm or 0.05 rad), and the "
    "same when every frame is shown the wrist view of another: what a policy does not look at cannot mislead it."
)
TASK_ERRORS = "The same action error by task:"
PUBLISHED_COLUMNS = ("method", "split", "anchor", "generated", "real", "source")


def _markdown(record: Mapping[str, Any], figures: Sequence[str]) -> str:
    arms = [
        f"- **{name}**: {arm['says']}; training wrist views: {arm['train_wrist']['real']} real, "
        f"{arm['train_wrist']['generated']} generated, {arm['train_wrist']['absent']} absent; "
        f"at test: {arm['test_wrist']}."
        for name, arm in record["arms"].items()
    ]
    task_errors = tables.task_error_table(record)
    parts = [
        f"# {record['name']}",
        tables.markdown(tables.ARM_COLUMNS, tables.arm_rows(record)),
        "\n\n".join([*tables.missing_lines(record), *tables.closure_lines(record)]),
        "\n".join(arms),
        "![Average length and chain success by arm](figures/average_length.png)",
        *_subtasks(record),
        f"## On held-out demonstrations\n\n{OFFLINE}",
        tables.markdown(tables.OFFLINE_COLUMNS, tables.offline_rows(record)),
        TASK_ERRORS + "\n\n" + tables.markdown(*task_errors) if task_errors[1] else "",
        "![Loss of each training by step](figures/training.png)" if "training" in figures else "",
        "## Generated wrist views\n\nValidation episodes, never trained on; the generator sees the anchor view alone.",
        tables.markdown(VIDEO_COLUMNS, tables.video_rows(record)) if tables.video_rows(record) else "None in this run.",
        "![anchor, true wrist, condition map, generated](figures/gallery.png)" if "gallery" in figures else "",
        "## Published numbers",
        tables.markdown(PUBLISHED_COLUMNS, tables.published_rows()),
        "## Protocol\n\n```json\n" + json.dumps(record["fingerprint"], indent=2) + "\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _subtasks(record: Mapping[str, Any]) -> list[str]:
    """Return the paragraphs on subtasks by family and by task, where the record has them."""
    by_family, by_task = (tables.subtask_table(record, key) for key in ("families", "tasks"))
    if not by_family[1]:
        return []
    return [
        f"## Subtasks\n\n{SUBTASKS}",
        "![Success by family of subtasks and arm](figures/families.png)",
        tables.markdown(*by_family),
        tables.markdown(*by_task),
    ]


def _html(record: Mapping[str, Any], figures: Mapping[str, bytes], clips: Sequence[gallery.GalleryClip]) -> str:
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        resources.files("bench.report").joinpath("page.html").read_text()
    )
    shown = [
        {"title": clip.title, "psnr": clip.psnr, "data": base64.b64encode(gallery.animation(clip)).decode()}
        for clip in clips
    ]
    return template.render(
        record=record,
        closures=[line.replace("`", "") for line in [*tables.missing_lines(record), *tables.closure_lines(record)]],
        arm_columns=tables.ARM_COLUMNS,
        arm_rows=tables.arm_rows(record),
        video_rows=tables.video_rows(record),
        published=tables.published_rows(),
        figures={name: base64.b64encode(data).decode() for name, data in figures.items()},
        subtasks=[tables.subtask_table(record, key) for key in ("families", "tasks")],
        subtasks_are=SUBTASKS,
        offline_is=OFFLINE,
        offline_columns=tables.OFFLINE_COLUMNS,
        offline_rows=tables.offline_rows(record),
        task_errors=tables.task_error_table(record),
        clips=shown,
        fingerprint=json.dumps(record["fingerprint"], indent=2),
        timings=json.dumps(record["timings"], indent=2),
    )


def write_report(
    record: Mapping[str, Any],
    clips: Sequence[gallery.GalleryClip],
    directory: Path,
    trainings: Mapping[str, Path] | None = None,
) -> list[Path]:
    """Write ``report.md``, ``report.html`` and the ``figures/`` average_length, families, training and gallery.

    Args:
        record: the run's record, as in ``record.json``.
        clips: what the gallery shows; may be empty.
        directory: the run's folder.
        trainings: ``ARM-SEED`` to the folder with its loss history; None for the picture that an earlier report drew.

    Returns:
        The files written.
    """
    drawn = {"average_length": plots.average_length}
    if tables.subtask_table(record, "families")[1]:
        drawn["families"] = plots.families
    written = []
    for name, draw in drawn.items():
        written.append(directory / "figures" / f"{name}.png")
        with atomic.replacing(written[-1]) as temporary:
            draw(record, temporary)
    losses = directory / "figures" / "training.png"
    if trainings:
        with atomic.replacing(losses) as temporary:
            plots.training(trainings, temporary)
    if losses.exists():
        written.append(losses)
    figures = {path.stem: path.read_bytes() for path in written}
    if clips:
        written.append(directory / "figures" / "gallery.png")
        gallery.still(clips, written[-1])
    atomic.write_text(directory / "report.md", _markdown(record, [path.stem for path in written]))
    atomic.write_text(directory / "report.html", _html(record, figures, clips))
    return [*written, directory / "report.md", directory / "report.html"]
