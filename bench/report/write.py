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
PUBLISHED_COLUMNS = ("method", "split", "anchor", "generated", "real", "source")


def _markdown(record: Mapping[str, Any], pictures: bool) -> str:
    arms = [
        f"- **{name}**: {arm['says']}; training wrist views: {arm['train_wrist']['real']} real, "
        f"{arm['train_wrist']['generated']} generated, {arm['train_wrist']['absent']} absent; "
        f"at test: {arm['test_wrist']}."
        for name, arm in record["arms"].items()
    ]
    parts = [
        f"# {record['name']}",
        tables.markdown(tables.ARM_COLUMNS, tables.arm_rows(record)),
        "\n\n".join(tables.closure_lines(record)),
        "\n".join(arms),
        "![Average length and chain success by arm](figures/average_length.png)",
        "## Generated wrist views\n\nValidation episodes, never trained on; the generator sees the anchor view alone.",
        tables.markdown(VIDEO_COLUMNS, tables.video_rows(record)),
        "![anchor, true wrist, condition map, generated](figures/gallery.png)" if pictures else "",
        "## Published numbers",
        tables.markdown(PUBLISHED_COLUMNS, tables.published_rows()),
        "## Protocol\n\n```json\n" + json.dumps(record["fingerprint"], indent=2) + "\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _html(record: Mapping[str, Any], figure: bytes, clips: Sequence[gallery.GalleryClip]) -> str:
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
        closures=[line.replace("`", "") for line in tables.closure_lines(record)],
        arm_columns=tables.ARM_COLUMNS,
        arm_rows=tables.arm_rows(record),
        video_rows=tables.video_rows(record),
        published=tables.published_rows(),
        figure=base64.b64encode(figure).decode(),
        clips=shown,
        fingerprint=json.dumps(record["fingerprint"], indent=2),
        timings=json.dumps(record["timings"], indent=2),
    )


def write_report(record: Mapping[str, Any], clips: Sequence[gallery.GalleryClip], directory: Path) -> list[Path]:
    """Write ``report.md``, ``report.html``, ``figures/average_length.png`` and ``figures/gallery.png``.

    Args:
        record: the run's record, as in ``record.json``.
        clips: what the gallery shows; may be empty.
        directory: the run's folder.

    Returns:
        The files written.
    """
    figure = directory / "figures" / "average_length.png"
    with atomic.replacing(figure) as temporary:
        plots.average_length(record, temporary)
    written = [figure]
    if clips:
        written.append(directory / "figures" / "gallery.png")
        gallery.still(clips, written[-1])
    atomic.write_text(directory / "report.md", _markdown(record, bool(clips)))
    atomic.write_text(directory / "report.html", _html(record, figure.read_bytes(), clips))
    return [*written, directory / "report.md", directory / "report.html"]
