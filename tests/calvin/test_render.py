"""The GL renderer: what it draws, where, and how deep."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pybullet
import pytest

from bench.calvin import gl, gpu_copy
from bench.calvin.backdrop import strips
from bench.calvin.camera import CAMERAS, camera_from_world, gripper_view_matrix, static_view_matrix
from bench.calvin.env import CalvinEnv
from bench.calvin.meshes import box
from bench.calvin.parts import matrices
from bench.calvin.render import GlRenderer
from bench.calvin.shadow_reach import ShadowReach
from bench.calvin.sight import Sight
from bench.errors import UserError

pytestmark = pytest.mark.skipif(not gl.gl_available()[0], reason=gl.gl_available()[1])


@pytest.fixture
def env():
    environment = CalvinEnv("D", renderer="gl")
    environment.reset(seed=3, options={"render_views": False})
    yield environment
    environment.close()


def _block(env: CalvinEnv, name: str) -> int:
    return env.world.blocks[name]


def _place(env: CalvinEnv, name: str, position: tuple[float, float, float]) -> None:
    pybullet.resetBasePositionAndOrientation(
        _block(env, name), position, [0, 0, 0, 1], physicsClientId=env.world.client
    )


def _pixel(point: tuple[float, float, float]) -> np.ndarray:
    camera = CAMERAS["static"]
    seen = camera_from_world(static_view_matrix()) @ [*point, 1.0]
    return (camera.intrinsics() @ seen[:3])[:2] / seen[2]


def test_shapes_and_types(env):
    views = env.views()
    assert views["rgb_static"].shape == (200, 200, 3)
    assert views["rgb_gripper"].shape == (84, 84, 3)
    assert all(view.dtype == np.uint8 and view.flags["C_CONTIGUOUS"] for view in views.values())
    assert views["rgb_static"].std() > 20


def test_only_the_wanted_views_are_drawn(env):
    assert set(env._drawer().draw(("gripper",))) == {"rgb_gripper"}
    with pytest.raises(UserError, match="static, gripper"):
        env._drawer().draw(("wrist",))


def test_the_same_state_gives_the_same_bytes(env):
    first, second = env.views(), env.views()
    for name in first:
        assert first[name].tobytes() == second[name].tobytes()


def test_a_moved_block_changes_the_picture_there_and_nowhere_else(env):
    here, there = (0.25, -0.12, 0.46), (0.32, -0.12, 0.46)
    _place(env, "block_red", here)
    before = env.views()["rgb_static"].astype(int)
    _place(env, "block_red", there)
    after = env.views()["rgb_static"].astype(int)
    rows, columns = np.nonzero(np.abs(after - before).max(axis=2) > 12)
    assert len(rows) > 50
    for row, column in zip(rows, columns, strict=True):
        distance = min(np.linalg.norm(_pixel(point) - [column + 0.5, row + 0.5]) for point in (here, there))
        assert distance < 30, (row, column)


def test_a_block_has_its_colour_where_the_camera_matrix_says(env):
    _place(env, "block_red", (0.3, -0.12, 0.46))
    column, row = _pixel((0.3, -0.12, 0.48)).astype(int)
    red, green, blue = env.views()["rgb_static"][row, column].astype(int)
    assert red > 120
    assert max(green, blue) < 30


def test_lights_change_colour(env):
    scene_obs = env.world.scene_observation()
    scene_obs[3:6] = 0.088, 1, 1
    off = env.views()["rgb_static"].astype(int)
    env.reset(options={"scene_obs": scene_obs})
    on = env.views()["rgb_static"].astype(int)
    greener = (on[..., 1] - on[..., 0] > 100) & (off[..., 1] - off[..., 0] < 20)
    yellow = (on[..., 0] > 150) & (on[..., 1] > 150) & (on[..., 2] < 40)
    assert greener.sum() > 40
    assert yellow.sum() > 40


def test_depth_is_what_rays_measure(env):
    """Rays go through pixel centres; they hit collision shapes, so only table and floor are compared."""
    depth = env.depth_views()["depth_static"]
    camera = CAMERAS["static"]
    world_from_camera = np.linalg.inv(camera_from_world(static_view_matrix()))
    eye = world_from_camera[:3, 3]
    differences = []
    for row in range(60, 200, 8):
        for column in range(60, 200, 8):
            direction = np.linalg.inv(camera.intrinsics()) @ [column + 0.5, row + 0.5, 1.0]
            end = world_from_camera[:3, :3] @ (direction * 9.0) + eye
            body, link, fraction, *_ = pybullet.rayTest(eye, end, physicsClientId=env.world.client)[0]
            if (body, link) == (env.world.table.body, -1) or body == env.world.plane:
                differences.append(abs(depth[row, column] - 9.0 * fraction))
    assert len(differences) > 100
    assert np.median(differences) < 0.002
    assert np.quantile(differences, 0.95) < 0.01


def test_wrist_depth_sees_what_is_below(env):
    depth = env.depth_views()["depth_gripper"]
    assert depth.shape == (84, 84)
    assert depth.dtype == np.float32
    assert 0.01 < depth.min() < 0.3
    assert depth.max() <= 2.0


def test_two_renderers_and_bullet_do_not_disturb_each_other(env):
    alone = env.views()
    other = CalvinEnv("B", renderer="gl")
    other.reset(seed=5)
    beside = other.views()
    again = env.views()
    for name in alone:
        assert np.array_equal(alone[name], again[name])
        assert not np.array_equal(alone[name], beside[name])
    env.close()
    assert np.array_equal(other.views()["rgb_static"], beside["rgb_static"])
    other.close()
    other.close()


def test_a_closed_renderer_says_so(env):
    renderer = GlRenderer(env.world.client, env.scene)
    renderer.close()
    renderer.close()
    with pytest.raises(UserError, match="closed"):
        renderer.draw()


def test_scenes_have_different_tables():
    tones = []
    for scene in "ABCD":
        environment = CalvinEnv(scene, renderer="gl")
        environment.reset(seed=0)
        tones.append(environment.views()["rgb_static"][120:150, 90:190].reshape(-1, 3).mean(axis=0))
        environment.close()
    for index, tone in enumerate(tones):
        assert all(np.abs(tone - other).max() > 8 for other in tones[index + 1 :])


def test_no_egl_is_said_in_one_line(monkeypatch):
    import moderngl

    def fail(**_: object) -> None:
        raise RuntimeError("libEGL.so.1 not\nfound")

    monkeypatch.setattr(moderngl, "create_context", fail)
    gl._context_of.cache_clear()
    try:
        usable, reason = gl.gl_available()
        assert not usable
        assert "libEGL.so.1 not found" in reason
        assert "install" in reason
        assert "\n" not in reason
    finally:
        monkeypatch.undo()
        gl._context_of.cache_clear()


def test_culling_keeps_what_touches_the_picture():
    camera = CAMERAS["gripper"]
    view = np.array(gripper_view_matrix(((0, 0, 0), (0, 0, 0, 1)))).reshape(4, 4).T  # looks along +y, x to the right
    projection = np.array(camera.projection_matrix()).reshape(4, 4).T
    places = np.array([(0, 1, 0), (0, -1, 0), (5, 1, 0), (0.9, 1, 0), (0, 2.5, 0), (0, 0.1, 0)])
    cubes = matrices(places, np.tile([0, 0, 0, 1.0], (len(places), 1)))
    seen = Sight([box((0.4, 0.4, 0.4))] * len(places))(projection @ view, cubes)
    assert seen.tolist() == [True, False, False, True, False, True]


def test_colour_and_depth_come_from_one_drawing(env):
    both = env._drawer().draw(("static", "gripper"), ("rgb", "depth"))
    apart = env.views() | env.depth_views()
    assert set(both) == set(apart)
    assert all(np.array_equal(both[name], apart[name]) for name in both)


def test_a_view_is_the_same_whatever_is_drawn_beside_it(env):
    both = env.views()
    for name in ("static", "gripper"):
        assert np.array_equal(env._drawer().draw((name,))[f"rgb_{name}"], both[f"rgb_{name}"])


def _fresh_views(env: CalvinEnv) -> dict[str, np.ndarray]:
    renderer, _ = env._make_renderer("gl")
    views = renderer.draw(CAMERAS)
    renderer.close()
    return dict(views)


def test_a_picture_does_not_depend_on_those_before_it(env):
    """What stands still is drawn once and kept: moving it, or its light, must not leave traces."""
    first = env.views()
    state = env.world.scene_observation()
    for slider, drawer, led in ((0.2, 0.0, 0), (0.2, 0.15, 1), (0.0, 0.1, 0)):
        changed = state.copy()
        changed[[0, 1, 5]] = slider, drawer, led
        env.reset(options={"scene_obs": changed})
        views = env.views()
        assert all(np.array_equal(view, _fresh_views(env)[name]) for name, view in views.items())
        assert not np.array_equal(views["rgb_static"], first["rgb_static"])
        for _ in range(3):
            env.step(np.array([0.3, -0.5, 0.4, 0, 0, 0, 1.0]), render_views=False)
        assert all(np.array_equal(view, _fresh_views(env)[name]) for name, view in env.views().items())


def test_drawing_everything_anew_gives_the_picture_that_a_kept_background_gives(env, monkeypatch):
    rng = np.random.default_rng(0)
    for _ in range(4):
        env.step(rng.uniform(-1, 1, 7), render_views=False)
        monkeypatch.setattr(gl, "on_cpu", lambda: False)
        anew = env.views() | env.depth_views()
        monkeypatch.undo()
        kept = env.views() | env.depth_views()
        # Where a shadow's edge lies is computed from a depth of 24 bits there.
        apart = np.abs(anew["rgb_static"].astype(int) - kept["rgb_static"])
        assert np.mean(apart > 2) < 0.01
        assert apart.mean() < 0.1
        for name in ("rgb_gripper", "depth_static", "depth_gripper"):
            np.testing.assert_array_equal(anew[name], kept[name])


@pytest.mark.parametrize("memory", ["pinned", "slow", "none"])
def test_pictures_copied_by_a_gpu_are_those_read_from_the_framebuffer(env, monkeypatch, memory):
    if memory == "slow":
        monkeypatch.setattr(gpu_copy, "_CACHED_S", 0.0)
    if memory == "none":
        monkeypatch.setattr(gpu_copy, "calls", dict)
    monkeypatch.setattr(GlRenderer, "_draw_on_backdrop", GlRenderer._draw_anew)
    for names in (("static", "gripper"), ("gripper",)):
        read = env._drawer().draw(names, ("rgb", "depth"))
        with monkeypatch.context() as gpu:
            gpu.setattr(gl, "on_cpu", lambda: False)
            copied = env._drawer().draw(names, ("rgb", "depth"))
        copies = env._drawer()._frame._copies
        assert {copy._memory is not None for copy in copies.values()} == {memory == "pinned"}
        assert copied.keys() == read.keys()
        for name, view in read.items():
            assert view.dtype == copied[name].dtype
            np.testing.assert_array_equal(view, copied[name])


def test_what_a_gpu_copied_is_read_while_others_draw(env, monkeypatch):
    """Between the beginning and the end of a picture other worlds, and other threads, draw theirs."""
    monkeypatch.setattr(gl, "on_cpu", lambda: False)
    alone = env.views()
    other = CalvinEnv("B", renderer="gl")
    other.reset(seed=5)
    (wait,) = env._drawer().begin([env._drawer().moment()])
    with ThreadPoolExecutor(1) as thread:
        beside = thread.submit(other.views).result()
        again = thread.submit(wait).result()
    assert all(np.array_equal(alone[name], again[name]) for name in alone)
    assert all(np.array_equal(view, other.views()[name]) for name, view in beside.items())
    other.close()


def test_a_gpu_that_gives_no_picture_is_named(env, monkeypatch):
    monkeypatch.setattr(gl, "on_cpu", lambda: False)
    calls = gpu_copy.calls()
    monkeypatch.setattr(gpu_copy, "calls", lambda: calls | {"eglClientWaitSyncKHR": lambda *_: 0x30F5})
    with pytest.raises(UserError, match="expected a picture within 60 s"):
        env.views()


def test_without_fences_pictures_are_waited_for_at_once(env, monkeypatch):
    monkeypatch.setattr(gl, "on_cpu", lambda: False)
    views, calls = env.views(), gpu_copy.calls()
    monkeypatch.setattr(gpu_copy, "calls", lambda: calls | {"eglCreateSyncKHR": lambda *_: None})
    assert all(np.array_equal(view, views[name]) for name, view in env.views().items())


def test_moving_things_cast_shadows_on_what_stands_still(env):
    high, away = (0.2, -0.1, 0.60), (3.0, 3.0, 0.02)
    for block in ("block_red", "block_blue", "block_pink"):
        _place(env, block, away)
    bare = env.views()["rgb_static"].astype(float)
    _place(env, "block_red", high)
    shaded = env.views()["rgb_static"].astype(float)
    column, row = _pixel((0.204, -0.068, 0.44)).astype(int)  # light comes from (-5, -40, 200): almost straight down
    around = np.s_[row - 1 : row + 2, column - 1 : column + 2]
    assert 0.6 < shaded[around].sum() / bare[around].sum() < 0.9


def test_runs_of_cells_become_strips():
    cells = np.zeros((25, 25), np.bool_)
    cells[3, 2:5] = cells[3, 24] = cells[24, 0] = True
    triangles = strips(cells)
    assert triangles.shape == (6, 3)
    assert triangles[0].tolist() == [3 * 26 + 2, 4 * 26 + 2, 4 * 26 + 5]
    assert triangles.max() == 26 * 25 + 1
    assert len(strips(np.zeros((25, 25), np.bool_))) == 0


def test_shadow_reach_marks_the_cells_below_a_part_and_few_others():
    reach = ShadowReach([box((0.1, 0.1, 0.1))], 80)
    row, column = np.mgrid[0:80, 0:80] / 80
    still = np.zeros((80, 80), np.bool_)
    still[:, 40:] = True
    reach.show(np.stack([column, row]), still)  # the picture shows the shadow map's own plane
    over = np.eye(4)[None]
    cells = reach.cells(over)
    assert cells[4:6, 4].all()  # around the middle of the map, left of what no shadow changes
    assert not cells[:, 5:].any()
    assert cells.sum() < 12
    over[0, :3, 3] = 0.0, 5.0, 0.0
    assert reach.cells(over).sum() <= 10  # beyond the map's edge: only its last row may be shaded
