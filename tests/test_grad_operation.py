"""GradOperation, grad and value_and_grad: recorded results, printed numbers, structures and errors, in both modes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import NetBprop, NetBpropTwo, NetConst, NetDense, NetMatMul, NetOuter, NetXYZ

import graphopt as ms
from graphopt import Parameter, ParameterTuple, Tensor, nn, ops

Grad = ops.GradOperation
GOLDENS = Path(__file__).parent / "goldens" / "gradients.npz"

# Recorded calls of features that have tests elsewhere.
ELSEWHERE = {"forward_value_and_grad"}


@pytest.fixture(params=[ms.PYNATIVE_MODE, ms.GRAPH_MODE], ids=["pynative", "graph"], autouse=True)
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


def t(*values: float) -> Tensor:
    return Tensor(list(values), ms.float32)


X, Y, W, SENS = t(1, 2), t(3, 4), t(0.5, -1), t(1, 10)
EDGE = t(0, -1, 1)
XI = Tensor([1, 2], ms.int32)
MX = Tensor([[0.5, 0.6, 0.4], [1.2, 1.3, 1.1]], ms.float32)
MY = Tensor([[0.01, 0.3, 1.1], [0.1, 0.2, 1.3], [2.1, 1.2, 3.3]], ms.float32)
MS = Tensor([[0.1, 0.6, 0.2], [0.8, 1.3, 1.1]], ms.float32)


def mul(a: Any, b: Any) -> Any:
    return a * b


def cube(a: Tensor) -> Tensor:
    return a * a * a


def second(a: Tensor, b: Tensor) -> Tensor:
    return b * 2


def two(a: Tensor, b: Tensor) -> Any:
    return a * b, a + b


def nested(a: Tensor, b: Tensor) -> Any:
    return a * b, (a + b, b * b)


def aux(a: Tensor, b: Tensor) -> Any:
    return a * b, a + b, b


def doubled(a: Tensor) -> Tensor:
    i = 0
    while i < 3:
        a = a * 2
        i = i + 1
    return a


def through_int(a: Tensor) -> Tensor:
    return ops.cast(ops.cast(a, ms.int32), ms.float32) * 2


def named(a: Tensor) -> dict[str, Tensor]:
    return {"first": a * a, "second": a}


def powers(a: Tensor, b: Tensor) -> Tensor:
    return a**3 + b


def squares(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return a**2 + b * c


def called(result: tuple[Any, ...], *v: Tensor) -> Any:
    """What `vjp` gives, its function called."""
    return result[0], result[1](*v)


def golden_calls() -> dict[str, Callable[[], Any]]:
    """The recorded calls by name; what each computes is in the golden file."""
    net, mm, const, dense = NetXYZ(), NetMatMul(), NetConst(), NetDense()
    dx, dy = Tensor(np.arange(6).reshape(2, 3).astype(np.float32) / 5), Tensor(np.ones((2, 2), np.float32))
    both, z = ParameterTuple(net.trainable_params()), ParameterTuple([net.z])
    twice = ops.InsertGradientOf(lambda g: g * 2)
    return {
        "default": lambda: Grad()(net)(X, Y),
        "get_all": lambda: Grad(get_all=True)(net)(X, Y),
        "by_list_one": lambda: Grad(get_by_list=True)(net, z)(X, Y),
        "by_list_two": lambda: Grad(get_by_list=True)(net, both)(X, Y),
        "by_list_python_list": lambda: Grad(get_by_list=True)(net, list(both))(X, Y),
        "by_list_parameter": lambda: Grad(get_by_list=True)(net, net.z)(X, Y),
        "by_list_empty": lambda: Grad(get_by_list=True)(net, ParameterTuple([]))(X, Y),
        "all_and_list": lambda: Grad(True, True)(net, both)(X, Y),
        "all_and_parameter": lambda: Grad(True, True)(net, net.z)(X, Y),
        "sens_position": lambda: Grad(get_all=True, sens_param=True)(net)(X, Y, SENS),
        "sens_keyword": lambda: Grad(get_all=True, sens_param=True)(net)(X, Y, sens=SENS),
        "all_list_sens": lambda: Grad(True, True, True)(net, both)(X, Y, SENS),
        "first_with_sens": lambda: Grad(sens_param=True)(net)(X, Y, SENS),
        "doc_x": lambda: Grad()(mm)(MX, MY),
        "doc_xy": lambda: Grad(get_all=True)(mm)(MX, MY),
        "doc_params": lambda: Grad(get_by_list=True)(mm, mm.trainable_params())(MX, MY),
        "doc_inputs_params": lambda: Grad(True, True)(mm, mm.trainable_params())(MX, MY),
        "doc_sens": lambda: Grad(get_all=True, sens_param=True)(mm)(MX, MY, MS),
        "one_input_all": lambda: Grad(get_all=True)(cube)(X),
        "no_input_default": Grad()(const),
        "no_input_all": Grad(get_all=True)(const),
        "no_input_list": Grad(get_by_list=True)(const, const.trainable_params()),
        "no_input_both": Grad(True, True)(const, const.trainable_params()),
        "unused_first": lambda: Grad()(second)(X, Y),
        "unused_all": lambda: Grad(get_all=True)(second)(X, Y),
        "int_input": lambda: Grad(get_all=True)(mul)(XI, X),
        "scalar_second": lambda: Grad(get_all=True)(mul)(X, 3.0),
        "scalar_first_default": lambda: Grad()(mul)(3.0, X),
        "fp16_fp32": lambda: Grad(get_all=True)(mul)(X.astype(ms.float16), Y),
        "broadcast": lambda: Grad(get_all=True)(mul)(Tensor(2.0, ms.float32), Y),
        "tuple_input": lambda: Grad(get_all=True)(lambda a, p: a * p[0] * p[1])(X, (W, Y)),
        "two_outputs": lambda: Grad(get_all=True)(two)(X, Y),
        "two_outputs_sens": lambda: Grad(get_all=True, sens_param=True)(two)(X, Y, (SENS, W)),
        "nested_outputs_sens": lambda: Grad(get_all=True, sens_param=True)(nested)(X, Y, (SENS, (SENS, SENS))),
        "keyword_arguments": lambda: Grad(get_all=True)(mul)(X, b=Y),
        "scalar_output": lambda: Grad(get_all=True)(lambda a: ops.reduce_sum(a * a))(X),
        "while_loop": lambda: Grad()(doubled)(X),
        "none_output": lambda: Grad()(lambda a: None)(X),
        "number_output": lambda: Grad()(lambda a: 3.0)(X),
        "second_order": lambda: Grad()(Grad()(cube))(X),
        "third_order": lambda: Grad()(Grad()(Grad()(cube)))(X),
        "second_order_net": lambda: Grad(get_all=True)(Grad()(net))(X, Y),
        "second_order_weights": lambda: Grad(get_by_list=True)(Grad()(net), z)(X, Y),
        "stop_gradient": lambda: Grad(get_all=True)(lambda a, b: ops.stop_gradient(a * b) * b)(X, Y),
        "bprop": lambda: Grad(get_all=True)(NetBprop())(X, Y),
        "bprop_two_outputs": lambda: Grad(get_all=True)(NetBpropTwo())(X, Y),
        "bprop_inside": lambda: Grad(get_all=True)(NetOuter())(X, Y),
        "insert_gradient_of": lambda: Grad(get_all=True)(lambda a, b: twice(a) * b)(X, Y),
        "dense_net": lambda: Grad(True, True)(dense, dense.trainable_params())(dx, dy),
        "grad_position_1": lambda: ms.grad(net, 1)(X, Y),
        "grad_position_1tuple": lambda: ms.grad(net, (0,))(X, Y),
        "grad_position_tuple": lambda: ms.grad(net, (1, 0))(X, Y),
        "grad_weights": lambda: ms.grad(net, None, list(both))(X, Y),
        "grad_both": lambda: ms.grad(net, 0, list(both))(X, Y),
        "grad_ids": lambda: ms.grad(net, (0, 1), list(both), return_ids=True)(X, Y),
        "grad_ids_single": lambda: ms.grad(net, 0, return_ids=True)(X, Y),
        "grad_ids_parameter": lambda: ms.grad(net, 0, net.z, return_ids=True)(X, Y),
        "grad_aux": lambda: ms.grad(aux, (0, 1), None, True)(X, Y),
        "value_and_grad": lambda: ms.value_and_grad(net, (0, 1), list(both))(X, Y),
        "value_and_grad_aux": lambda: ms.value_and_grad(aux, 0, None, True)(X, Y),
        "value_and_grad_two": lambda: ms.value_and_grad(two, 0)(X, Y),
        "edge_relu": lambda: Grad()(ops.relu)(EDGE),
        "edge_abs": lambda: Grad()(ops.abs)(EDGE),
        "edge_sqrt": lambda: Grad()(ops.sqrt)(EDGE),
        "edge_maximum": lambda: Grad(get_all=True)(ops.maximum)(EDGE, EDGE * 0),
        "edge_reduce_max": lambda: Grad()(lambda a: a.max())(t(1, 1, 0)),
        "edge_clamp": lambda: Grad()(lambda a: ops.clamp(a, 0.0, 1.0))(t(0, 0.5, 1, 2)),
        "edge_pow": lambda: Grad(get_all=True)(ops.pow)(t(0, 2), t(2, 3)),
        "edge_gather": lambda: Grad()(lambda a, i: ops.gather(a, i, 0))(X, Tensor([0, 0, 1], ms.int32)),
        "edge_cast": lambda: Grad()(through_int)(X),
        "vjp": lambda: called(ms.vjp(powers, X, Y), SENS),
        "vjp_one_input": lambda: called(ms.vjp(cube, X), SENS),
        "vjp_two_outputs": lambda: called(ms.vjp(two, X, Y), SENS, W),
        "jvp": lambda: ms.jvp(powers, (X, Y), (SENS, W)),
        "jvp_two_outputs": lambda: ms.jvp(two, (X, Y), (SENS, SENS)),
        "jacfwd": lambda: ms.jacfwd(squares, (0, 1))(X, Y, W),
        "jacrev": lambda: ms.jacrev(squares, (0, 1))(X, Y, W),
        "jacrev_two_outputs": lambda: ms.jacrev(two, (0, 1))(X, Y),
        "jacfwd_two_outputs": lambda: ms.jacfwd(two, (0, 1))(X, Y),
        "hessian": lambda: ms.jacfwd(ms.jacrev(lambda a: (a * a).sum()))(X),
        "dict_output": lambda: Grad()(named)(X),
    }  # fmt: skip


GOLDEN = np.load(GOLDENS, allow_pickle=False)
ENTRIES = {e["name"]: e["result"] for e in json.loads(str(GOLDEN["meta"]))["entries"]}
CALLS = golden_calls()


def check(result: Any, recorded: dict[str, Any], name: str) -> None:
    """A result has the recorded structure, dtypes, shapes and values."""
    if "tensor" in recorded:
        assert isinstance(result, Tensor), f"expected a Tensor, found {result!r}"
        assert (list(result.shape), str(result.dtype)) == (recorded["shape"], recorded["dtype"])
        wanted = GOLDEN[f"{name}/{recorded['tensor']}"]
        np.testing.assert_allclose(result.asnumpy(), wanted, rtol=2e-5, atol=2e-5)
    elif "tuple" in recorded or "list" in recorded:
        kind = tuple if "tuple" in recorded else list
        items = recorded.get("tuple", recorded.get("list"))
        assert type(result) is kind and len(result) == len(items), f"expected a {kind.__name__} of {len(items)}, found {result!r}"
        for item, part in zip(result, items, strict=True):
            check(item, part, name)
    else:
        assert result == recorded["value"]


@pytest.mark.parametrize("name", [n for n in ENTRIES if n not in ELSEWHERE])
def test_recorded(name: str) -> None:
    check(CALLS[name](), ENTRIES[name], name)


def test_nothing_recorded_is_left_out() -> None:
    assert set(ENTRIES) - ELSEWHERE == set(CALLS)


# The examples of the documentation page, with the numbers it prints.


class Around(nn.Cell):
    """A gradient function as a Cell of its own."""

    def __init__(self, net: nn.Cell, by_weights: bool = False, sens: Tensor | None = None, **flags: bool) -> None:
        super().__init__()
        self.net = net
        self.params = ParameterTuple(net.trainable_params()) if by_weights else None
        self.grad_op = Grad(get_by_list=by_weights, sens_param=sens is not None, **flags)
        self.sens = sens

    def construct(self, x: Tensor, y: Tensor) -> Any:
        gradient_function = self.grad_op(self.net, self.params)
        return gradient_function(x, y) if self.sens is None else gradient_function(x, y, self.sens)


def close(result: Any, *wanted: Any) -> None:
    found = result if isinstance(result, tuple) else (result,)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.asnumpy(), np.array(b, np.float32), rtol=1e-6)


def test_page_first_input() -> None:
    row = [1.4100001, 1.5999999, 6.6]
    close(Around(NetMatMul())(MX, MY), [row, row])


def test_page_all_inputs() -> None:
    x = Tensor([[0.8, 0.6, 0.2], [1.8, 1.3, 1.1]], ms.float32)
    y = Tensor([[0.1, 3.3, 1.1], [1.1, 0.2, 1.4], [1.1, 2.2, 0.3]], ms.float32)
    dx = [[4.5, 2.70000005, 3.60000014]] * 2
    dy = [[2.5999999] * 3, [1.89999998] * 3, [1.30000007] * 3]
    close(Around(NetMatMul(), get_all=True)(x, y), dx, dy)


PAGE_X = [[0.8, 0.6, 0.2], [1.8, 1.3, 1.1]]
PAGE_Y = [[0.11, 3.3, 1.1], [1.1, 0.2, 1.4], [1.1, 2.2, 0.3]]


def test_page_sensitivity() -> None:
    result = Around(NetMatMul(), get_all=True, sens=MS)(Tensor(PAGE_X, ms.float32), Tensor(PAGE_Y, ms.float32))
    dx = [[2.21099997, 0.50999999, 1.49000001], [5.5880003, 2.68000007, 4.07000017]]
    dy = [[1.51999998, 2.81999993, 2.1400001], [1.0999999, 2.04999995, 1.54999995], [0.900000036, 1.54999995, 1.25]]
    close(result, dx, dy)


def test_page_parameters() -> None:
    result = Around(NetMatMul(), by_weights=True)(Tensor(PAGE_X, ms.float32), Tensor(PAGE_Y, ms.float32))
    assert type(result) is tuple
    close(result, [21.5359993])


def test_page_inputs_and_parameters() -> None:
    x = Tensor([[0.1, 0.6, 1.2], [0.5, 1.3, 0.1]], ms.float32)
    y = Tensor([[0.12, 2.3, 1.1], [1.3, 0.2, 2.4], [0.1, 2.2, 0.3]], ms.float32)
    inputs, weights = Around(NetMatMul(), by_weights=True, get_all=True)(x, y)
    dx = [[3.51999998, 3.9000001, 2.5999999]] * 2
    dy = [[0.600000024] * 3, [1.89999998] * 3, [1.30000007] * 3]
    close(inputs, dx, dy)
    close(weights, [12.9020004])


def test_page_printed_form() -> None:
    result = Around(NetMatMul(), by_weights=True)(Tensor(PAGE_X, ms.float32), Tensor(PAGE_Y, ms.float32))
    assert repr(result).startswith("(Tensor(shape=[1], dtype=Float32, value= [ 2.15")


# Beyond the recorded results.


def test_same_tensor_in_two_positions_stays_apart() -> None:
    dx, dy = Grad(get_all=True)(lambda a, b: a * 2 + b * 3)(X, X)
    close(dx, [2, 2])
    close(dy, [3, 3])


def test_parameter_without_gradient_gets_zeros() -> None:
    net = NetXYZ()
    net.z.requires_grad = False
    close(Grad(get_by_list=True)(net, net.z)(X, Y), [0])
    net.z.requires_grad = True
    close(Grad(get_by_list=True)(net, net.z)(X, Y), [1 * 3 + 4 * 4])


def test_repeated_parameter_is_answered_repeatedly() -> None:
    net = NetXYZ()
    close(Grad(get_by_list=True)(net, [net.z, net.z])(X, Y), [19], [19])


def test_weights_left_out_are_the_trainable_ones() -> None:
    net = NetXYZ()
    close(Grad(get_by_list=True)(net)(X, Y), [19], [0])


def test_function_over_parameters() -> None:
    w = Parameter(t(2, 3), name="w")
    close(Grad(get_by_list=True)(lambda x: x * w * w, [w])(X), [4, 12])
    close(Grad(get_by_list=True)(lambda x: x * w)(X), [1, 2])


def test_only_uses_inside_count_for_a_parameter() -> None:
    w = Parameter(t(2, 3), name="w")

    def outer(x: Tensor) -> Any:
        return Grad(get_by_list=True)(lambda a: a * w, [w])(x * w)

    close(ms.jit(outer)(X), [2, 6])


def test_bool_and_empty_and_float64() -> None:
    close(Grad()(lambda m, x: ops.select(m, x, x * 2))(Tensor([True, False]), X).astype(ms.int32), [0, 0])
    assert Grad()(lambda m, x: ops.select(m, x, x * 2))(Tensor([True, False]), X).dtype is ms.bool_
    assert Grad()(cube)(Tensor(np.zeros((0, 3)))).shape == (0, 3)
    assert Grad()(cube)(Tensor(np.ones(2))).dtype is ms.float64


def test_bound_method_and_lambda_in_a_call() -> None:
    net = NetXYZ()
    close(Grad()(net.construct)(X, Y), [12, 32])
    close(Grad()(lambda x: Grad()(lambda a: a * a * x)(x))(X), [4, 8])


def test_inside_construct_and_jit() -> None:
    @ms.jit
    def step(x: Tensor, y: Tensor) -> Any:
        return ms.value_and_grad(mul, (0, 1))(x, y)

    value, (dx, dy) = step(X, Y)
    close(value, [3, 8])
    close(dx, [3, 4])
    close(dy, [1, 2])


def test_gradient_of_jit() -> None:
    close(Grad()(ms.jit(cube))(X), [3, 12])


def test_gradient_function_is_kept() -> None:
    net = NetXYZ()
    first, again = Grad()(net), Grad()(net)
    assert first is again and Grad(get_all=True)(net) is not first
    for k in range(3):
        Grad(get_all=True)(net)(t(k, 1), Y)
    expected = 1 if ms.get_context("mode") == ms.GRAPH_MODE else 0
    assert Grad(get_all=True)(net).compile_cache.compiles == expected


def test_mutable_container_counts() -> None:
    (dt,) = Grad(get_all=True)(lambda p: p[0] * p[1])(ms.mutable((X, Y)))
    close(dt, [3, 4], [1, 2])


def test_parameter_updates_in_the_forward_pass_happen() -> None:
    count = Parameter(Tensor(0.0), name="count", requires_grad=False)

    def f(x: Tensor) -> Tensor:
        count.set_data(count + 1)
        return x * count

    close(Grad()(f)(X), [1, 1])
    close(Grad()(f)(X), [2, 2])
    assert count.asnumpy() == 2


def test_failing_call_leaves_parameters() -> None:
    count = Parameter(Tensor(0.0), name="count", requires_grad=False)

    def f(x: Tensor) -> Tensor:
        count.set_data(count + 1)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Grad()(f)(X)
    assert count.asnumpy() == 0


def test_python_branches_on_values() -> None:
    def f(x: Tensor) -> Tensor:
        return x * 3 if x.sum() > 0 else x * 5

    gradient = Grad()(f)
    close(gradient(X), [3, 3])
    close(gradient(-X), [5, 5])


def test_second_order_through_bprop() -> None:
    class Square(nn.Cell):
        def construct(self, x: Tensor) -> Tensor:
            return x * x

        def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> Tensor:
            return dout * x * 10

    net = Square()
    close(Grad()(net)(X), [10, 20])
    close(Grad()(Grad()(net))(X), [10, 10])


def test_parameters_inside_bprop_get_zeros() -> None:
    class Scaled(NetBprop):
        def __init__(self) -> None:
            super().__init__()
            self.w = Parameter(t(1, 1), name="w")

        def construct(self, x: Tensor, y: Tensor) -> Tensor:
            return x * y * self.w

    net = Scaled()
    close(Grad(get_by_list=True)(net, net.w)(X, Y), [0, 0])


def test_get_grad() -> None:
    net = NetXYZ()
    pairs = ms.grad(net, (0, 1), [net.z, net.unused], return_ids=True)(X, Y)
    close(ms.get_grad(pairs, 1), [2, 8])
    close(ms.get_grad(pairs, net.z), [19])
    close(ms.get_grad(ms.grad(net, 0, return_ids=True)(X, Y), 0), [12, 32])


# Errors: the type and the first line of the text.

NET = NetXYZ()
ERRORS: list[tuple[str, Callable[[], Any], type[BaseException], str]] = [
    ("get_all", lambda: Grad(get_all=1), TypeError, "GradOperation: get_all must be bool, found 1 of type int"),
    ("get_all none", lambda: Grad(get_all=None), TypeError, "GradOperation: get_all must be bool, found None of type NoneType"),
    ("get_by_list", lambda: Grad(get_by_list=1), TypeError, "GradOperation: get_by_list must be bool, found 1 of type int"),
    ("sens_param", lambda: Grad(sens_param="True"), TypeError,
     "GradOperation: sens_param must be bool, found 'True' of type str"),
    ("fn", lambda: Grad()(3)(X), TypeError, "GradOperation: fn must be a Cell or a function, found 3 of type int"),
    ("weights", lambda: Grad(get_by_list=True)(NET, 3), TypeError,
     "GradOperation: weights must be a Parameter, or a ParameterTuple, tuple or list of Parameters, found 3 of type int"),
    ("weights list", lambda: Grad(get_by_list=True)(NET, [1]), TypeError,
     "GradOperation: weights[0] must be a Parameter, found 1 of type int"),
    ("sens missing", lambda: Grad(get_all=True, sens_param=True)(NET)(X, Y), TypeError,
     "NetXYZ: missing a required argument: 'y'"),
    ("sens missing alone", Grad(sens_param=True)(NetConst()), TypeError,
     "gradient of NetConst: sens is missing; sens_param=True takes it as the last positional argument or as sens="),
    ("sens shape 1", lambda: Grad(get_all=True, sens_param=True)(NET)(X, Y, t(1)), ValueError,
     "sens: expected shape (2,), that of the output, found (1,)"),
    ("sens shape 3", lambda: Grad(get_all=True, sens_param=True)(NET)(X, Y, t(1, 2, 3)), ValueError,
     "sens: expected shape (2,), that of the output, found (3,)"),
    ("sens dtype", lambda: Grad(get_all=True, sens_param=True)(NET)(X, Y, XI), TypeError,
     "sens: expected dtype Float32, that of the output, found Int32"),
    ("sens keyword", lambda: Grad(get_all=True, sens_param=True)(NET)(X, Y, grad_out=SENS), TypeError,
     "NetXYZ: missing a required argument: 'y'"),
    ("too many", lambda: Grad(get_all=True)(NET)(X, Y, SENS), TypeError, "NetXYZ: too many positional arguments"),
    ("one sens for two", lambda: Grad(get_all=True, sens_param=True)(two)(X, Y, SENS), TypeError,
     "sens: expected a tuple of 2, one for each output, found a Tensor"),
    ("sens number", lambda: Grad(sens_param=True)(cube)(X, 2), TypeError,
     "sens: expected a Tensor, f32[2] as the output, found 2 of type int"),
    ("numpy", lambda: Grad()(cube)(np.ones(2, np.float32)), TypeError, None),
    ("nothing", lambda: ms.grad(NET, None, None)(X, Y), ValueError,
     "grad: grad_position and weights are both None; nothing to differentiate by"),
    ("repeated", lambda: ms.grad(NET, (0, 0))(X, Y), ValueError, "grad: grad_position holds a position twice: (0, 0)"),
    ("negative", lambda: ms.grad(NET, -1)(X, Y), ValueError, "grad: grad_position must be >= 0, found -1"),
    ("negative in tuple", lambda: ms.grad(NET, (0, -1))(X, Y), ValueError, "grad: grad_position must be >= 0, found (0, -1)"),
    ("beyond", lambda: ms.grad(NET, 2)(X, Y), IndexError, "grad: grad_position 2 is beyond the 2 arguments of NetXYZ"),
    ("list", lambda: ms.grad(NET, [0])(X, Y), TypeError,
     "grad: grad_position must be int, a tuple of ints, or None; found [0] of type list"),
    ("float", lambda: ms.grad(NET, 1.0)(X, Y), TypeError,
     "grad: grad_position must be int, a tuple of ints, or None; found 1.0 of type float"),
    ("str in tuple", lambda: ms.grad(NET, ("a",))(X, Y), TypeError,
     "grad: grad_position must be int, a tuple of ints, or None; found ('a',) of type tuple"),
    ("empty", lambda: ms.grad(NET, ())(X, Y), RuntimeError, "grad: grad_position is an empty tuple; nothing to differentiate by"),
    ("grad fn", lambda: ms.value_and_grad(3)(X), TypeError,
     "value_and_grad: fn must be a Cell or a function, found 3 of type int"),
    ("aux alone", lambda: ms.grad(mul, 0, None, True)(X, Y), ValueError,
     "has_aux: the function must return a tuple of 2 or more, the first of which is differentiated; found Tensor"),
    ("has_aux", lambda: ms.grad(aux, 0, None, 1)(X, Y), TypeError, "grad: has_aux must be bool, found 1 of type int"),
    ("return_ids", lambda: ms.grad(aux, 0, None, False, 1)(X, Y), TypeError,
     "grad: return_ids must be bool, found 1 of type int"),
    ("get_grad missing", lambda: ms.get_grad(ms.grad(NET, (0, 1), return_ids=True)(X, Y), 7), RuntimeError,
     "get_grad: no gradient of 7 in the result; was it made with return_ids=True?"),
    ("get_grad kind", lambda: ms.get_grad(ms.grad(NET, (0, 1), return_ids=True)(X, Y), "z"), TypeError,
     "get_grad: identifier must be int or Parameter, found 'z' of type str"),
    ("insert", lambda: ops.InsertGradientOf(3), TypeError, "InsertGradientOf: f must be a function, found 3 of type int"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors(call: Callable[[], Any], kind: type[BaseException], text: str | None) -> None:
    with pytest.raises(kind) as caught:
        call()
    first = str(caught.value).splitlines()[0]
    if text is None:
        assert first.endswith("argument a must be a Tensor, found a numpy array of shape (2,) and dtype float32")
    else:
        assert first == text


def test_bprop_errors() -> None:
    class Few(NetBprop):
        def bprop(self, x: Tensor, y: Tensor, out: Tensor, dout: Tensor) -> Any:
            return (dout,)

    class Wrong(NetBprop):
        def bprop(self, x: Tensor, y: Tensor, out: Tensor, dout: Tensor) -> Any:
            return dout[0], dout

    class Short(NetBprop):
        def bprop(self, x: Tensor) -> Any:  # type: ignore[override]
            return x

    for net, kind, text in (
        (Few(), RuntimeError, "Few.bprop: expected 2 gradients, found 1"),
        (Wrong(), ValueError, r"Wrong.bprop: gradient 0 has shape \(\), expected \(2,\)"),
        (Short(), TypeError, "takes 2 positional arguments but 5 were given"),
    ):
        with pytest.raises(kind, match=text):
            Grad(get_all=True)(net)(X, Y)
