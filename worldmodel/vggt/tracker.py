"""Pixel pairs from VGGT's own track head: the supervision of the ``paper`` scale.

Not here: the track head's network (``track_head.py``).  WristWorld (arXiv 2510.07313; published code
``training/trainer.py``): the real wrist image goes first, so that its pixels are the queries, the anchors follow; a
pair counts if both of its ends are visible, and its confidence is the smaller of the two.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldmodel.api import WRIST, Clip, WorldModelError
from worldmodel.stage1_data import resize_images
from worldmodel.tracks import Pairs, query_grid
from worldmodel.vggt.model import Vggt

VISIBLE = 0.5


class VggtTracker:
    """Follows a grid of wrist pixels into the anchors with the loaded network."""

    name = "vggt"

    def __init__(self, model: Vggt, *, device: str = "cpu", count: int = 32, margin: float = 32 / 518) -> None:
        """Use a network for tracking.

        Args:
            model: with a track head and pretrained weights.
            device: where the network is.
            count: queries along each side of the wrist image.
            margin: their distance from the border, as a share of the side.
        """
        if model.track_head is None:
            raise WorldModelError("tracks 'vggt' needs a network with a track head: set vggt.track_head=True")
        self.model, self.device, self.count, self.margin = model, device, count, margin

    def pairs(self, clip: Clip) -> list[Pairs]:
        """Return one :class:`~worldmodel.tracks.Pairs` for each frame; only images are read.

        Raises:
            WorldModelError: the clip has no wrist view.
        """
        if WRIST not in clip.views:
            raise WorldModelError(f"tracks: clip {clip.episode!r} has no {WRIST!r} view; train on paired recordings")
        views = (WRIST, *clip.anchors)
        shape = self.model.image_shape(*clip.views[clip.anchors[0]].shape[1:3])
        queries = query_grid(shape, self.count, self.margin)
        training = self.model.training
        self.model.eval()
        found = [self._frame(clip, views, t, shape, queries) for t in range(len(clip))]
        self.model.train(training)
        return found

    @torch.inference_mode()
    def _frame(self, clip: Clip, views: tuple[str, ...], t: int, shape: tuple[int, int], queries: Tensor) -> Pairs:
        assert self.model.track_head is not None, "checked when made"
        images = [resize_images(torch.from_numpy(clip.views[view][t]).permute(2, 0, 1)[None], shape) for view in views]
        stack = torch.stack(images, dim=1).to(self.device).float() / 255  # (1, 1 + V, 3, H, W)
        layers = self.model.aggregator(stack)
        # The track head counts from the first pixel's centre, this project from its corner.
        asked = (queries - 0.5)[None].to(self.device)
        positions, visible, confidence = (value[0].cpu() for value in self.model.track_head(layers, shape, asked))
        wrist, anchor, view, sure = [], [], [], []
        for number, name in enumerate(clip.anchors):
            at = positions[number + 1] + 0.5
            inside = ((at >= 0) & (at < torch.tensor([shape[1], shape[0]]))).all(dim=1)
            keep = inside & (visible[0] > VISIBLE) & (visible[number + 1] > VISIBLE)
            wrist.append((queries * _ratio(clip, WRIST, shape))[keep])
            anchor.append((at * _ratio(clip, name, shape))[keep])
            view.append(torch.full((int(keep.sum()),), number))
            sure.append(torch.minimum(confidence[0], confidence[number + 1])[keep])
        return Pairs(
            wrist=torch.cat(wrist).numpy().astype(np.float32),
            anchor=torch.cat(anchor).numpy().astype(np.float32),
            view=torch.cat(view).numpy().astype(np.int64),
            confidence=torch.cat(sure).numpy().astype(np.float32),
        )


def _ratio(clip: Clip, view: str, shape: tuple[int, int]) -> Tensor:
    """Return x and y factors from the network's pixels to those of the stored view."""
    height, width = clip.views[view].shape[1:3]
    return torch.tensor([width / shape[1], height / shape[0]])
