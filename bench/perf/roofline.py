"""What a device can do at all, and what one training sample of a policy asks of it: no implementation is faster.

The device's side is measured: a product of large matrices, a copy of a large tensor.  The sample's side is counted: the
operations of forward and backward, and the bytes that its convolutions and matrix products read and write, which have
to move even where everything between them is fused away.  How fast training really is stands in ``bench/perf/policy``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from policies.config import FlowPolicyConfig
    from policies.data import PolicyArrays

PRODUCTS = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm")
ATTENTION = "scaled_dot_product"
COUNTED = (2, 6)
"""Batches that are counted: what does not grow from one to the other are weights, shared by a whole batch."""


@dataclass(frozen=True)
class Work:
    """One training sample's share of a step.

    Attributes:
        flop: floating-point operations; a multiply-add is two.
        product_bytes: bytes read and written by convolutions, matrix products and attention, without weights.
    """

    flop: float
    product_bytes: float


def seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """Return the wall time of one call, the mean over ``repeats`` after two to warm up."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    work()
    work()
    wait()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return (time.perf_counter() - started) / repeats


def machine(device: str) -> dict[str, float]:
    """Return ``matmul_tflops`` (bf16; on a CPU f32) and ``copy_gb_per_s``: what the device reaches on its own."""
    import torch

    gpu = device == "cuda"
    side = 8192 if gpu else 1024
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    block = torch.empty((1 << 30) if gpu else (1 << 26), dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    return {
        "matmul_tflops": 2 * side**3 / seconds(lambda: a @ a, 20, device) / 1e12,
        "copy_gb_per_s": 2 * block.numel() / seconds(lambda: other.copy_(block), 20, device) / 1e9,
    }


def _product_counter() -> Any:
    """Return a mode that sums the bytes of the products that run under it into its ``bytes``."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Counter(TorchDispatchMode):
        """Counts, and changes nothing."""

        bytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            name = func.overloadpacket.__name__
            if name in PRODUCTS or ATTENTION in name:
                tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
                self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            return out

    return Counter()


def work_per_sample(config: FlowPolicyConfig, arrays: PolicyArrays, *, half: bool) -> Work:
    """Count what one training sample costs, both views seen.

    Args:
        config: the policy.
        arrays: demonstrations of that size.
        half: activations in bf16, as on a GPU.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from policies.data import DeviceArrays
    from policies.flow import initial_network

    network = initial_network(config, 0)
    vectors = np.zeros((len(arrays.sentences), config.text_dim), np.float32)
    data = DeviceArrays(arrays, arrays.fit_normaliser(), vectors, config.chunk, torch.device("cpu"), use_wrist=True)
    flops, moved = [], []
    for size in COUNTED:
        batch = data.batch(torch.arange(size), torch.Generator())
        with FlopCounterMode(display=False) as counter, _product_counter() as products:
            with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
                loss = network.loss(batch.inputs, batch.actions, batch.valid, batch.noise, batch.t)
            loss.backward()
        flops.append(float(counter.get_total_flops()))
        moved.append(float(products.bytes))
    more = COUNTED[1] - COUNTED[0]
    return Work((flops[1] - flops[0]) / more, (moved[1] - moved[0]) / more)


def bound(work: Work, device: dict[str, float]) -> dict[str, float]:
    """Return samples a second that the device's products (``by_products``) and its memory (``by_memory``) allow."""
    return {
        "by_products": device["matmul_tflops"] * 1e12 / work.flop,
        "by_memory": device["copy_gb_per_s"] * 1e9 / work.product_bytes,
    }
