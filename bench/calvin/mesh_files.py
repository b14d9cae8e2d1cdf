"""Mesh files: read, thinned to what a camera can show, kept in the user's cache.

Files are read as PyBullet's own OpenGL renderer reads them (bullet3 ``Wavefront2GLInstanceGraphicsShape.cpp``,
``LoadMeshFromSTL.h``), because pictures are compared with it: normals of the file where it has them and flat ones
elsewhere, one texture a file, the middle of the texture where a file has no texture coordinates.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.atomic import replacing
from bench.calvin.meshes import Mesh, flat_normals, from_corners
from bench.calvin.thinning import FINE, LEVELS, thin_out
from bench.errors import UserError

_FORMAT = 16
_PICTURED = 600
"""Triangles up to which a mesh with an image wears it."""
_FEW = 40
"""Triangles up to which a mesh is not worth thinning."""


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


def cache_directory(kind: str) -> Path:
    """Return the user's folder for what costs time to make again, ``meshes`` for instance."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "wristworld-bench" / kind


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
    cached = cache_directory("meshes") / f"{content.hexdigest()[:32]}.npz"
    mesh = _stored(cached)
    if mesh is None:
        mesh = _read(path) if target == FINE else load_mesh(path, LEVELS[LEVELS.index(target) - 1])
        # An image over a mesh of few triangles is a real one; over many it is a palette and goes into the colours.
        pictured = mesh.texture is not None and len(mesh.triangles) <= _PICTURED
        if len(mesh.triangles) > (target if target == FINE else _FEW) and not pictured:
            mesh = thin_out(mesh, target)
            _store(cached, mesh)
    return mesh
