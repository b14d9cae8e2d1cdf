"""Triangle meshes for drawing: read, made from primitives, thinned out.

Not here: anything of OpenGL or PyBullet.  Meshes follow the conventions that PyBullet's own OpenGL renderer has (Bullet
``Wavefront2GLInstanceGraphicsShape.cpp``, ``LoadMeshFromSTL.h``), because pictures are compared with it: normals of the
file where it has them and flat ones elsewhere, one texture a file, the middle of the texture where a file has no
texture coordinates.  Thinning is Garland and Heckbert's quadric edge collapse (package ``fast-simplification``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.atomic import replacing
from bench.errors import UserError

FINE, COARSE, SHADOW = 600, 400, 200
"""Triangles that a mesh may keep: for a camera that is near, for one that is far, for the shadow it casts."""
LEVELS = (FINE, COARSE, SHADOW)

_FORMAT = 12
_NEIGHBOURS = 12
_SMALLEST = 0.06
"""Pieces shorter than this share of a mesh are left out: screws and covers of a pixel or two."""
_TOLERANCE = {FINE: 0.0004, COARSE: 0.001, SHADOW: 0.003}
"""Metres off which a surface may be with fewer triangles than the level has; a pixel of the static camera is 4 mm."""
_PROBES = 600
_BARYCENTRIC = np.array([(a, b, 4 - a - b) for a in range(5) for b in range(5 - a)], np.float32) / 4


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in its own frame.

    Attributes:
        position: float32 (N, 3), metres.
        normal: float32 (N, 3), unit length.
        uv: float32 (N, 2), OpenGL convention (v points up).
        colour: uint8 (N, 3), multiplied with the texture and the shape's colour.
        triangles: int32 (M, 3), counter-clockwise seen from outside.
        texture: image that ``uv`` refers to, or None.
    """

    position: NDArray[np.float32]
    normal: NDArray[np.float32]
    uv: NDArray[np.float32]
    colour: NDArray[np.uint8]
    triangles: NDArray[np.int32]
    texture: Path | None = None


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


