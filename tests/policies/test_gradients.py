"""A training step's gradients do not depend on how its kernels are launched, and a launch that fails costs no run."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from policies import gradients as gradients_module
from policies.api import PolicyError
from policies.data import DeviceArrays
from policies.flow import initial_network, placed
from policies.gradients import EAGER, Gradients

CPU = torch.device("cpu")


def _batches(arrays, config, device=CPU, count=3, use_wrist=True):
    vectors = torch.zeros(len(arrays.sentences), config.text_dim).numpy()
    data = DeviceArrays(arrays, arrays.fit_normaliser(), vectors, config.chunk, device, use_wrist=use_wrist)
    generator = torch.Generator(device).manual_seed(0)
    return [data.batch(torch.arange(4 * n, 4 * n + 4, device=device), generator) for n in range(count)]


def _of(network):
    return [None if one.grad is None else one.grad.clone() for one in network.parameters()]


def _awake(config, device=CPU):
    network = placed(initial_network(config, 0), device)
    generator = torch.Generator(device).manual_seed(1)
    for parameter in network.parameters():
        parameter.data.add_(torch.randn(parameter.shape, device=device, generator=generator) * 0.05)
    return network


@pytest.mark.parametrize("use_wrist", [True, False])
def test_they_are_those_of_the_batch_alone(mini_arrays, mini, use_wrist):
    network = _awake(mini)
    gradients = Gradients(network, CPU, EAGER)
    for batch in _batches(mini_arrays, mini, use_wrist=use_wrist):
        loss = gradients(batch)
        got = _of(network)
        network.zero_grad()
        wanted = network.loss(batch.inputs, batch.actions, batch.valid, batch.noise, batch.t)
        wanted.backward()
        assert not loss.requires_grad
        assert float(loss) == float(wanted.detach())
        for mine, right in zip(got, _of(network), strict=True):
            assert (mine is None) == (right is None)
            assert mine is None or torch.equal(mine, right)


@pytest.mark.parametrize("error", [RuntimeError("no kernel\nfor that"), AssertionError(), LookupError("XBLOCK")])
def test_a_compiler_that_fails_is_left_out_with_one_line(monkeypatch, mini_arrays, mini, error):
    def broken(function):
        def fail(*_):
            raise error

        return fail

    monkeypatch.setattr(gradients_module.torch, "compile", broken)
    network = _awake(mini)
    first, second, _ = _batches(mini_arrays, mini)
    gradients = Gradients(network, CPU, "compile")
    with pytest.warns(UserWarning, match=r"cannot be launched by compile: .*; going on eager") as caught:
        loss = gradients(first)
    assert "\n" not in str(caught[0].message)
    assert gradients.launch == EAGER
    assert float(loss) == float(Gradients(network, CPU, EAGER)(first))
    gradients(second)
    assert len(caught) == 1


def test_the_same_network_is_compiled_by_one_at_a_time(monkeypatch, mini_arrays, mini):
    running, most = Counter(), Counter()

    def compiling(function):
        width = function.__self__.config.dim

        def slow(*arguments):
            running[width] += 1
            most[width] = max(most[width], running[width])
            most["any"] = max(most["any"], sum(running.values()))
            time.sleep(0.3)
            running[width] -= 1
            return function(*arguments)

        return slow

    monkeypatch.setattr(gradients_module.torch, "compile", compiling)
    batch = _batches(mini_arrays, mini)[0]
    configs = [replace(mini, training=replace(mini.training, steps=seed + 1)) for seed in range(2)]
    configs += [replace(mini, dim=64)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda config: Gradients(_awake(config), CPU, "compile")(batch), configs))
    assert most == {32: 1, 64: 1, "any": 2}


def test_a_fault_of_the_data_is_not_blamed_on_the_compiler_twice(mini_arrays, mini):
    gradients = Gradients(_awake(mini), CPU, EAGER)
    batch = _batches(mini_arrays, mini)[0]
    with pytest.raises(TypeError):
        gradients(gradients_module.replace(batch, actions=None))


@pytest.mark.parametrize(("launch", "complaint"), [("fast", "expected one of"), ("graph", "needs a GPU")])
def test_what_cannot_be_launched_is_refused(mini, launch, complaint):
    with pytest.raises(PolicyError, match=complaint):
        Gradients(initial_network(mini, 0), CPU, launch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("use_wrist", [True, False])
def test_a_recorded_step_gives_what_its_kernels_give(mini_arrays, mini, use_wrist):
    device = torch.device("cuda")
    batches = _batches(mini_arrays, mini, device, use_wrist=use_wrist)
    ours, theirs = _awake(mini, device), _awake(mini, device)
    recorded, eager = Gradients(ours, device, "graph"), Gradients(theirs, device, EAGER)
    for batch in [*batches, *batches]:
        torch.testing.assert_close(recorded(batch), eager(batch), rtol=1e-3, atol=1e-4)
        for mine, right in zip(_of(ours), _of(theirs), strict=True):
            assert (mine is None) == (right is None)
            if mine is not None and right is not None:
                torch.testing.assert_close(mine, right, rtol=2e-2, atol=1e-3)
    assert recorded.launch == "graph"


@pytest.mark.parametrize(
    ("device", "compiles", "samples", "limit", "launch"),
    [
        ("cpu", None, 10**9, None, "eager"),
        ("cpu", True, 1, None, "compile"),
        ("cuda", None, 10**7, None, "compile+graph"),
        ("cuda", None, 10**7, 60.0, "graph"),
        ("cuda", None, 10**5, None, "graph"),
        ("cuda", False, 10**7, None, "graph"),
        ("cuda", True, 10**5, None, "compile+graph"),
    ],
)
def test_steps_are_compiled_only_where_it_pays(device, compiles, samples, limit, launch):
    assert gradients_module.usual_launch(torch.device(device), compiles, samples, limit) == launch
