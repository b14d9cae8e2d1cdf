"""Reading and thinning meshes, procedural images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pybullet_data
import pytest

from bench.calvin import images, mesh_files, meshes, textures, thinning
from bench.errors import UserError

PANDA = Path(pybullet_data.getDataPath()) / "franka_panda" / "meshes" / "visual"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mesh_files.load_mesh.cache_clear()


def _silhouette(mesh: meshes.Mesh, axis: int, low: np.ndarray, span: float, size: int = 100) -> np.ndarray:
    """Fill triangles seen along an axis: 100 pixels for the whole link, as in the static view or finer."""
    from PIL import Image, ImageDraw

    others = [i for i in range(3) if i != axis]
    points = (mesh.position[:, others] - low[others]) / span * (size - 4) + 2
    image = Image.new("1", (size, size))
    draw = ImageDraw.Draw(image)
    for triangle in mesh.triangles:
        draw.polygon([tuple(points[corner]) for corner in triangle], fill=1)
    return np.asarray(image)


@pytest.mark.parametrize("link", ["link1", "link4", "hand"])
def test_thinned_links_keep_their_silhouette(link):
    whole = mesh_files.read_obj(PANDA / f"{link}.obj")
    fine = mesh_files.load_mesh(PANDA / f"{link}.obj")
    coarse = mesh_files.load_mesh(PANDA / f"{link}.obj", thinning.COARSE)
    assert len(whole.triangles) > 5000
    assert len(fine.triangles) <= 600
    assert len(coarse.triangles) <= thinning.COARSE
    low, span = whole.position.min(axis=0), float(np.ptp(whole.position, axis=0).max())
    for axis in range(3):
        expected = _silhouette(whole, axis, low, span)
        for mesh, least in ((fine, 0.95), (coarse, 0.9)):
            got = _silhouette(mesh, axis, low, span)
            assert (expected & got).sum() / (expected | got).sum() > least, axis


def test_thinning_keeps_colours():
    thin = mesh_files.load_mesh(PANDA / "hand.obj")
    shades = thin.colour.astype(int).max(axis=1)
    assert (shades > 230).any()
    assert (shades < 150).any()
    assert np.allclose(np.linalg.norm(thin.normal, axis=1), 1, atol=1e-3)


def test_thinned_meshes_are_stored_and_a_broken_store_is_ignored(tmp_path):
    first = mesh_files.load_mesh(PANDA / "link1.obj")
    (stored,) = (tmp_path / "wristworld-bench" / "meshes").glob("*.npz")
    mesh_files.load_mesh.cache_clear()
    assert np.array_equal(mesh_files.load_mesh(PANDA / "link1.obj").position, first.position)
    stored.write_bytes(b"half a file")
    mesh_files.load_mesh.cache_clear()
    assert np.array_equal(mesh_files.load_mesh(PANDA / "link1.obj").position, first.position)


def test_obj_polygons_textures_and_missing_normals(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.mtl").write_text("newmtl m\n\nKd 1 1 1\nmap_Kd a.png\n")
    text = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nf 1/1 2/2 3/3 4/4\n"
    (tmp_path / "a.obj").write_text(text)
    mesh = mesh_files.read_obj(tmp_path / "a.obj")
    assert mesh.triangles.shape == (2, 3)
    assert len(mesh.position) == 4
    assert np.allclose(mesh.normal, [0, 0, 1])
    assert np.allclose(mesh.uv, mesh.position[:, :2])
    assert mesh.texture == tmp_path / "a.png"


@pytest.mark.parametrize("content", ["v 0 0 zero\nf 1 1 1\n", "v 0 0 0\nf 1 2 9\n", "f 1/1 2//2 3\nv 0 0 0\n", ""])
def test_a_broken_obj_is_named(tmp_path, content):
    path = tmp_path / "broken.obj"
    path.write_text(content)
    with pytest.raises(UserError, match=r"broken\.obj"):
        mesh_files.load_mesh(path)


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match="obj"):
        mesh_files.load_mesh(tmp_path / "a.dae")
    with pytest.raises(UserError, match="does not exist"):
        mesh_files.load_mesh(tmp_path / "a.obj")


@pytest.mark.parametrize(
    ("mesh", "ideal"),
    [(meshes.box((1, 2, 3)), 6.0), (meshes.cylinder(0.5, 2), np.pi / 2), (meshes.sphere(1), 4 / 3 * np.pi)],
)
def test_primitives_are_closed_and_face_outwards(mesh, ideal):
    corners = mesh.position[mesh.triangles].astype(float)
    volume = np.einsum("mi,mi->m", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert volume == pytest.approx(ideal, rel=0.05)


def test_wood_is_the_same_for_a_name_and_tiles():
    one, two = textures.material("dark_wood_a"), textures.material("dark_wood_d")
    assert np.array_equal(one, textures.wood.__wrapped__("dark_wood_a"))
    assert np.abs(one.mean(axis=(0, 1)) - two.mean(axis=(0, 1))).max() > 10
    steps = np.abs(np.diff(one.astype(float), axis=0)).mean()
    seam = np.abs(one[0].astype(float) - one[-1]).mean()
    assert seam < 3 * steps
    with pytest.raises(UserError, match="light_wood"):
        textures.material("marble")


def test_a_groove_has_the_colour_of_its_wood():
    groove = np.array(textures.shade("light_wood_b", 0.7)) * 255
    assert np.allclose(groove, 0.7 * textures.material("light_wood_b").mean(axis=(0, 1)), atol=12)


def test_distances_reach_inside_edges_and_corners():
    triangle = np.array([[(0.0, 0, 0), (1, 0, 0), (0, 1, 0)]])
    points = np.array([(0.2, 0.2, 0.5), (0.5, -2.0, 0.0), (-3.0, -4.0, 0.0), (1.0, 1.0, 0.0)])
    assert np.allclose(thinning.distances(points, triangle), [0.5, 2.0, 5.0, np.sqrt(0.5)])
    far = triangle + np.array([0.0, 0.0, 10.0])
    assert np.allclose(thinning.distances(points, np.concatenate([far, triangle]))[0], 0.5)


def test_thinned_corners_that_look_alike_are_one_vertex():
    thin = mesh_files.load_mesh(PANDA / "link1.obj")
    assert len(thin.position) < 0.7 * len(thin.triangles)


def test_each_piece_keeps_its_own_colour():
    import trimesh

    shells = []
    for radius, grey in ((0.095, 60), (0.1, 250)):
        ball = trimesh.creation.icosphere(subdivisions=4, radius=radius)
        corners = np.asarray(ball.vertices)[ball.faces]
        colours = np.full((len(corners), 3), grey, np.uint8)
        shells.append(meshes.from_corners(corners, corners / radius, colours=colours))
    thin = thinning.thin_out(meshes.joined(shells))
    outside = np.linalg.norm(thin.position[thin.triangles].mean(axis=1), axis=1) > 0.0965
    assert 100 < len(thin.triangles) <= thinning.FINE
    assert outside.any()
    assert not outside.all()
    assert np.array_equal(thin.colour[thin.triangles[:, 0], 0] == 250, outside)


def test_far_away_the_first_of_two_close_surfaces_is_seen_as_in_a_buffer_of_16_bits():
    plates = []
    for height, grey in ((0.0, 250), (0.005, 100), (0.05, 20)):
        frame = np.eye(4)
        frame[2, 3] = height
        plate = meshes.moved(meshes.box((0.2, 0.2, 0.002)), frame)
        plates.append(replace(plate, colour=np.full_like(plate.colour, grey)))
    stack = meshes.joined(plates)
    near, far = (thinning.thin_out(stack, level) for level in (thinning.FINE, thinning.COARSE))
    for mesh, expected in ((near, [250, 100, 20]), (far, [250, 250, 20])):
        corners = mesh.position[mesh.triangles]
        tops = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] > 1e-3
        order = np.argsort(corners[tops, 0, 2], kind="stable")
        assert mesh.colour[mesh.triangles[tops, 0], 0][order].tolist() == np.repeat(expected, 2).tolist()


def test_smaller_images_are_means_of_what_they_stand_for(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (12, 10, 3), np.uint8)
    levels = images.mipmap(image)
    assert [level.shape for level in levels] == [(12, 10, 3), (6, 5, 3), (3, 2, 3), (1, 1, 3)]
    four = image.reshape(6, 2, 5, 2, 3).mean(axis=(1, 3))
    assert np.abs(levels[1] - four).max() <= 1.0  # rounded twice
    assert np.abs(levels[3][0, 0] - image.mean(axis=(0, 1))).max() < 25
    flat = images.mipmap(np.full((7, 5, 3), 201, np.uint8))
    assert all((level == 201).all() for level in flat)


def test_an_image_file_is_decoded_once_and_kept(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "wood.png"
    pixels = np.random.default_rng(1).integers(0, 256, (5, 9, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    first = images.levels_of(file)
    np.testing.assert_array_equal(first[0], pixels[::-1])
    monkeypatch.setattr(Image, "open", None)
    again = images.levels_of(file)
    assert len(again) == len(first)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    for kept in (tmp_path / "cache").rglob("*.npz"):
        kept.write_bytes(b"torn")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert np.array_equal(images.levels_of(file)[0], first[0])
