"""Updates of the rows of a table, as operators: `ops.FusedSparseAdam` and its kin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphopt.common.checks import check_number, check_positive, found
from graphopt.common.parameter import Parameter
from graphopt.common.tensor import Tensor, apply
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.opdefs.elementwise import abs_, gt, maximum, select, sign
from graphopt.opdefs.index import gather
from graphopt.opdefs.math import pow_, sqrt
from graphopt.opdefs.rows import distinct_rows, row_tensor, scatter_set
from graphopt.opdefs.scaffold import zero_of
from graphopt.opdefs.shape import reshape
from graphopt.ops.creation import zeros
from graphopt.ops.promote import in_float32, widened
from graphopt.ops.state import assign

Rule = Callable[..., tuple[Node, ...]]


def on_rows(rule: Rule, tables: Sequence[Node], indices: Node, values: Node, others: Sequence[Any]) -> tuple[Node, ...]:
    """The tables after an elementwise rule (rows of each, gradient, *others) -> rows of each, where the gradient is;
    rows of equal indices are added up first.
    """
    at, summed = distinct_rows(indices, widened(values), tables[0].shape[0])
    made = in_float32(rule)(*(gather(t, at, axis=0) for t in tables), summed, *others)
    return tuple(scatter_set(t, at, m) for t, m in zip(tables, made, strict=True))


def _everywhere(rule: Rule, tables: Sequence[Node], indices: Node, values: Node, others: Sequence[Any]) -> tuple[Node, ...]:
    """The same with all rows of the tables, where the gradient is mostly zero."""
    dense = row_tensor(indices, widened(values), shape=tables[0].shape)
    made: tuple[Node, ...] = in_float32(rule)(*tables, dense, *others)
    return made


def _adam(nesterov: bool) -> Rule:
    def rule(w: Node, m: Node, v: Node, g: Node, rate: Node, beta1: Node, beta2: Node, eps: Node) -> tuple[Node, ...]:
        m = m * beta1 + g * (1.0 - beta1)
        v = v * beta2 + g * g * (1.0 - beta2)
        step = m * beta1 + g * (1.0 - beta1) if nesterov else m
        return w - step * rate / (sqrt(v) + eps), m, v

    return rule


def _ftrl(lr: float, l1: float, l2: float, power: float) -> Rule:
    def rule(w: Node, n: Node, u: Node, g: Node) -> tuple[Node, ...]:
        grown = n + g * g
        after, before = (sqrt(x) if power == -0.5 else pow_(x, -power) for x in (grown, n))
        u = u + g - (after - before) / lr * w
        return select(gt(abs_(u), l1), (sign(u) * l1 - u) / (after / lr + 2.0 * l2), zero_of(u)), grown, u

    return rule


def _adagrad(lr: float, epsilon: float, update_slots: bool) -> Rule:
    def rule(w: Node, n: Node, g: Node) -> tuple[Node, ...]:
        n = n + g * g if update_slots else n
        return w - g * lr / (sqrt(n) + epsilon), n

    return rule


def _proximal(w: Node, n: Node, g: Node, lr: Node, l1: Node, l2: Node) -> tuple[Node, ...]:
    n = n + g * g
    rate = lr / sqrt(n)
    moved = w - rate * g
    return sign(moved) * maximum(abs_(moved) - rate * l1, 0.0) / (rate * l2 + 1.0), n


def _run(
    owner: str, rule: Rule, state: Sequence[Any], grad: Any, indices: Any, numbers: Sequence[Any] = (), whole: bool = False
) -> tuple[Any, ...]:
    """Assign what the rule makes of the state; the new values.

    Errors: TypeError when a table is no Parameter, the gradient or the indices are no Tensors or of a wrong dtype;
            ValueError for shapes that do not fit. An index outside the table changes nothing.
    """
    for p in state:
        if not isinstance(p, Parameter):
            raise TypeError(f"{owner}: expected Parameters to update, found {found(p)}")
        if p.shape != state[0].shape or not p.shape:
            raise ShapeError(f"{owner}: expected tables of one shape with axes, found {p.shape} beside {state[0].shape}")
    if not isinstance(grad, Tensor) or not grad.dtype.is_float:
        raise DTypeError(f"{owner}: grad must be a Tensor of floats, found {found(grad)}")
    if not isinstance(indices, Tensor) or not indices.dtype.is_integer:
        raise DTypeError(f"{owner}: indices must be a Tensor of integers, found {found(indices)}")
    if indices.ndim != 1 or grad.shape != (*indices.shape, *state[0].shape[1:]):
        expected = f"(n,) and (n, *{state[0].shape[1:]})"
        raise ShapeError(f"{owner}: indices and grad must have shapes {expected}, found {indices.shape} and {grad.shape}")
    compute = _everywhere if whole else on_rows

    def run(at: Node, g: Node, *nodes: Node) -> tuple[Node, ...]:
        tables, rest = nodes[: len(state)], [reshape(n, shape=()) for n in nodes[len(state) :]]
        return compute(rule, tables, at, g, rest)

    scalars = [n if isinstance(n, Tensor) else Tensor(float(n)) for n in numbers]
    made = apply(run, indices, grad, *state, *scalars)
    return tuple(assign(p, value) for p, value in zip(state, made, strict=True))


def _useless(count: int) -> tuple[Any, ...]:
    """What the fused operators return: the tables themselves have changed."""
    return tuple(zeros((1,)) for _ in range(count))


def fused_sparse_adam(
    self: Any, var: Any, m: Any, v: Any, beta1_power: Any, beta2_power: Any, lr: Any, beta1: Any, beta2: Any, epsilon: Any,
    gradient: Any, indices: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Adam where all rows decay; rows of equal indices are added up first."""
    rule, rate = _adam(self.use_nesterov), _rate(lr, beta1_power, beta2_power)
    _run(self.name, rule, (var, m, v), gradient, indices, (rate, beta1, beta2, epsilon), whole=True)
    return _useless(3)


