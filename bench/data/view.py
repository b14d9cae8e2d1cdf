"""An episode to look at: an mp4 and a contact sheet, every view side by side, the instruction above them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import atomic
from bench.data.episode import Episode
from bench.data.opening import open_dataset
from bench.data.overlay import Overlay
from bench.errors import UserError

FRAMES_PER_SECOND = 30
"""CALVIN records at its control rate."""

_SIDE = 200
_STRIP = 24
_COLUMNS = 4
_SHEET_FRAMES = 16
_BATCH = 64


def view(
    directory: Path | str,
    out: Path | str,
    *,
    split: str = "training",
    episode: int = 0,
    overlay: Path | None = None,
    mapping: Path | None = None,
) -> dict[str, Any]:
    """Write ``EPISODE.mp4`` and ``EPISODE.png`` of one episode and return where they lie.

    Args:
        directory: a data set of any format.
        out: folder to write into.
        split: ``"training"`` or ``"validation"``, for CALVIN.
        episode: which one, counted from 0.
        overlay: folder of generated wrist views of this data set, shown beside the recorded ones.
        mapping: see :func:`bench.data.opening.open_dataset`.

    Raises:
        UserError: no such split or episode, or a damaged frame.
    """
    dataset = open_dataset(directory, split, mapping=mapping)
    if not 0 <= episode < len(dataset.episodes):
        raise UserError(f"{dataset.directory}: expected episode 0 to {len(dataset.episodes) - 1}, got {episode}")
    chosen = dataset.episodes[episode]
    if overlay is not None:
        chosen = Overlay.open(overlay, dataset.hash()).attach(chosen)
    atomic.make_directory(Path(out))
    video, sheet = Path(out) / f"{chosen.id}.mp4", Path(out) / f"{chosen.id}.png"
    write_video(video, panels(chosen), Fraction(getattr(dataset, "rate", FRAMES_PER_SECOND)).limit_denominator(1000))
    write_contact_sheet(sheet, chosen)
    windows = [vars(window) for window in chosen.windows]
    return {
        "episode": chosen.id,
        "frames": len(chosen),
        "windows": windows,
        "video": str(video),
        "contact_sheet": str(sheet),
    }


def panels(episode: Episode, step: int = 1) -> Iterator[NDArray[np.uint8]]:
    """Yield every ``step``-th frame as uint8 (H, W, 3): the views in a row under the instruction."""
    keys = [key for key in (*episode.rig.views.values(), episode.rig.generated) if key in episode.keys]
    if not keys:
        raise UserError(f"episode {episode.id}: expected pictures to show, got none; name the cameras in a mapping")
    span = _BATCH * step
    for start in range(0, len(episode), span):
        arrays = episode.load(keys, start, min(start + span, len(episode)), step)
        for row in range(len(arrays[keys[0]])):
            frame = start + row * step
            yield _panel([arrays[key][row] for key in keys], episode.instruction_at(frame, frame + 1), frame)


def _panel(views: list[NDArray[np.uint8]], instruction: str, frame: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    widths = [round(_SIDE * image.shape[1] / image.shape[0] / 2) * 2 for image in views]
    canvas = Image.new("RGB", (sum(widths), _SIDE + _STRIP), "white")
    for column, image in enumerate(views):
        picture = Image.fromarray(image)
        method = Image.Resampling.NEAREST if picture.height < _SIDE else Image.Resampling.BOX
        canvas.paste(picture.resize((widths[column], _SIDE), method), (sum(widths[:column]), _STRIP))
    ImageDraw.Draw(canvas).text((4, 6), f"{frame}  {instruction}", fill="black")
    return np.asarray(canvas)


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], rate: Fraction | int = FRAMES_PER_SECOND) -> None:
    """Write frames as an H.264 mp4 that browsers play, whole or not at all.

    Args:
        path: the file.
        frames: uint8 (H, W, 3) of one even size.
        rate: frames per second.

    Raises:
        UserError: there are no frames, or their sides are odd.
    """
    import av

    with atomic.replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = None
        for frame in frames:
            if stream is None:
                if frame.shape[0] % 2 or frame.shape[1] % 2:
                    raise UserError(f"{path.name}: expected frames with even sides, got {frame.shape[:2]}; pad them")
                stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        if stream is None:
            raise UserError(f"{path.name}: expected at least one frame, got none")
        container.mux(stream.encode(None))


def write_contact_sheet(path: Path, episode: Episode, count: int = _SHEET_FRAMES) -> None:
    """Write ``count`` panels spread over the episode as one PNG, four in a row."""
    from PIL import Image

    tiles = list(panels(episode, max(1, -(-len(episode) // count))))
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // _COLUMNS)
    sheet = Image.new("RGB", (width * min(len(tiles), _COLUMNS), height * rows), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (number % _COLUMNS * width, number // _COLUMNS * height))
    with atomic.replacing(path) as temporary:
        sheet.save(temporary, format="PNG")
