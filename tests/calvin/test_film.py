"""Pictures that are fetched later are those of their moments."""

from __future__ import annotations

import numpy as np
import pytest

from bench.calvin import film as film_module
from bench.calvin import gl
from bench.calvin.env import CalvinEnv


@pytest.mark.parametrize(("depth", "on_gpu"), [(False, False), (True, False), (True, True)])
def test_a_film_shows_what_views_show(depth: bool, on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its last turn is a whole one or not, and as GPUs draw, too."""
    monkeypatch.setattr(film_module, "TURN", 3)
    if on_gpu:
        monkeypatch.setattr(gl, "on_cpu", lambda: False)
    moving, still = (CalvinEnv("A", depth=depth) for _ in range(2))
    film, expected = moving.film(), []
    rng = np.random.default_rng(0)
    for env in (moving, still):
        env.reset(seed=1, options={"render_views": False})
    for _ in range(7):
        action = rng.uniform(-1, 1, 7)
        for env in (moving, still):
            env.step(action, render_views=False)
        film.shoot()
        expected.append(still.views() | (still.depth_views() if depth else {}))
    pictures = film.develop()
    assert pictures.keys() == expected[0].keys()
    for key, images in pictures.items():
        assert images.dtype == expected[0][key].dtype
        np.testing.assert_array_equal(images, np.stack([one[key] for one in expected]))
        assert len(images) == 7
    film.shoot()
    assert len(film.develop()["rgb_static"]) == 8
    moving.close()
    still.close()


def test_a_film_works_with_bullets_own_renderer() -> None:
    env = CalvinEnv("D", renderer="bullet-tiny")
    env.reset(seed=0, options={"render_views": False})
    film = env.film()
    film.shoot()
    np.testing.assert_array_equal(film.develop()["rgb_gripper"][0], env.views()["rgb_gripper"])
    env.close()
