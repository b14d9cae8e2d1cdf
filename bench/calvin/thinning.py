"""Thinning meshes: as few triangles as an image of some pixels can show.

Quadric edge collapse (Garland and Heckbert, SIGGRAPH 1997; package ``fast-simplification``), after which each triangle
is dressed again in the colours and normals of the surface that it stands for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.calvin.meshes import Mesh, flat_normals, from_corners

FINE, COARSE, SHADOW = 600, 400, 200
"""Triangles that a mesh may keep: for a camera that is near, for one that is far, for the shadow it casts."""
LEVELS = (FINE, COARSE, SHADOW)

_NEIGHBOURS = 12
_SMALLEST = 0.06
"""Pieces shorter than this share of a mesh are left out: screws and covers of a pixel or two."""
_TOLERANCE = {FINE: 0.0004, COARSE: 0.001, SHADOW: 0.003}
"""Metres off which a surface may be with fewer triangles than the level has; a pixel of the static camera is 4 mm."""
_PROBES = 600
_BARYCENTRIC = np.array([(a, b, 4 - a - b) for a in range(5) for b in range(5 - a)], np.float32) / 4


def _palette(mesh: Mesh) -> NDArray[np.uint8]:
    """Return (M, 3) the texture's colour at the middle of each triangle."""
    if mesh.texture is None:
        return mesh.colour[mesh.triangles[:, 0]]
    from PIL import Image

    image = np.asarray(Image.open(mesh.texture).convert("RGB"))
    height, width = image.shape[:2]
    middle = mesh.uv[mesh.triangles].mean(axis=1) % 1.0
    return image[height - 1 - (middle[:, 1] * height).astype(int) % height, (middle[:, 0] * width).astype(int) % width]


def _components(faces: NDArray[np.int32], count: int) -> list[NDArray[np.int64]]:
    """Return the face indices of each connected component of a mesh with ``count`` welded points."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(ends), bool), ends.T), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    order = np.argsort(label[faces[:, 0]], kind="stable")
    starts = np.flatnonzero(np.diff(label[faces[order, 0]])) + 1
    return np.split(order, starts)


def _deviation(points: NDArray[np.float32], simple: NDArray[np.float32], faces: NDArray[np.int32]) -> float:
    """Return how far the original's points lie from a simplified surface, metres: the 98th percentile."""
    from scipy.spatial import cKDTree

    corners = simple[faces]
    samples = np.einsum("sk,mkc->msc", _BARYCENTRIC, corners).reshape(-1, 3)  # (m, s, 3) -> (m s, 3)
    spacing, near = cKDTree(samples).query(points)
    triangle = near // len(_BARYCENTRIC)
    normal = flat_normals(corners.astype(np.float64))[triangle, 0]
    height = np.abs(((points - corners[triangle, 0]) * normal).sum(axis=1))
    # Over a triangle's inside the height counts; past its edge the distance to the nearest sample does.
    size = np.linalg.norm(corners[triangle, 1] - corners[triangle, 0], axis=1)
    return float(np.quantile(np.where(spacing < size, height, spacing), 0.98))


def _simplify(
    points: NDArray[np.float32], faces: NDArray[np.int32], target: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return at most ``target`` triangles, and fewer where they keep the points within the level's tolerance."""
    import fast_simplification

    used, renamed = np.unique(faces, return_inverse=True)
    points, faces = points[used], renamed.reshape(faces.shape).astype(np.int32)
    probes = points[:: max(1, len(points) // _PROBES)]
    for aggressiveness in (4, 7, 10):
        if len(faces) > target:
            points, faces = fast_simplification.simplify(points, faces, target_count=target, agg=aggressiveness)
    simple, best = points, faces
    for count in (target * 3 // 4, target // 2, target // 3, target // 5, target // 8, target // 12, target // 20):
        if count >= len(faces):
            continue
        fewer, fewer_faces = fast_simplification.simplify(points, faces, target_count=count, agg=4)
        if len(fewer_faces) == 0 or _deviation(probes, fewer, fewer_faces) > _TOLERANCE[target]:
            break
        if len(fewer_faces) < len(best):
            simple, best = fewer, fewer_faces
    return simple, best


def thin_out(mesh: Mesh, target: int = FINE) -> Mesh:
    """Return the mesh with ``target`` triangles or fewer, as far as its shape allows, its texture baked into colours.

    A new triangle takes the colour of the nearest old one, a new corner the normal of the nearest old corner that
    looks the same way, so that curved shells stay smooth and edges stay sharp.
    """
    colours = _palette(mesh)
    points, inverse = np.unique(np.round(mesh.position, 5), axis=0, return_inverse=True)
    faces = inverse.ravel()[mesh.triangles].astype(np.int32)
    keep = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    pieces = [rows[keep[rows]] for rows in _components(faces, len(points)) if keep[rows].any()]
    extents = [np.linalg.norm(np.ptp(points[faces[rows]].reshape(-1, 3), axis=0)) for rows in pieces]
    large = [rows for rows, extent in zip(pieces, extents, strict=True) if extent > _SMALLEST * max(extents)]
    rows = np.concatenate(large)
    simple, triangles = _simplify(points, faces[rows], target)
    return _dressed(mesh, rows, colours, simple[triangles].astype(np.float64))


def _dressed(mesh: Mesh, rows: NDArray[np.int64], colours: NDArray[np.uint8], corners: NDArray[np.float64]) -> Mesh:
    """Return new triangles (m, 3, 3) with the normals and colours of the old ones, ``rows`` of ``mesh``."""
    from scipy.spatial import cKDTree

    old = mesh.position[mesh.triangles[rows]].astype(np.float64)  # (M, 3, 3)
    old_normals = mesh.normal[mesh.triangles[rows]].reshape(-1, 3)  # (M, 3, 3) -> (3M, 3)
    face_normals = flat_normals(corners)
    count = min(_NEIGHBOURS, len(old_normals))
    distance, near = cKDTree(old.reshape(-1, 3)).query(corners.reshape(-1, 3), k=count)
    likeness = np.einsum("nkc,nc->nk", old_normals[near], face_normals.reshape(-1, 3))
    # A corner a little further away that looks the same way is better than a nearer one that does not.
    size = np.linalg.norm(np.ptp(old.reshape(-1, 3), axis=0))
    cost = distance / size + np.where(likeness < 0.7, 1.0 - likeness, 0.0)
    chosen = old_normals[near[np.arange(len(near)), np.argmin(cost, axis=1)]].reshape(-1, 3, 3)  # (3m, 3) -> (m, 3, 3)
    faithful = (chosen * face_normals).sum(-1, keepdims=True) > 0.5
    _, nearest = cKDTree(old.mean(axis=1)).query(corners.mean(axis=1))
    return from_corners(corners, np.where(faithful, chosen, face_normals), colours=colours[rows][nearest])
