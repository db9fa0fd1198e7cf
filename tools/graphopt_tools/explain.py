"""`graphopt explain`: why a network is compiled, for which numbers of rows again, and how to avoid that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import typer

from graphopt import Tensor
from graphopt.common.compiled import CompiledFunction
from graphopt_tools.mistakes import Mistake
from graphopt_tools.show import compiled_function
from graphopt_tools.targets import resolve


def run_explain(target: str, types: Sequence[str], rows: Sequence[int]) -> None:
    """The command `graphopt explain`.

    Errors: Mistake when the object cannot be found or called, or its inputs have no rows.
    """
    function, inputs = resolve(target, types)
    typer.echo(explained(function, inputs, rows).explain())


def explained(function: Callable[..., Any], inputs: Sequence[Any], rows: Sequence[int]) -> CompiledFunction:
    """A Cell or function after calls with its inputs at several numbers of rows: theirs, and then `rows`, or half as many
    and one. Inputs with another first size than the first keep theirs.

    Errors: Mistake when the first input is no Tensor with rows.
    """
    first = inputs[0] if inputs else None
    if not isinstance(first, Tensor) or not first.ndim or not first.shape[0]:
        raise Mistake(f"the first input must be a Tensor with rows, found {'none' if first is None else first}")
    own = first.shape[0]
    compiled = compiled_function(function)
    for count in dict.fromkeys([own, *(rows or (max(own // 2, 1), 1))]):
        if count < 1:
            raise Mistake(f"--rows must be positive, found {count}")
        compiled([_with_rows(v, own, count) for v in inputs], {})
    return compiled


def _with_rows(value: Any, own: int, count: int) -> Any:
    if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != own:
        return value
    return Tensor(np.resize(value.asnumpy(), (count, *value.shape[1:])))
