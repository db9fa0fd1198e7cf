"""Cell: attributes, names, trees, flags, hooks, printing; containers; Parameter and ParameterTuple."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import Parameter, ParameterTuple, Tensor, nn, ops

X = Tensor([1.0, -2.0])


class Leaf(nn.Cell):
    """A scale under another name than its attribute, and a nameless one."""

    def __init__(self) -> None:
        super().__init__()
        self.w = Parameter(Tensor([1.0]), name="zz")
        self.v = Parameter(Tensor([1.0]), requires_grad=False)

    def construct(self, x: Tensor) -> Tensor:
        return x * self.w

    def extend_repr(self) -> str:
        return "scale=1"


class Relu(nn.Cell):
    def construct(self, x: Tensor) -> Tensor:
        return ops.relu(x)


class Tree(nn.Cell):
    def __init__(self, leaf: Leaf | None = None) -> None:
        super().__init__()
        self.b = leaf or Leaf()
        self.q = Parameter(Tensor([2.0]), name="qq")
        self.seq = nn.SequentialCell(Relu(), Relu())
        self.l = nn.CellList([Relu(), Leaf()])

    def construct(self, x: Tensor) -> Tensor:
        return self.b(x)


def test_names_follow_the_path() -> None:
    tree = Tree()
    names = ["qq", "b.w", "b.v", "l.1.w", "l.1.v"]
    assert [p.name for p in tree.get_parameters()] == names
    assert list(tree.parameters_dict()) == names
    assert [n for n, _ in tree.parameters_and_names()] == ["q", *names[1:]]
    assert [p.name for p in tree.trainable_params()] == ["qq", "b.w", "l.1.w"]
    assert [p.name for p in tree.untrainable_params()] == ["b.v", "l.1.v"]
    assert [n for n, _ in tree.cells_and_names()] == ["", "b", "seq", "seq.0", "seq.1", "l", "l.0", "l.1"]
    assert list(tree.name_cells()) == ["b", "seq", "l"]
    assert [p.name for p in tree.get_parameters(expand=False)] == ["qq"]


def test_shared_children_are_named_once() -> None:
    leaf = Leaf()
    first, second = Tree(leaf), Tree(leaf)
    assert leaf.w.name == "b.w" and first.b is second.b
    twice = nn.SequentialCell(leaf, leaf)
    assert len(list(twice.get_parameters())) == 2 and len(list(twice.cells_and_names())) == 2


def test_repr() -> None:
    assert repr(Tree()) == (
        "Tree(\n  (b): Leaf(scale=1)\n  (seq): SequentialCell(\n    (0): Relu()\n    (1): Relu()\n  )\n"
        "  (l): CellList(\n    (0): Relu()\n    (1): Leaf(scale=1)\n  )\n)"
    )
    assert repr(nn.CellList()) == "CellList()"


def test_attributes() -> None:
    tree = Tree()
    tree.note = 3
    assert tree.note == 3 and tree.cls_name == "Tree" and "b" in dir(tree)
    tree.b = None
    assert tree.b is None and [p.name for p in tree.get_parameters()] == ["qq", "l.1.w", "l.1.v"]
    tree.q = Tensor([5.0])
    assert isinstance(tree.q, Parameter) and tree.q.asnumpy() == 5
    del tree.q
    assert not hasattr(tree, "q")


class NoInit(nn.Cell):
    def __init__(self) -> None:
        self.w = Parameter(Tensor(1.0))


ERRORS: list[tuple[Callable[[], Any], type[BaseException], str]] = [
    (lambda: Tree().nope, AttributeError, "The 'Tree' object has no attribute 'nope'."),
    (NoInit, AttributeError, "NoInit: call super().__init__() before assigning 'w'"),
    (lambda: setattr(Tree(), "b", 3), TypeError, "Tree: 'b' is a child Cell, expected a Cell or None, found 3 of type int"),
    (lambda: setattr(Tree(), "q", "x"), TypeError,
     "Tree: 'q' is a Parameter, expected a Parameter, Tensor or None, found 'x' of type str"),
    (lambda: Tree().insert_param_to_cell("x", 3), TypeError,
     "insert_param_to_cell: param must be Parameter, found 3 of type int"),
    (lambda: Tree().insert_param_to_cell("a.b", Parameter(1.0)), KeyError,
     "insert_param_to_cell: param_name must be a name without '.', found 'a.b'"),
    (lambda: Tree().insert_child_to_cell(1, Leaf()), TypeError,
     "insert_child_to_cell: child_name must be str, found 1"),
    (lambda: Tree().insert_child_to_cell("x", 1), TypeError,
     "insert_child_to_cell: child_cell must be Cell, found 1 of type int"),
    (lambda: nn.SequentialCell([Relu(), 3]), TypeError, "SequentialCell: each element must be a Cell, found 3 of type int"),
    (lambda: nn.CellList([1]), TypeError, "CellList: each element must be a Cell, found 1 of type int"),
    (lambda: nn.CellList([Relu()])[1], IndexError, "CellList: index 1 is out of range for 1 Cells"),
    (lambda: nn.CellList([Relu()])(X), NotImplementedError, "CellList: it cannot be called; call its Cells"),
    (lambda: nn.Cell()(X), NotImplementedError, "Cell: define construct(self, ...)"),
    (lambda: Tree().to_float(ms.float64), ValueError, "to_float: dst_type must be float16, bfloat16 or float32, found Float64"),
    (lambda: Tree().update_parameters_name(3), TypeError, "update_parameters_name: prefix must be str, found 3 of type int"),
    (lambda: Tree().register_forward_hook(3), TypeError,
     "register_forward_hook: hook_fn must be a function, found 3 of type int"),
    (lambda: Parameter(Tensor(1.0), name=3), TypeError, "Parameter: name must be str or None, found 3 of type int"),
    (lambda: Parameter(Tensor(1.0), name=" "), ValueError, "Parameter: name must not be empty, found ' '"),
    (lambda: Parameter(Tensor(1.0), requires_grad=1), TypeError, "Parameter: requires_grad must be bool, found 1 of type int"),
    (lambda: Parameter(Tensor([1.0]), name="p").set_data(Tensor([1.0, 2.0])), ValueError,
     "Parameter p: expected a value of shape (1,), found (2,)"),
    (lambda: Parameter(Tensor([1]), name="p").set_data(Tensor([1.5])), TypeError,
     "Parameter p: a Int64 Parameter cannot take Float32 data; cast it"),
    (lambda: Parameter(Tensor([1.0]), name="p").set_data("x"), TypeError,
     "Parameter p: data must be a Tensor or a number, found 'x' of type str"),
    (lambda: ParameterTuple([1]), TypeError, "ParameterTuple: element 0 must be a Parameter, found 1 of type int"),
    (lambda: ParameterTuple([Parameter(1.0, name="a"), Parameter(1.0, name="a")]), ValueError,
     "ParameterTuple: two different Parameters are named 'a'; rename one"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), ERRORS, ids=[e[2][:40] for e in ERRORS])
def test_errors(call: Callable[[], Any], kind: type[BaseException], text: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    first, *rest = str(caught.value).split("\n")
    assert first == text and all(line.startswith("  called at test_cell.py:") for line in rest)


def test_train_and_grad_flags() -> None:
    tree = Tree()
    assert tree.training is False
    assert tree.set_train() is tree and tree.seq[0].training is True
    tree.set_train(False)
    assert tree.seq[0].training is False
    assert tree.set_grad().requires_grad is True


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
def test_hooks(mode: int) -> None:
    ms.set_context(mode=mode)
    try:
        leaf = Leaf()
        seen: list[Any] = []
        leaf(X)
        before = leaf.register_forward_pre_hook(lambda cell, inputs: (inputs[0] * 2,))
        after = leaf.register_forward_hook(lambda cell, inputs, output: seen.append(len(inputs)) or output + 1)
        np.testing.assert_array_equal(leaf(X).asnumpy(), [3, -3])
        before.remove()
        np.testing.assert_array_equal(leaf(X).asnumpy(), [2, -1])
        after.remove()
        after.remove()
        np.testing.assert_array_equal(leaf(X).asnumpy(), X.asnumpy())
        assert seen == [1, 1]
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
def test_to_float(mode: int) -> None:
    ms.set_context(mode=mode)
    try:
        leaf = Leaf().to_float(ms.float16)
        assert leaf(X).dtype is ms.float16 and leaf.w.dtype is ms.float32
        (dw,) = ops.GradOperation(get_by_list=True)(leaf, [leaf.w])(X)
        assert dw.dtype is ms.float32 and dw.asnumpy() == -1
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def test_apply_visits_children_first() -> None:
    names: list[str] = []
    Tree().apply(lambda cell: names.append(cell.cls_name))
    assert names == ["Leaf", "Relu", "Relu", "SequentialCell", "Relu", "Leaf", "CellList", "Tree"]


def test_containers() -> None:
    cells = nn.CellList([Relu(), Leaf()])
    cells.append(Leaf())
    cells.insert(0, Leaf())
    cells.extend([Relu()])
    assert [c.cls_name for c in cells] == ["Leaf", "Relu", "Leaf", "Leaf", "Relu"] and len(cells[1:3]) == 2
    assert [p.name for p in cells.trainable_params()] == ["0.w", "2.w", "3.w"]
    del cells[0]
    cells[-1] = Leaf()
    assert [p.name for p in cells.trainable_params()] == ["1.w", "2.w", "3.w"]
    named = nn.SequentialCell(OrderedDict(first=Leaf(), second=Relu()))
    assert [n for n, _ in named.cells_and_names()] == ["", "first", "second"]
    np.testing.assert_array_equal(named(X).asnumpy(), [1, 0])
    assert nn.SequentialCell([Relu(), Leaf()])[0].cls_name == "Relu"


def test_compile_without_running() -> None:
    class Count(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.n = Parameter(Tensor(0), name="n", requires_grad=False)

        def construct(self, x: Tensor) -> Tensor:
            self.n.set_data(self.n + 1)
            return x

    net = Count()
    net.compile(X)
    assert net.n.asnumpy() == 0 and net.compile_cache.compiles == 1
    net.compile_and_run(X)
    assert net.n.asnumpy() == 1 and net.compile_cache.compiles == 1


def test_parameter_storage() -> None:
    p = Parameter(Tensor(np.arange(3, dtype=np.float32)), name="p")
    address = p._data().ctypes.data
    assert address % 64 == 0
    given = p.asnumpy()
    given[0] = 9
    assert p[0] == 0
    p.set_data(Tensor([1, 2, 3]))
    assert p.dtype is ms.float32 and p._data().ctypes.data == address
    p.set_data(Tensor([[1.0]]), slice_shape=True)
    assert p.shape == (1, 1)
    p.set_dtype(ms.float16)
    assert p.dtype is ms.float16
    assert p.data is p and p.init_data() is p


def test_parameter_clone_and_copy() -> None:
    p = Parameter(Tensor([1.0, 2.0]), name="p", requires_grad=False)
    same, zeros, deep = p.clone(), p.clone(init="zeros"), copy.deepcopy(p)
    p.set_data(Tensor([5.0, 5.0]))
    assert same.tolist() == [1, 2] and zeros.tolist() == [0, 0] and deep.tolist() == [1, 2]
    assert (same.name, same.requires_grad, isinstance(deep, Parameter)) == ("p", False, True)
    (made,) = ParameterTuple([p]).clone("moment", init="zeros")
    assert made.name == "moment.p" and made.tolist() == [0, 0]


def test_parameter_tuple_as_attribute() -> None:
    class Holder(nn.Cell):
        def __init__(self, params: list[Parameter]) -> None:
            super().__init__(auto_prefix=False)
            self.parameters = ParameterTuple(params)

    tree = Tree()
    holder = Holder(tree.trainable_params())
    assert [p.name for p in holder.get_parameters()] == ["qq", "b.w", "l.1.w"]


def test_deepcopy_of_a_cell() -> None:
    tree = Tree()
    tree.compile(X)
    ops.GradOperation()(tree)(X)
    other = copy.deepcopy(tree)
    assert other.compile_cache.compiles == 0
    tree.b.w.set_data(Tensor([7.0]))
    assert other.b.w.asnumpy() == 1 and [p.name for p in other.get_parameters()] == [p.name for p in tree.get_parameters()]


def test_duplicate_names_are_found() -> None:
    class Twins(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.a = Parameter(Tensor(1.0), name="s")
            self.b = Parameter(Tensor(1.0), name="s")

    with pytest.raises(ValueError, match="Twins: two different Parameters are named 's'; rename one"):
        Twins().check_names()
