"""The straight line between a worker and an actor: what goes over it, and what happens where there is none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import scratch
from bench.rollout.actors import Job
from bench.rollout.answering import Question
from bench.rollout.inference import Caller
from bench.rollout.line import Exchange, Line, RefusalError
from bench.rollout.servers import Servers
from bench.rollout.sources import ModelLostError, PolicySource
from policies.api import Observation, PolicyError
from policies.wire import pack_vla_eval


async def doubled(message: bytes) -> bytes:
    """Answer twice what was asked, after a moment; refuse an empty message."""
    await asyncio.sleep(0.01)
    if not message:
        raise ValueError("there is nothing to double")
    return message * 2


def test_answers_and_refusals_come_back_to_who_asked(tmp_path: Path) -> None:
    async def scene() -> list[Any]:
        await Exchange(doubled).open(tmp_path / "line")
        lines = [Line.to(tmp_path / "line") for _ in range(3)]
        asked = [b"a", b"b" * 3_000_000, b""]
        first = await asyncio.gather(
            *(line.ask(one) for line, one in zip(lines, asked, strict=True)), return_exceptions=True
        )
        again = await lines[0].ask(b"c")
        for line in lines:
            line.close()
        return [*first, again]

    short, long, refused, again = asyncio.run(scene())
    assert (short, again) == (b"aa", b"cc")
    assert long == b"b" * 6_000_000
    assert isinstance(refused, RefusalError)
    assert str(refused) == "there is nothing to double"


def test_line_that_waits_for_an_answer_takes_no_second_question(tmp_path: Path) -> None:
    async def scene() -> None:
        await Exchange(doubled).open(tmp_path / "line")
        line = Line.to(tmp_path / "line")
        asked = asyncio.ensure_future(line.ask(b"a"))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one question at a time"):
            await line.ask(b"b")
        assert await asked == b"aa"
        line.close()

    asyncio.run(scene())


class Double:
    """Stands for an actor's Ray handle: methods whose ``remote`` gives something to wait for."""

    def __init__(self, doors: list[str], told: Any = None) -> None:
        self.doors, self.told, self.by_ray = doors, told, 0
        self.door, self.infer = _Method(self._door), _Method(self._infer)

    async def _door(self) -> str:
        return self.doors.pop(0) if len(self.doors) > 1 else self.doors[0]

    async def _infer(self, message: bytes) -> bytes:
        self.by_ray += 1
        if self.told is not None:
            raise self.told
        return pack_vla_eval(np.full(2, 7.0))


class _Method:
    def __init__(self, work: Any) -> None:
        self.remote = work


async def pi(message: bytes) -> bytes:
    return pack_vla_eval(np.full(2, 3.0))


@pytest.mark.parametrize("door", ["", "/nowhere/line"])
def test_without_a_line_it_goes_by_ray(door: str) -> None:
    actor = Double([door])
    caller = Caller(actor, "policy", PolicyError, 5.0)
    assert asyncio.run(caller.ask(b"x")).tolist() == [7.0, 7.0]
    assert actor.by_ray == 1


def test_line_that_breaks_goes_on_by_ray_and_then_by_the_new_actors_line(tmp_path: Path) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async def scene() -> tuple[list[float], int]:
        server = await asyncio.start_unix_server(broken, tmp_path / "old")
        await Exchange(pi).open(tmp_path / "new")
        actor = Double([str(tmp_path / "old"), str(tmp_path / "new")])
        caller = Caller(actor, "policy", PolicyError, 5.0)
        told = [float((await caller.ask(b"x" * 1000))[0]) for _ in range(3)]
        caller.close()
        server.close()
        return told, actor.by_ray

    assert asyncio.run(scene()) == ([7.0, 3.0, 3.0], 1)


def test_actor_that_never_answers_is_lost(tmp_path: Path) -> None:
    async def scene() -> None:
        async def never(message: bytes) -> bytes:
            await asyncio.sleep(60)
            return message

        await Exchange(never).open(tmp_path / "line")
        caller = Caller(Double([str(tmp_path / "line")]), "policy", PolicyError, 0.2)
        with pytest.raises(ModelLostError, match="gave no answer in 0 s"):
            await caller.ask(b"x")
        caller.close()

    asyncio.run(scene())


def test_a_rollouts_actor_has_a_line_that_only_this_user_reaches(ray_session: Any) -> None:
    run = scratch.new_run()
    servers = Servers(ray_session, 4, run=run)
    seen = Observation({"anchor": np.zeros((4, 4, 3), np.uint8)}, "go")

    async def scene(policy: Any) -> tuple[Any, bool]:
        chunk = await policy.answer(Question(seen, 5))
        straight = policy._caller._line is not None
        policy.close()
        return chunk, straight

    try:
        job = Job(PolicySource("rollout_doubles:NoisyPolicy"), "real", 0)
        policy = servers.of(job, 0, set()).policy
        chunk, straight = asyncio.run(scene(policy))
        assert straight
        door = Path(ray_session.get(servers._policies["real", 0].actors[0].door.remote()))
        assert door.is_socket()
        assert door.parent.parent.stat().st_mode & 0o077 == 0
    finally:
        servers.close()
    np.testing.assert_array_equal(chunk, job.policy.load().act([seen], [5])[0])  # type: ignore[union-attr]
    scratch.sweep(run, scratch.PATIENCE_S)
    assert not door.parent.exists()
