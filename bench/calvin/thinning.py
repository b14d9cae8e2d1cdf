"""Thinning meshes: as few triangles as an image of some pixels can show.

Quadric edge collapse (Garland and Heckbert, SIGGRAPH 1997; package ``fast-simplification``), after which each triangle
is dressed again in the colours and normals of the surface that it stands for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.calvin.meshes import Mesh, flat_normals, from_corners, joined

FINE, COARSE, SHADOW = 400, 300, 250
"""Triangles that a mesh may keep: for a camera that is near, for one that is far, for the shadow it casts."""
LEVELS = (FINE, COARSE, SHADOW)

_LEAST = 12
"""Triangles that every piece may keep."""
_NEIGHBOURS = 12
_SMALLEST = 0.12
"""Pieces shorter than this share of a mesh are left out: screws and covers of a pixel or two."""
_TOLERANCE = {FINE: 0.0005, COARSE: 0.0022, SHADOW: 0.012}
"""Metres off which a surface may be with fewer triangles than the level has; a pixel of the static camera is 4 mm."""
_REACH = 0.95
"""Share of the surface for which the tolerance holds."""
_PROBES = 400
_SHADES = 32
"""Of 255: colours of a piece that differ by less become one."""
_VEIL, _VEIL_BELOW, _VEIL_SLOPE = 0.012, 0.001, 0.5
"""Metres above and below, and cosine of the angle, up to which one surface veils another, see ``_veiled``."""
_SAME_WAY = 0.9
"""Cosine between a corner's normal and the mean around its point up to which it takes the mean."""


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