def flat_normals(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (M, 3, 3) normals of (M, 3, 3) triangle corners: each triangle's own normal at its three corners."""
    normal = _unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    return np.repeat(normal[:, None], 3, axis=1)


def from_corners(
    corners: NDArray[np.floating],
    normals: NDArray[np.floating],
    uv: NDArray[np.floating] | None = None,
    colours: NDArray[np.uint8] | None = None,
    texture: Path | None = None,
) -> Mesh:
    """Build an indexed mesh from M triangles given corner by corner; equal corners become one vertex.

    Args:
        corners: (M, 3, 3) positions.
        normals: (M, 3, 3).
        uv: (M, 3, 2), or None for the middle of the texture.
        colours: (M, 3) uint8, one a triangle, or None for white.
        texture: image that ``uv`` refers to, or None.
    """
    count = len(corners)
    uv = np.full((count, 3, 2), 0.5) if uv is None else uv
    colours = np.full((count, 3), 255, np.uint8) if colours is None else colours
    table = np.concatenate(
        [corners, normals, uv, np.repeat(colours[:, None].astype(np.float64), 3, axis=1)], axis=-1
    ).reshape(count * 3, 11)  # (M, 3, 11) -> (3M, 11)
    table = np.ascontiguousarray(table, np.float32) + np.float32(0)  # +0 turns -0 into 0, so that equal bytes are equal
    _, first, inverse = np.unique(table.view("V44").ravel(), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    table = table[first[order]]
    return Mesh(
        position=table[:, 0:3].copy(),
        normal=table[:, 3:6].copy(),
        uv=table[:, 6:8].copy(),
        colour=table[:, 8:11].astype(np.uint8),
        triangles=rank[inverse.ravel()].reshape(count, 3).astype(np.int32),  # (3M,) -> (M, 3)
        texture=texture,
    )


def box(size: tuple[float, float, float], *, radial: bool = False) -> Mesh:
    """Return a box around the origin with edge lengths ``size`` (metres).

    Args:
        size: edge lengths along x, y, z.
        radial: normals point from the centre through the corners, as PyBullet's OpenGL renderer gives a box.
    """
    corners = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            square = [(-1, -1), (1, -1), (1, 1), (-1, 1)] if sign > 0 else [(-1, -1), (-1, 1), (1, 1), (1, -1)]
            face = np.zeros((4, 3))
            face[:, axis] = sign
            face[:, [(axis + 1) % 3, (axis + 2) % 3]] = square
            corners += [face[[0, 1, 2]], face[[0, 2, 3]]]
    positions = np.array(corners) * np.asarray(size) / 2
    return from_corners(positions, _unit(positions) if radial else flat_normals(positions))


def cylinder(radius: float, length: float, *, radial: bool = False, sides: int = 24) -> Mesh:
    """Return a cylinder along z around the origin (metres); ``radial`` as for :func:`box`."""
    angle = np.arange(sides + 1) * (2 * np.pi / sides)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    corners, normals = [], []
    for (x0, y0), (x1, y1) in pairwise(ring):
        low0, low1 = (x0 * radius, y0 * radius, -length / 2), (x1 * radius, y1 * radius, -length / 2)
        top0, top1 = (*low0[:2], length / 2), (*low1[:2], length / 2)
        out0, out1 = (x0, y0, 0.0), (x1, y1, 0.0)
        corners += [
            (low0, low1, top1),
            (low0, top1, top0),
            ((0, 0, length / 2), top0, top1),
            ((0, 0, -length / 2), low1, low0),
        ]
        normals += [(out0, out1, out1), (out0, out1, out0), ((0, 0, 1),) * 3, ((0, 0, -1),) * 3]
    positions = np.array(corners, np.float64)
    return from_corners(positions, _unit(positions) if radial else np.array(normals, np.float64))


def sphere(radius: float) -> Mesh:
    """Return a sphere around the origin (metres)."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=2, radius=radius)
    corners = np.asarray(ball.vertices)[ball.faces]
    return from_corners(corners, _unit(corners))


def scaled(mesh: Mesh, scale: tuple[float, float, float]) -> Mesh:
    """Return the mesh stretched by ``scale`` along x, y, z; normals stay, as PyBullet leaves them."""
    return replace(mesh, position=mesh.position * np.asarray(scale, np.float32))


def moved(mesh: Mesh, frame: NDArray[np.float64]) -> Mesh:
    """Return the mesh in another frame; ``frame`` (4, 4) is rigid."""
    rotation, translation = frame[:3, :3].astype(np.float32), frame[:3, 3].astype(np.float32)
    return replace(mesh, position=mesh.position @ rotation.T + translation, normal=mesh.normal @ rotation.T)


def joined(parts: Sequence[Mesh]) -> Mesh:
    """Return several meshes of one image as one."""
    starts = np.cumsum([0] + [len(part.position) for part in parts[:-1]])
    return Mesh(
        position=np.concatenate([part.position for part in parts]),
        normal=np.concatenate([part.normal for part in parts]),
        uv=np.concatenate([part.uv for part in parts]),
        colour=np.concatenate([part.colour for part in parts]),
        triangles=np.concatenate([part.triangles + start for part, start in zip(parts, starts, strict=True)]),
        texture=parts[0].texture,
    )


def wrapped(mesh: Mesh, tile: float) -> Mesh:
    """Return the mesh with texture coordinates projected along the axis that each triangle faces.

    The grain (u) runs along x wherever a triangle does not face x.

    Args:
        mesh: any mesh; its own coordinates and image are dropped.
        tile: metres that the image spans.
    """
    corners = mesh.position[mesh.triangles].astype(np.float64)  # (M, 3, 3)
    facing = np.abs(flat_normals(corners)[:, 0]).argmax(axis=1)
    along, across = np.array([1, 0, 0])[facing], np.array([2, 2, 1])[facing]
    row = np.arange(len(corners))
    uv = np.stack([corners[row, :, along], corners[row, :, across] + facing[:, None] * 0.37 * tile], axis=-1) / tile
    return from_corners(corners, mesh.normal[mesh.triangles], uv, mesh.colour[mesh.triangles[:, 0]])


def _numbers(lines: list[bytes], columns: int) -> NDArray[np.float64]:
    if not lines:
        return np.zeros((0, columns))
    values = np.fromstring(b" ".join(lines).decode(), np.float64, sep=" ")
    return values.reshape(len(lines), -1)[:, :columns]  # (L * c,) -> (L, c)


def _face_indices(lines: list[bytes]) -> NDArray[np.int64]:
    """Return (M, 3, 3) zero-based vertex, texture and normal indices of triangles; -1 where a face has none."""
    fans = []
    for line in lines:
        corners = line.split()
        fans += [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]
    parts = 1 + fans[0][0].count(b"/") if fans else 3
    text = b" ".join([corner for fan in fans for corner in fan]).replace(b"//", b"/0/").replace(b"/", b" ")
    index = np.fromstring(text.decode(), np.int64, sep=" ").reshape(-1, 3, parts)  # (9M,) -> (M, 3, parts)
    return np.pad(index, ((0, 0), (0, 0), (0, 3 - parts))) - 1


def _diffuse_texture(path: Path, lines: list[bytes]) -> Path | None:
    """Return the first diffuse image that the OBJ file's material library names and that exists."""
    for line in lines:
        if line.startswith(b"mtllib "):
            library = path.parent / line[7:].decode().strip()
            for entry in library.read_text(errors="replace").splitlines() if library.is_file() else ():
                key, _, name = entry.strip().partition(" ")
                image = path.parent / name.strip()
                if key == "map_Kd" and image.is_file():
                    return image
    return None


def read_obj(path: Path) -> Mesh:
    """Read a Wavefront OBJ file; polygons become fans of triangles."""
    lines = path.read_bytes().splitlines()
    vertices = _numbers([line[2:] for line in lines if line.startswith(b"v ")], 3)
    texture_points = _numbers([line[3:] for line in lines if line.startswith(b"vt ")], 2)
    file_normals = _numbers([line[3:] for line in lines if line.startswith(b"vn ")], 3)
    index = _face_indices([line[2:] for line in lines if line.startswith(b"f ")])
    corners = vertices[index[..., 0]]
    normals = flat_normals(corners)
    given = (index[..., 2] >= 0).all(axis=1)
    if len(file_normals):
        normals[given] = file_normals[index[given][..., 2]]
    uv = np.full((len(index), 3, 2), 0.5)
    if len(texture_points):
        uv = np.where(index[..., 1:2] >= 0, texture_points[index[..., 1]], 0.0)
    return from_corners(corners, normals, uv, texture=_diffuse_texture(path, lines))


_STL = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(path: Path) -> Mesh:
    """Read a binary STL file."""
    data = path.read_bytes()
    count = int.from_bytes(data[80:84], "little")
    if len(data) != 84 + 50 * count:
        raise UserError(f"{path}: expected a binary STL file, its length does not fit; convert it (trimesh can)")
    table = np.frombuffer(data, _STL, count, offset=84)
    return from_corners(table["corners"], np.repeat(table["normal"][:, None], 3, axis=1))


_READERS = {".obj": read_obj, ".stl": read_stl}


def _read(path: Path) -> Mesh:
    try:
        mesh = _READERS[path.suffix.lower()](path)
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: expected triangles, got {error}; is the file whole?") from None
    if len(mesh.triangles) == 0:
        raise UserError(f"{path}: expected triangles, got none; is the file whole?")
    return mesh


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


def _cache_directory() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "wristworld-bench" / "meshes"


def _stored(path: Path) -> Mesh | None:
    try:
        with np.load(path, allow_pickle=False) as data:
            return Mesh(*(data[name] for name in ("position", "normal", "uv", "colour", "triangles")))
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _store(path: Path, mesh: Mesh) -> None:
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                position=mesh.position,
                normal=mesh.normal,
                uv=mesh.uv,
                colour=mesh.colour,
                triangles=mesh.triangles,
            )
    except OSError:
        return  # A home that cannot be written costs a second at the next start, nothing else.


@lru_cache(maxsize=256)
def load_mesh(path: Path, target: int = FINE) -> Mesh:
    """Return a mesh file's mesh, thinned out where it has more than ``target`` triangles, one of ``LEVELS``.

    The result is kept for the process, and a thinned mesh in the user's cache directory under its content's hash.

    Raises:
        UserError: the file is missing or of another kind than OBJ and binary STL.
    """
    if path.suffix.lower() not in _READERS:
        raise UserError(f"{path}: expected a mesh file of kind {sorted(_READERS)}; convert it (trimesh can)")
    if not path.is_file():
        raise UserError(f"mesh file {path} does not exist; check the folder of CALVIN assets")
    content = hashlib.sha256(path.read_bytes())
    content.update(f"format {_FORMAT} levels {LEVELS} target {target}".encode())
    cached = _cache_directory() / f"{content.hexdigest()[:32]}.npz"
    mesh = _stored(cached)
    if mesh is None:
        mesh = _read(path) if target == FINE else load_mesh(path, LEVELS[LEVELS.index(target) - 1])
        # An image over a mesh of few triangles is a real one; over many it is a palette and goes into the colours.
        if len(mesh.triangles) > target and (target != COARSE or mesh.texture is None):
            mesh = thin_out(mesh, target)
            _store(cached, mesh)
    return mesh
