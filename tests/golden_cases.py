"""Runs the cases of goldens/layer_cases.py and compares with what MindSpore recorded."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import graphopt as ms
from graphopt import Tensor, nn, ops

GOLDENS = pathlib.Path(__file__).parent / "goldens"
sys.path.insert(0, str(GOLDENS))

from layer_cases import CASES, make_inputs, make_parameter  # noqa: E402

NUMBERS = {case[0]: k for k, case in enumerate(CASES)}
RECORDED = np.load(GOLDENS / "layers.npz")
TOLERANCE = 2e-5  # of 1 + |value|, float32 on both sides
LOOSER = {"fn_prod": 1e-4, "fn_atan": 2e-4}  # products and tangents of float32 values near their poles


@contextmanager
def in_mode(mode: int) -> Iterator[None]:
    """Run the block in PYNATIVE_MODE or GRAPH_MODE."""
    before = ms.get_context("mode")
    ms.set_context(mode=mode)
    try:
        yield
    finally:
        ms.set_context(mode=before)


def close(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape, (name, found.shape, expected.shape)
    assert found.dtype == expected.dtype, (name, found.dtype, expected.dtype)
    wide, want = found.astype(np.float64), expected.astype(np.float64)
    worst = np.max(np.abs(wide - want) / (1 + np.abs(want)), initial=0)
    assert worst <= LOOSER.get(name.split("/")[0], TOLERANCE), (name, worst, found, expected)


def build(name: str) -> tuple[Callable[..., Any], list[Tensor], tuple[Any, ...]]:
    """(network or function, inputs, the case)."""
    number = NUMBERS[name]
    case = CASES[number]
    net = eval(case[1], {"nn": nn, "ops": ops, "Tensor": Tensor, "np": np})
    if isinstance(net, nn.Cell):
        net.set_train(case[3])
        for position, parameter in enumerate(net.get_parameters()):
            parameter.set_data(Tensor(make_parameter(number, position, parameter.shape)))
    return net, [Tensor(a) for a in make_inputs(number, case[2])], case


def check_case(name: str) -> None:
    """Output, Parameters after the call, and the gradient by the first input."""
    net, inputs, case = build(name)
    out = net(*inputs)
    close(f"{name}/out", out.asnumpy(), RECORDED[f"{name}/out"])
    recorded = [k for k in RECORDED.files if k.startswith(f"{name}/p:")]
    if isinstance(net, nn.Cell):
        parameters = list(net.get_parameters())
        assert len(parameters) == len(recorded)
        for parameter, key in zip(parameters, recorded, strict=True):
            close(key, parameter.asnumpy(), RECORDED[key])
    if f"{name}/grad" in RECORDED.files:
        net, inputs, case = build(name)
        weight = (1 + np.arange(out.size) % 8).reshape(out.shape).astype(np.float32) / 8
        grad = ops.GradOperation(sens_param=True)(net)(*inputs, Tensor(weight))
        close(f"{name}/grad", grad.asnumpy(), RECORDED[f"{name}/grad"])
