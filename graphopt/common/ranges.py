"""Classes and ids that must lie in a range: checked on the host, before a step changes anything."""

from __future__ import annotations

import numpy as np

from graphopt.common.tensor import Tensor
from graphopt.common.trace import active
from graphopt.errors import ShapeError


def check_range(
    owner: str, what: str, tensor: Tensor, high: int, ignored: int | None = None, filler: int | None = None
) -> None:
    """See that the integers of `tensor` are in [0, high), or `ignored`, or `filler`, which is not the user's: now, or
    before every run of the graph that is being traced when `tensor` is one of its arguments. What a graph computes by
    itself is not checked.

    Errors: ShapeError naming the first that is not.
    Cost:   a pass over the tensor per run.
    """

    def check(values: np.ndarray) -> None:
        if int(values.view(f"u{values.itemsize}").max(initial=0)) < high:  # negative ones are huge
            return
        outside = (values < 0) | (values >= high)
        if ignored is not None:
            outside &= values != ignored
        if filler is not None:
            outside &= values != filler
        if outside.any():
            place = tuple(int(k[0]) for k in np.nonzero(np.atleast_1d(outside)))
            at = f" at position {place[0] if len(place) == 1 else place}" if values.ndim else ""
            beside = "" if ignored is None else f" and is not {ignored}, which would be ignored"
            found = int(np.atleast_1d(values)[place])
            raise ShapeError(f"{owner}: {what} {found}{at} is outside [0, {high}){beside}")

    trace = active()
    if trace is None:
        check(tensor._value(what))
    else:
        trace.check_value(trace.node_of(tensor), check)