def _samples(triangles: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return (count, 3) points spread evenly over triangles (M, 3, 3), the same ones every time."""
    rng = np.random.default_rng(0)
    edges = triangles[:, 1:] - triangles[:, :1]  # (M, 2, 3)
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    share = rng.random((count, 2))
    share = np.where(share.sum(axis=1, keepdims=True) > 1, 1 - share, share)
    chosen = rng.choice(len(triangles), count, p=area / area.sum())
    points: NDArray[np.float64] = triangles[chosen, 0] + np.einsum("nk,nkc->nc", share, edges[chosen])
    return points


def distances(points: NDArray[np.float64], triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N,) how far points (N, 3) lie from the nearest of the triangles (M, 3, 3)."""
    first, second, third = triangles.swapaxes(0, 1)
    normal = flat_normals(triangles)[:, 0]
    offset = points[:, None] - first  # (N, M, 3)
    height = np.abs(np.einsum("nmc,mc->nm", offset, normal))
    above, to_edge = np.ones(height.shape, np.bool_), np.full(height.shape, np.inf)
    for start, end in ((first, second), (second, third), (third, first)):
        edge = end - start
        offset = points[:, None] - start
        along = np.einsum("nmc,mc->nm", offset, edge) / np.maximum((edge * edge).sum(axis=1), 1e-20)
        to_edge = np.minimum(to_edge, np.linalg.norm(offset - np.clip(along, 0, 1)[..., None] * edge, axis=2))
        above &= np.einsum("nmc,mc->nm", offset, np.cross(normal, edge)) >= 0
    shortest: NDArray[np.float64] = np.where(above, height, to_edge).min(axis=1)
    return shortest


def _simplify(
    points: NDArray[np.float32], faces: NDArray[np.int32], target: int, tolerance: float
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return at most ``target`` triangles, and fewer where they keep the surface within ``tolerance`` metres."""
    import fast_simplification

    used, renamed = np.unique(faces, return_inverse=True)
    points, faces = points[used], renamed.reshape(faces.shape).astype(np.int32)
    probes = _samples(points[faces].astype(np.float64), _PROBES)
    for aggressiveness in (4, 7, 10):
        if len(faces) > target:
            points, faces = fast_simplification.simplify(points, faces, target_count=target, agg=aggressiveness)
    simple, best = points, faces
    start = min(target, len(faces))
    for count in (start * step // 20 for step in range(18, 1, -2)):
        fewer, fewer_faces = fast_simplification.simplify(points, faces, target_count=count, agg=4)
        if len(fewer_faces) == 0:
            break
        away = distances(probes, fewer[fewer_faces].astype(np.float64))
        if np.quantile(away, _REACH) > tolerance:
            break
        simple, best = fewer, fewer_faces
    return simple, best


def thin_out(mesh: Mesh, target: int = FINE) -> Mesh:
    """Return the mesh with ``target`` triangles or fewer, as far as its shape allows, colours in place of texture.

    Each piece, a body of its own, is thinned and dressed by itself, so that none takes the colour of its neighbour.  A
    new triangle takes the colour of the nearest old one, a new corner the normal of the nearest old corner that
    looks the same way, so that curved shells stay smooth and edges stay sharp.
    """
    colours = _palette(mesh)
    points, inverse = np.unique(np.round(mesh.position, 5), axis=0, return_inverse=True)
    faces = inverse.ravel()[mesh.triangles].astype(np.int32)
    keep = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    pieces = [rows[keep[rows]] for rows in _components(faces, len(points)) if keep[rows].any()]
    extents = [np.linalg.norm(np.ptp(points[faces[rows]].reshape(-1, 3), axis=0)) for rows in pieces]
    large = [rows for rows, extent in zip(pieces, extents, strict=True) if extent > _SMALLEST * max(extents)]
    large.sort(key=np.median)
    areas = [_area(points[faces[rows]]) for rows in large]
    to_share = max(0, target - _LEAST * len(large))
    thin = []
    for number, (rows, area) in enumerate(zip(large, areas, strict=True)):
        share = _LEAST + int(to_share * area / sum(areas))
        simple, triangles = _simplify(points, faces[rows], share, _TOLERANCE[target])
        piece = _dressed(mesh, rows, colours, simple.astype(np.float64), triangles)
        if target == COARSE and number:
            before = np.concatenate(large[:number])
            piece = _veiled(piece, mesh.position[mesh.triangles[before]].astype(np.float64), colours[before])
        thin.append(piece)
    return joined(thin)


def _veiled(piece: Mesh, below: NDArray[np.float64], colours_below: NDArray[np.uint8]) -> Mesh:
    """Return a piece in the colours (M, 3) of triangles (M, 3, 3) drawn before it where it lies just above them.

    The original's depth buffer has 16 bits.  At the static camera's distance it cannot tell surfaces apart that are
    closer than two centimetres, and of those the first that is drawn stays.
    """
    corners = piece.position[piece.triangles].astype(np.float64)
    normal, normal_below = flat_normals(corners)[:, 0], flat_normals(below)[:, 0]
    # Straight down from each triangle's middle: where the line meets each earlier triangle's plane, and whether inside.
    middle = corners.mean(axis=1)
    slope = normal @ normal_below.T  # (m, M)
    offset = middle[:, None] - below[:, 0]  # (m, M, 3)
    depth = np.einsum("nmc,mc->nm", offset, normal_below) / np.where(slope > _VEIL_SLOPE, slope, 1.0)
    point = middle[:, None] - depth[..., None] * normal[:, None]
    hit = (slope > _VEIL_SLOPE) & (depth > -_VEIL_BELOW) & (depth < _VEIL)
    for corner in range(3):
        start, edge = below[:, corner], below[:, (corner + 1) % 3] - below[:, corner]
        hit &= np.einsum("nmc,mc->nm", point - start, np.cross(normal_below, edge)) >= 0
    veiled = hit.any(axis=1)
    colours = piece.colour[piece.triangles[:, 0]].copy()
    colours[veiled] = colours_below[hit[veiled].argmax(axis=1)]
    return from_corners(corners, piece.normal[piece.triangles], colours=colours)


def _area(corners: NDArray[np.floating]) -> float:
    """Return the surface of triangles (M, 3, 3)."""
    edges = corners[:, 1:] - corners[:, :1]  # (M, 2, 3)
    return float(np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1).sum() / 2)


def _dressed(
    mesh: Mesh,
    rows: NDArray[np.int64],
    colours: NDArray[np.uint8],
    points: NDArray[np.float64],
    triangles: NDArray[np.int32],
) -> Mesh:
    """Return new triangles (m, 3) over points (n, 3) with the normals and colours of old ones, ``rows`` of ``mesh``."""
    from scipy.spatial import cKDTree

    corners = points[triangles]  # (m, 3, 3)
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
    chosen = np.where(faithful, chosen, face_normals)
    # Where the triangles around a point look much the same way they share one normal, and so one vertex.
    around = np.zeros_like(points)
    np.add.at(around, triangles, chosen)
    shared = around[triangles]
    shared /= np.maximum(np.linalg.norm(shared, axis=-1, keepdims=True), 1e-9)
    chosen = np.where((shared * chosen).sum(-1, keepdims=True) > _SAME_WAY, shared, chosen)
    _, nearest = cKDTree(old.mean(axis=1)).query(corners.mean(axis=1))
    return from_corners(corners, chosen, colours=_plain(colours[rows])[nearest])


def _plain(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (M, 3) colours without their shades: triangles of one colour share their corners."""
    middle = np.median(colours, axis=0)
    return np.where(np.abs(colours - middle).max(axis=1, keepdims=True) < _SHADES, middle, colours).astype(np.uint8)
