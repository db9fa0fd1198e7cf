"""Recurrent layers, unrolled over the time that the input's shape says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from graphopt import ops
from graphopt.common.checks import check_bool, check_int, check_type
from graphopt.common.dtype import check_dtype, float32
from graphopt.common.initializer import Uniform
from graphopt.common.parameter import Parameter
from graphopt.common.signature import operand
from graphopt.common.tensor import Tensor
from graphopt.errors import ShapeError, layout
from graphopt.ir.types import DType
from graphopt.nn.cell import Cell
from graphopt.nn.layer.basic import Dropout, make_parameter
from graphopt.where import here

State = tuple[Any, Any]


class LSTM(Cell):
    """A stack of long short-term memories: gates i, f, g, o of x and h; c = f c + i g, h = o tanh(c).

    Parameters, per layer k and, where bidirectional, again with `_reverse`: weight_ih_l<k> (4 hidden_size, inputs of the
    layer), weight_hh_l<k> (4 hidden_size, hidden_size), bias_ih_l<k> and bias_hh_l<k> (4 hidden_size,) unless has_bias is
    False; all uniform on ±1/sqrt(hidden_size).
    dropout: of every layer's output but the last one's, in training.
    seq_length: how many steps of each sequence count; a state keeps what it had then, and the output is 0 from there on.

    Shapes: x (time, n, input_size), or (n, time, input_size) if batch_first; hx a pair of (layers * directions, n,
            hidden_size), zeros unless given; seq_length (n,) -> the output of every step, shaped as x with directions *
            hidden_size at the end, and the pair of last states.
    Errors: TypeError or ValueError for arguments that do not fit; ValueError for inputs of other shapes.
    Cost:   the graph grows with the time; the products with x of all steps are one.

    >>> import graphopt as ms
    >>> output, (h, c) = ms.nn.LSTM(10, 16, 2, batch_first=True)(ms.ops.ones((3, 5, 10)))
    >>> output.shape, h.shape, c.shape
    ((3, 5, 16), (2, 3, 16), (2, 3, 16))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        has_bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DType = float32,
    ) -> None:
        super().__init__()
        self.input_size = check_int("LSTM", "input_size", input_size, low=1)
        self.hidden_size = check_int("LSTM", "hidden_size", hidden_size, low=1)
        self.num_layers = check_int("LSTM", "num_layers", num_layers, low=1)
        self.has_bias = check_bool("LSTM", "has_bias", has_bias)
        self.batch_first = check_bool("LSTM", "batch_first", batch_first)
        if not 0 <= check_type("LSTM", "dropout", dropout, float) < 1:
            raise ValueError(f"LSTM: dropout must be in [0, 1), found {dropout}")
        self.bidirectional = check_bool("LSTM", "bidirectional", bidirectional)
        self.dropout_op = Dropout(p=dropout)
        self._make_parameters(check_dtype("LSTM", dtype))

    def _make_parameters(self, dtype: DType) -> None:
        gates, directions = 4 * self.hidden_size, 1 + self.bidirectional
        start = Uniform(1 / math.sqrt(self.hidden_size))
        names = [f"l{k}{end}" for k in range(self.num_layers) for end in ("", "_reverse")[:directions]]
        shapes: dict[str, Any] = {
            "weight_ih": lambda k: (gates, self.input_size if k < directions else directions * self.hidden_size),
            "weight_hh": lambda k: (gates, self.hidden_size),
        }
        if self.has_bias:
            shapes |= {"bias_ih": lambda k: (gates,), "bias_hh": lambda k: (gates,)}
        for kind, shape in shapes.items():
            for k, name in enumerate(names):
                setattr(self, f"{kind}_{name}", make_parameter("LSTM", f"{kind}_{name}", start, shape(k), dtype))
        self._names = tuple(names)

    def construct(self, x: Tensor, hx: State | None = None, seq_length: Tensor | None = None) -> Any:
        self._check(x, hx)
        if self.batch_first:
            x = ops.transpose(x, (1, 0, 2))
        directions = 1 + self.bidirectional
        last: list[State] = []
        for k in range(self.num_layers):
            sides = []
            for name in self._names[k * directions : (k + 1) * directions]:
                place = len(last)
                state = None if hx is None else (hx[0][place], hx[1][place])
                outputs, state = self._direction(name, x, state, seq_length)
                sides.append(ops.stack(outputs))
                last.append(state)
            x = sides[0] if len(sides) == 1 else ops.concat(sides, -1)
            if k < self.num_layers - 1:
                x = self.dropout_op(x)
        if self.batch_first:
            x = ops.transpose(x, (1, 0, 2))
        return x, (ops.stack([h for h, _ in last]), ops.stack([c for _, c in last]))

    def _direction(self, name: str, x: Any, state: State | None, lengths: Any) -> tuple[list[Any], State]:
        """The outputs of one layer in one direction, in the order of time, and its last state."""
        recurrent = ops.transpose(self._of("weight_hh", name), (1, 0))
        gates = ops.matmul(x, ops.transpose(self._of("weight_ih", name), (1, 0)))
        if self.has_bias:
            gates = gates + (self._of("bias_ih", name) + self._of("bias_hh", name))
        time, n = x.shape[0], x.shape[1]
        zeros = ops.zeros((n, self.hidden_size), x.dtype)
        h, c = (zeros, zeros) if state is None else state
        outputs: list[Any] = [None] * time
        for t in reversed(range(time)) if name.endswith("_reverse") else range(time):
            i, f, g, o = ops.split(gates[t] + ops.matmul(h, recurrent), self.hidden_size, -1)
            grown = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
            shown = ops.sigmoid(o) * ops.tanh(grown)
            if lengths is None:
                h, c, outputs[t] = shown, grown, shown
            else:
                counts = ops.expand_dims(lengths > t, 1)
                h, c, outputs[t] = ops.where(counts, shown, h), ops.where(counts, grown, c), ops.where(counts, shown, zeros)
        return outputs, (h, c)

    def _of(self, kind: str, name: str) -> Parameter:
        parameter: Parameter = getattr(self, f"{kind}_{name}")
        return parameter

    def _check(self, x: Tensor, hx: State | None) -> None:
        if len(x.shape) != 3 or x.shape[2] != self.input_size or not x.shape[1 if self.batch_first else 0]:
            axes = "(n, time, {})" if self.batch_first else "(time, n, {})"
            what = f"LSTM: x must have shape {axes.format(self.input_size)}, found {tuple(x.shape)}"
            raise ShapeError(layout(what, here(), [operand("x", x)]))
        if hx is None:
            return
        expected = (len(self._names), x.shape[0 if self.batch_first else 1], self.hidden_size)
        if not isinstance(hx, Sequence) or len(hx) != 2 or any(tuple(part.shape) != expected for part in hx):
            found = [tuple(part.shape) for part in hx] if isinstance(hx, Sequence) else type(hx).__name__
            raise ShapeError(layout(f"LSTM: hx must be a pair of shape {expected}, found {found}", here()))

    def extend_repr(self) -> str:
        return f"input_size={self.input_size}, hidden_size={self.hidden_size}, num_layers={self.num_layers}"
