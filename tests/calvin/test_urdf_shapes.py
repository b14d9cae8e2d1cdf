"""Visual shapes read from URDF files, beside what PyBullet tells of the same files."""

from __future__ import annotations

import numpy as np
import pybullet
import pytest

from bench.calvin import gl
from bench.calvin.builtin import builtin_files
from bench.calvin.env import CalvinEnv
from bench.calvin.render import GlRenderer
from bench.calvin.scene import scene_named
from bench.calvin.urdf_shapes import visual_shapes
from bench.errors import UserError


def _urdfs(env: CalvinEnv) -> dict:
    files, world = env.world.files, env.world
    urdfs = {body: (files.blocks[name], files.scaling) for name, body in world.blocks.items()}
    urdfs |= {world.robot.body: (files.robot, 1.0), world.table.body: (files.table, files.scaling)}
    return urdfs | {world.plane: (files.plane, 1.0)}


def _compare(client: int, urdf, scaling: float) -> int:
    body = pybullet.loadURDF(str(urdf), globalScaling=scaling, useFixedBase=True, physicsClientId=client)
    names = {-1: pybullet.getBodyInfo(body, physicsClientId=client)[0].decode()}
    for joint in range(pybullet.getNumJoints(body, physicsClientId=client)):
        names[joint] = pybullet.getJointInfo(body, joint, physicsClientId=client)[12].decode()
    told = pybullet.getVisualShapeData(body, physicsClientId=client)
    read = visual_shapes(urdf, scaling)
    key = lambda shape: (shape[0], shape[1], np.round(shape[4], 5).tolist(), np.round(shape[2], 5).tolist())  # noqa: E731
    told = sorted(((names[s[1]], s[2], s[3], s[4].decode(), *s[5:8]) for s in told), key=key)
    read = sorted(read, key=key)
    assert len(told) == len(read)
    for one, two in zip(told, read, strict=True):
        assert one[:2] == two[:2]
        for index in (2, 4, 6):
            assert np.allclose(one[index], two[index], atol=1e-5), (one, two)
        assert np.isclose(abs(np.dot(one[5], two[5])), 1, atol=1e-5)
        assert one[3].rsplit("/", 1)[-1] == two[3].rsplit("/", 1)[-1]
    return len(read)


@pytest.fixture
def client():
    number = pybullet.connect(pybullet.DIRECT)
    yield number
    pybullet.disconnect(number)


def test_builtin_files_read_as_pybullet_reads_them(client):
    files = builtin_files(scene_named("B"))
    for urdf, scaling in ((files.table, files.scaling), (files.robot, 1.0), (files.plane, 1.0)):
        assert _compare(client, urdf, scaling) > 0


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["calvin_table_A/urdf/calvin_table_A", "franka_panda/panda_longer_finger", "blocks/block_red_big"]
)
def test_calvin_files_read_as_pybullet_reads_them(client, shared, name):
    urdf = shared / "calvin" / "env_data" / "data" / f"{name}.urdf"
    assert _compare(client, urdf, 0.8 if "franka" not in name else 1.0) > 0


@pytest.mark.skipif(not gl.gl_available()[0], reason=gl.gl_available()[1])
def test_the_picture_is_the_same_from_urdfs():
    env = CalvinEnv("C", renderer="gl")
    env.reset(seed=1)
    renderer = GlRenderer(env.world.client, env.scene, urdfs=_urdfs(env))
    for name, view in renderer.draw().items():
        assert np.abs(view.astype(int) - env.views()[name]).mean() < 0.2
    renderer.close()
    env.close()


def test_what_is_no_urdf_is_named(tmp_path):
    (tmp_path / "a.urdf").write_text("<robot")
    with pytest.raises(UserError, match=r"a\.urdf"):
        visual_shapes(tmp_path / "a.urdf")