def fused_sparse_lazy_adam(
    self: Any, var: Any, m: Any, v: Any, beta1_power: Any, beta2_power: Any, lr: Any, beta1: Any, beta2: Any, epsilon: Any,
    gradient: Any, indices: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Adam on the rows at the indices only; rows of equal indices are added up first."""
    rule, rate = _adam(self.use_nesterov), _rate(lr, beta1_power, beta2_power)
    _run(self.name, rule, (var, m, v), gradient, indices, (rate, beta1, beta2, epsilon))
    return _useless(3)


def _rate(lr: Any, power1: Any, power2: Any) -> Any:
    return lr * (1.0 - power2) ** 0.5 / (1.0 - power1)


def fused_sparse_ftrl(self: Any, var: Any, accum: Any, linear: Any, grad: Any, indices: Any) -> tuple[Any, ...]:
    """Follow the regularized leader on the rows at the indices; rows of equal indices are added up first."""
    sparse_apply_ftrl(self, var, accum, linear, grad, indices)
    return _useless(3)


def sparse_apply_ftrl(self: Any, var: Any, accum: Any, linear: Any, grad: Any, indices: Any) -> tuple[Any, ...]:
    """Follow the regularized leader on the rows at the indices; the updated tables."""
    check_positive(self.name, "lr", self.lr, ints=False)
    for name in ("l1", "l2"):
        check_number(self.name, name, getattr(self, name), low=0, ints=False)
    if check_number(self.name, "lr_power", self.lr_power, ints=False) > 0:
        raise ValueError(f"{self.name}: lr_power must be <= 0, found {self.lr_power}")
    rule = _ftrl(self.lr, self.l1, self.l2, self.lr_power)
    return _run(self.name, rule, (var, accum, linear), grad, indices)


def fused_sparse_proximal_adagrad(
    self: Any, var: Any, accum: Any, lr: Any, l1: Any, l2: Any, grad: Any, indices: Any
) -> tuple[Any, ...]:
    """Proximal Adagrad on the rows at the indices; rows of equal indices are added up first."""
    sparse_apply_proximal_adagrad(self, var, accum, lr, l1, l2, grad, indices)
    return _useless(2)


def sparse_apply_proximal_adagrad(
    self: Any, var: Any, accum: Any, lr: Any, l1: Any, l2: Any, grad: Any, indices: Any
) -> tuple[Any, ...]:
    """Proximal Adagrad on the rows at the indices; the updated tables."""
    return _run(self.name, _proximal, (var, accum), grad, indices, (lr, l1, l2))


def sparse_apply_adagrad(self: Any, var: Any, accum: Any, grad: Any, indices: Any) -> tuple[Any, ...]:
    """accum += grad²; var -= lr·grad/sqrt(accum) on the rows at the indices; the updated tables."""
    check_number(self.name, "lr", self.lr, ints=False)
    return _run(self.name, _adagrad(self.lr, 0.0, self.update_slots), (var, accum), grad, indices)


def sparse_apply_adagrad_v2(self: Any, var: Any, accum: Any, grad: Any, indices: Any) -> tuple[Any, ...]:
    """accum += grad²; var -= lr·grad/(sqrt(accum) + epsilon) on the rows at the indices; the updated tables."""
    for name in ("lr", "epsilon"):
        check_number(self.name, name, getattr(self, name), ints=False)
    return _run(self.name, _adagrad(self.lr, self.epsilon, self.update_slots), (var, accum), grad, indices)


ROW_UPDATES: dict[str, tuple[str, Callable[..., Any]]] = {
    "FusedSparseAdam": ("use_locking=False, use_nesterov=False", fused_sparse_adam),
    "FusedSparseLazyAdam": ("use_locking=False, use_nesterov=False", fused_sparse_lazy_adam),
    "FusedSparseFtrl": ("lr, l1, l2, lr_power, use_locking=False", fused_sparse_ftrl),
    "FusedSparseProximalAdagrad": ("use_locking=False", fused_sparse_proximal_adagrad),
    "SparseApplyFtrl": ("lr, l1, l2, lr_power, use_locking=False", sparse_apply_ftrl),
    "SparseApplyAdagrad": ("lr, update_slots=True, use_locking=False", sparse_apply_adagrad),
    "SparseApplyAdagradV2": ("lr, epsilon, update_slots=True, use_locking=False", sparse_apply_adagrad_v2),
    "SparseApplyProximalAdagrad": ("use_locking=False", sparse_apply_proximal_adagrad),
}
