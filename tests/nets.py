"""Small networks that several tests differentiate, run and compile."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops


class NetXYZ(nn.Cell):
    """x * x * y * z, with a Parameter that plays no part."""

    def __init__(self) -> None:
        super().__init__()
        self.z = Parameter(Tensor([2.0], ms.float32), name="z")
        self.unused = Parameter(Tensor([7.0], ms.float32), name="unused")

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return x * x * y * self.z


class NetMatMul(nn.Cell):
    """matmul(x * z, y)."""

    def __init__(self) -> None:
        super().__init__()
        self.matmul = ops.MatMul()
        self.z = Parameter(Tensor(np.array([1.0], np.float32)), name="z")

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return self.matmul(x * self.z, y)


class NetConst(nn.Cell):
    """No inputs at all."""

    def __init__(self) -> None:
        super().__init__()
        self.z = Parameter(Tensor([1.0, 2.0]), name="z")

    def construct(self) -> Tensor:
        return self.z * self.z


class NetBprop(nn.Cell):
    """A product with a derivative of its own."""

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def bprop(self, x: Tensor, y: Tensor, out: Tensor, dout: Tensor) -> Any:
        return dout * 100 + out, dout * x


class NetBpropTwo(nn.Cell):
    """Two outputs with a derivative of their own."""

    def construct(self, x: Tensor, y: Tensor) -> Any:
        return x * y, x + y

    def bprop(self, x: Tensor, y: Tensor, out: Any, dout: Any) -> Any:
        return dout[0] * 10 + dout[1], out[0] + dout[1] * 0


class NetOuter(nn.Cell):
    """NetBprop inside another computation."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = NetBprop()

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return self.inner(x * 2, y) * 3


class Linear(nn.Cell):
    """x @ weight.T + bias."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(weight), name="weight")
        self.bias = Parameter(Tensor(bias), name="bias")

    def construct(self, x: Tensor) -> Tensor:
        return x.matmul(self.weight.T) + self.bias


class NetDense(nn.Cell):
    """Linear, relu, Linear, mean squared error."""

    def __init__(self) -> None:
        super().__init__()
        weight = np.arange(12).reshape(4, 3).astype(np.float32) / 10 - 0.4
        second = weight[:2].repeat(2, 1)[:, :4].copy()
        self.fc1 = Linear(weight, np.full(4, 0.1, np.float32))
        self.fc2 = Linear(second, np.full(2, -0.1, np.float32))

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        out = self.fc2(ops.relu(self.fc1(x))) - y
        return (out * out).mean()
