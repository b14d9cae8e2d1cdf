"""Convex hulls without SciPy: the same bodies as SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import ConvexHull, HalfspaceIntersection

from bench.calvin.builtin_table import table_links
from bench.calvin.hulls import convex_hull, shrunk
from bench.calvin.scene import SCENES
from bench.calvin.shapes import Cylinder, Shape

BOX = np.array([[x, y, z] for x in (0.0, 2.0) for y in (0.0, 1.0) for z in (-0.5, 0.5)])


def volume(points: np.ndarray, faces: np.ndarray) -> float:
    """Of a closed surface whose triangles look outwards; less where one looks inwards."""
    first, second, third = points[faces].swapaxes(0, 1)
    return float(np.einsum("mc,mc->", first, np.cross(second, third)) / 6)


def check(points: np.ndarray) -> None:
    faces, normals = convex_hull(points)
    expected = ConvexHull(points)
    assert volume(points, faces) == pytest.approx(expected.volume, rel=1e-9)
    heights = points @ normals.T - np.einsum("mc,mc->m", points[faces[:, 0]], normals)
    assert heights.max() < 1e-8
    assert set(expected.vertices.tolist()) <= set(faces.ravel().tolist())


@pytest.mark.parametrize("count", [4, 5, 9, 40])
def test_hulls_of_random_points_are_scipys(count: int) -> None:
    for seed in range(20):
        check(np.random.default_rng(seed).normal(size=(count, 3)))


@pytest.mark.parametrize("shape", [shape for link in table_links(SCENES["B"]) for shape in link.shapes])
def test_hulls_of_the_tables_parts_are_scipys(shape: Shape) -> None:
    check(np.array(shape.points))


def test_points_on_faces_and_edges_change_nothing() -> None:
    grid = np.array([[x, y, z] for x in (0.0, 1.0, 2.0) for y in (0.0, 0.5, 1.0) for z in (-0.5, 0.0, 0.5)])
    faces, _ = convex_hull(np.random.default_rng(0).permutation(grid))
    assert volume(np.random.default_rng(0).permutation(grid), faces) == pytest.approx(2.0)


def test_shrunk_bodies_are_scipys() -> None:
    for points in (BOX, np.array(Cylinder(0.3, 0.0, 0.4).points)):
        hull = ConvexHull(points)
        planes = hull.equations + np.array([0.0, 0.0, 0.0, 0.05])
        expected = HalfspaceIntersection(planes, points.mean(axis=0)).intersections
        assert ConvexHull(shrunk(points, 0.05)).volume == pytest.approx(ConvexHull(expected).volume)


def test_what_has_no_hull_is_refused() -> None:
    with pytest.raises(ValueError, match="span a volume"):
        convex_hull(BOX[BOX[:, 2] > 0])
    with pytest.raises(ValueError, match="three faces"):
        shrunk(np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]]), 0.1)
