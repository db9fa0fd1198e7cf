"""Single functions, with or without their gradients; sizes: name (which one), the rest is its own.

A function is three classes' methods of its name: `Torch`, `Jax`, `MindSpore`, which return the step, and an entry of INPUTS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

import numpy as np

EPS = 1e-5
TIMES = 10  # ops with a derivative of their own, one after the other
"""The op is 0.9 x + 0.1 x², which maps [0, 1] to itself."""
RATE = 0.01
DT = 0.001  # of a step of the Lorenz system, which is chaotic: after one unit of time rounding is still small


def _runge_kutta(x: Any, stack: Callable[[Any], Any]) -> Any:
    """A step of the fourth order through the Lorenz system."""

    def slope(p: Any) -> Any:
        return stack([10.0 * (p[1] - p[0]), p[0] * (28.0 - p[2]) - p[1], p[0] * p[1] - 8.0 / 3.0 * p[2]])

    a = slope(x)
    b = slope(x + 0.5 * DT * a)
    c = slope(x + 0.5 * DT * b)
    d = slope(x + DT * c)
    return x + DT / 6.0 * (a + 2.0 * b + 2.0 * c + d)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


INPUTS: dict[str, Callable[[dict[str, Any], np.random.Generator], dict[str, np.ndarray]]] = {
    "gelu_chain": lambda s, rng: {"batch.x": _normal(rng, s["elements"])},
    "layernorm": lambda s, rng: {
        "batch.x": _normal(rng, s["rows"], s["columns"]),
        "batch.gamma": 1 + _normal(rng, s["columns"]) / 10,
        "batch.beta": _normal(rng, s["columns"]) / 10,
    },
    "softmax_xent": lambda s, rng: {
        "batch.logits": _normal(rng, s["rows"], s["columns"]),
        "batch.labels": rng.integers(0, s["columns"], s["rows"]).astype(np.int32),
    },
    "conv_block": lambda s, rng: {
        "weight.conv": _normal(rng, s["channels"], s["channels"], 3, 3) / sqrt(9 * s["channels"]),
        "weight.gamma": 1 + _normal(rng, s["channels"]) / 10,
        "weight.beta": _normal(rng, s["channels"]) / 10,
        "batch.x": _normal(rng, s["batch"], s["channels"], s["side"], s["side"]),
    },
    "matmul": lambda s, rng: {"batch.a": _normal(rng, s["m"], s["k"]), "batch.b": _normal(rng, s["k"], s["n"])},
    "dispatch": lambda s, rng: {"weight.w": _normal(rng, s["elements"]), "batch.x": _normal(rng, s["elements"])},
    "custom_vjp": lambda s, rng: {"batch.x": rng.random(s["elements"], np.float32)},
    "lorenz": lambda s, rng: {"batch.x": 1 + _normal(rng, 3) / 10},
}


def arrays(sizes: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    found = INPUTS[sizes["name"]](sizes, rng)
    return {name: value[None] if name.startswith("batch.") else value for name, value in found.items()}


def in_torch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    return getattr(Torch, sizes["name"])(kit, sizes, arrays)


def in_jax(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    return getattr(Jax, sizes["name"])(kit, sizes, arrays)


def in_mindspore(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    return getattr(MindSpore, sizes["name"])(kit, sizes, arrays)


class Torch:
    """The functions in PyTorch."""

    @staticmethod
    def gelu_chain(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import torch

        gelu = torch.nn.functional.gelu
        return kit.gradients(lambda x: (gelu(x, approximate="tanh") * torch.sigmoid(x) + 0.5 * torch.tanh(x)).sum(), 1)

    @staticmethod
    def layernorm(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import torch

        norm = torch.nn.functional.layer_norm
        return kit.gradients(lambda x, g, b: norm(x, (sizes["columns"],), g, b, EPS).square().sum(), 3)

    @staticmethod
    def softmax_xent(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import torch

        return kit.gradients(lambda x, y: torch.nn.functional.cross_entropy(x, y.long()), 1)

    @staticmethod
    def conv_block(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import torch
        from torch import nn

        channels = sizes["channels"]
        net = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels, EPS))
        kit.load(net, arrays).train()
        return kit.gradients(lambda x: torch.relu(net(x)).square().mean(), 1, list(net.parameters()))

    @staticmethod
    def matmul(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        return kit.plain(lambda a, b: a @ b)

    @staticmethod
    def dispatch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import torch

        w = kit.weights(arrays)["w"]
        return kit.training(lambda x: (w * x).square().sum(), [torch.optim.SGD([w], RATE, fused=True)])

    @staticmethod
    def custom_vjp(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import torch

        class Op(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
                ctx.save_for_backward(x)
                return x * (0.9 + 0.1 * x)

            @staticmethod
            def backward(ctx: Any, ct: torch.Tensor) -> torch.Tensor:
                (x,) = ctx.saved_tensors
                return ct * (0.9 + 0.2 * x)

        def chain(x: torch.Tensor) -> torch.Tensor:
            for _ in range(TIMES):
                x = Op.apply(x)
            return x.sum()

        return kit.gradients(chain, 1)

    @staticmethod
    def lorenz(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import torch

        def end(x: torch.Tensor) -> torch.Tensor:
            for _ in range(sizes["steps"]):
                x = _runge_kutta(x, torch.stack)
            return x.sum()

        return kit.gradients(end, 1)


class Jax:
    """The functions in JAX."""

    @staticmethod
    def gelu_chain(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import jax
        import jax.numpy as jnp

        return kit.gradients(lambda x: (jax.nn.gelu(x) * jax.nn.sigmoid(x) + 0.5 * jnp.tanh(x)).sum(), 1)

    @staticmethod
    def layernorm(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import jax
        import jax.numpy as jnp

        def squares(x: Any, gamma: Any, beta: Any) -> Any:
            x = x - x.mean(1, keepdims=True)
            y = x * jax.lax.rsqrt(jnp.square(x).mean(1, keepdims=True) + EPS)
            return jnp.square(y * gamma + beta).sum()

        return kit.gradients(squares, 3)

    @staticmethod
    def softmax_xent(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import optax

        return kit.gradients(lambda x, y: optax.softmax_cross_entropy_with_integer_labels(x, y).mean(), 1)

    @staticmethod
    def conv_block(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import jax
        import jax.numpy as jnp

        def loss(x: Any, w: Any, gamma: Any, beta: Any) -> Any:
            pad, names = [(1, 1), (1, 1)], ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(
                x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0), (1, 1), pad, dimension_numbers=names
            )
            y = (y - y.mean((0, 1, 2))) * (jax.lax.rsqrt(y.var((0, 1, 2)) + EPS) * gamma) + beta
            return jnp.square(jax.nn.relu(y)).mean()

        weights = tuple(kit.weights(arrays).values())
        step = kit.gradients(loss, 4)
        return lambda x: step(x, *weights)

    @staticmethod
    def matmul(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        return kit.plain(lambda a, b: a @ b)

    @staticmethod
    def dispatch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import jax
        import jax.numpy as jnp

        def update(w: Any, x: Any) -> Any:
            value, gradient = jax.value_and_grad(lambda w: jnp.square(w * x).sum())(w)
            return w - RATE * gradient, value

        return kit.stateful(update, kit.weights(arrays)["w"])

    @staticmethod
    def custom_vjp(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import jax

        op = jax.custom_vjp(lambda x: x * (0.9 + 0.1 * x))
        op.defvjp(lambda x: (op(x), x), lambda x, ct: (ct * (0.9 + 0.2 * x),))

        def chain(x: Any) -> Any:
            for _ in range(TIMES):
                x = op(x)
            return x.sum()

        return kit.gradients(chain, 1)

    @staticmethod
    def lorenz(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        import jax
        import jax.numpy as jnp

        def end(x: Any) -> Any:
            return jax.lax.scan(lambda x, _: (_runge_kutta(x, jnp.stack), None), x, length=sizes["steps"])[0].sum()

        return kit.gradients(end, 1)


class MindSpore:
    """The functions in MindSpore and graphopt."""

    @staticmethod
    def gelu_chain(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        ops = kit.ms.ops

        def chain(x: Any) -> Any:
            return (ops.gelu(x, approximate="tanh") * ops.sigmoid(x) + 0.5 * ops.tanh(x)).sum()

        return kit.gradients(chain, 1)

    @staticmethod
    def layernorm(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        ops = kit.ms.ops
        norm = ops.LayerNorm(1, 1, EPS)

        def squares(x: Any, gamma: Any, beta: Any) -> Any:
            return ops.square(norm(x, gamma, beta)[0]).sum()

        return kit.gradients(squares, 3)

    @staticmethod
    def softmax_xent(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        return kit.gradients(kit.ms.nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"), 1)

    @staticmethod
    def conv_block(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        nn, ops, channels = kit.ms.nn, kit.ms.ops, sizes["channels"]

        class Block(nn.Cell):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(channels, channels, 3, pad_mode="pad", padding=1, has_bias=False)
                self.norm = nn.BatchNorm2d(channels, eps=EPS)

            def construct(self, x: Any) -> Any:
                return ops.square(ops.relu(self.norm(self.conv(x)))).mean()

        net = kit.load(Block(), arrays)
        return kit.gradients(net.set_train(), 1, net.trainable_params())

    @staticmethod
    def matmul(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        return kit.plain(kit.ms.ops.matmul)

    @staticmethod
    def dispatch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        ms, nn, ops = kit.ms, kit.ms.nn, kit.ms.ops

        class Loss(nn.Cell):
            def __init__(self) -> None:
                super().__init__()
                self.w = ms.Parameter(ms.Tensor(arrays["w"]), name="w")

            def construct(self, x: Any) -> Any:
                return ops.square(self.w * x).sum()

        net = Loss()
        return kit.training(net, nn.SGD(net.trainable_params(), RATE))

    @staticmethod
    def custom_vjp(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        nn = kit.ms.nn

        class Op(nn.Cell):
            def construct(self, x: Any) -> Any:
                return x * (0.9 + 0.1 * x)

            def bprop(self, x: Any, out: Any, ct: Any) -> Any:
                return (ct * (0.9 + 0.2 * x),)

        class Chain(nn.Cell):
            def __init__(self) -> None:
                super().__init__()
                self.ops = nn.SequentialCell(*(Op() for _ in range(TIMES)))

            def construct(self, x: Any) -> Any:
                return self.ops(x).sum()

        return kit.gradients(Chain(), 1)

    @staticmethod
    def lorenz(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
        ops = kit.ms.ops

        def step(_: Any, x: Any) -> Any:
            return _runge_kutta(x, ops.stack)

        return kit.gradients(lambda x: ops.ForiLoop()(0, sizes["steps"], step, x).sum(), 1)
