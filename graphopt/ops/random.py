"""Random tensors and dropout. In a graph they draw from counter-based bits under a key that is state and advances
with every draw.

The key is one Parameter of no Cell: (a word from the seed, the number of the draw). `set_seed` starts it again, so a
program that draws in the same order sees the same numbers; a compiled step draws new ones in every call.
"""

from __future__ import annotations

import math as pymath
from typing import Any

import numpy as np

from graphopt.common.checks import check_bool, found
from graphopt.common.parameter import Parameter
from graphopt.common.seed import base_seed, next_generator, next_key, when_set
from graphopt.common.tensor import Tensor, apply, wrap_array
from graphopt.common.trace import active
from graphopt.errors import ShapeError, TraceError
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, dtype_of, f32, i64, u32, u64
from graphopt.opdefs import bits, elementwise, math
from graphopt.opdefs.opdef import constant, full
from graphopt.opdefs.random import random_bits
from graphopt.opdefs.scaffold import zero_of
from graphopt.ops.promote import dtype_arg, shape_of, to_dtype

_stream: Parameter | None = None


def _first_key() -> np.ndarray:
    word = np.random.SeedSequence([base_seed(), 11]).generate_state(1, np.uint32)[0]
    return np.array([word, 0], np.uint32)


def _restart() -> None:
    if _stream is not None:
        _stream.set_data(wrap_array(_first_key()))


when_set(_restart)


def stream() -> Parameter:
    """The key that unseeded draws take and advance."""
    global _stream
    if _stream is None:
        _stream = Parameter(wrap_array(_first_key()), name="random_key", requires_grad=False)
    return _stream


def get_rng_state() -> Tensor:
    """The state of the stream that dropout and random ops draw from: u32[2].

    >>> import graphopt as ms
    >>> state = ms.get_rng_state()
    >>> first = ms.ops.rand(3)
    >>> ms.set_rng_state(state)
    >>> bool((ms.ops.rand(3) == first).all())
    True
    """
    return stream().copy()


def set_rng_state(state: Tensor) -> None:
    """Let dropout and random ops go on from what `get_rng_state` gave.

    Errors: TypeError when state is no Tensor, ValueError when it is not u32[2].

    >>> import graphopt as ms
    >>> state = ms.get_rng_state()
    >>> first = ms.ops.standard_normal((3,))
    >>> ms.set_rng_state(state)
    >>> bool((ms.ops.standard_normal((3,)) == first).all())
    True
    """
    if not isinstance(state, Tensor):
        raise TypeError(f"set_rng_state: state must be a Tensor, found {found(state)}")
    if state.dtype is not u32 or state.shape != (2,):
        raise ValueError(f"set_rng_state: state must be u32[2] as get_rng_state gives it, found {state._type}")
    stream().set_data(state)


def _advanced(key: Node) -> Node:
    return key + constant(np.array([0, 1], np.uint32))


def fresh_key(seed: Any = None) -> Tensor:
    """The key of the next draw, u32[2]; a seed gives a key of its own that does not advance."""
    if seed is not None:
        return wrap_array(next_key(_checked_seed(seed)))
    state = stream()
    key = state.copy()
    state._assign(apply(_advanced, key))
    return key


def _checked_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise TypeError(f"seed: expected an int >= 0 or None, found {found(seed)}")
    return int(seed)


def unit(key: Node, shape: tuple[int, ...]) -> Node:
    """float32 in [0, 1): the upper 24 bits of each word."""
    words = random_bits(key, shape=shape)
    return to_dtype(bits.shift_right(words, full(shape, 8, u32)), f32) * 2.0**-24


def _other(key: Node) -> Node:
    """A second key for the same draw: the word of the seed changed."""
    return bits.differ(key, constant(np.array([0x9E3779B9, 0], np.uint32)))


def _normal(key: Node, shape: tuple[int, ...]) -> Node:
    """Standard normal float32 by Box and Muller; the radius is finite because its uniform is never 0."""
    radius = math.sqrt(math.log(unit(key, shape) + 2.0**-25) * -2.0)
    return radius * math.cos(unit(_other(key), shape) * (2.0 * pymath.pi))


def rand(*size: Any, dtype: DType | None = None, seed: int | None = None) -> Tensor:
    """Uniform numbers in [0, 1).

    >>> import graphopt as ms
    >>> ms.ops.rand(2, 3).shape
    (2, 3)
    """
    shape, kind = _sizes(size), dtype_arg(dtype, f32)
    return apply(lambda key: to_dtype(unit(key, shape), kind), fresh_key(seed))


def randn(*size: Any, dtype: DType | None = None, seed: int | None = None) -> Tensor:
    """Normal numbers, mean 0 and variance 1.

    >>> import graphopt as ms
    >>> ms.ops.randn(2, 3).shape
    (2, 3)
    """
    shape, kind = _sizes(size), dtype_arg(dtype, f32)
    return apply(lambda key: to_dtype(_normal(key, shape), kind), fresh_key(seed))


def rand_like(input: Tensor, seed: int | None = None, *, dtype: DType | None = None) -> Tensor:
    """Uniform numbers in [0, 1), in the input's shape and dtype.

    >>> import graphopt as ms
    >>> bool((ms.ops.rand_like(ms.ops.zeros(100)) < 1).all())
    True
    """
    return rand(input.shape, dtype=dtype_arg(dtype, input.dtype), seed=seed)


def randn_like(input: Tensor, seed: int | None = None, *, dtype: DType | None = None) -> Tensor:
    """Normal numbers, in the input's shape and dtype.

    >>> import graphopt as ms
    >>> ms.ops.randn_like(ms.ops.zeros((2, 3))).shape
    (2, 3)
    """
    return randn(input.shape, dtype=dtype_arg(dtype, input.dtype), seed=seed)


def standard_normal(shape: Any, seed: int | None = None) -> Tensor:
    """Normal numbers, mean 0 and variance 1, float32.

    >>> import graphopt as ms
    >>> ms.ops.standard_normal((2, 3)).shape
    (2, 3)
    """
    return randn(shape_of(shape, "standard_normal"), seed=seed)


def normal(shape: Any, mean: Any, stddev: Any, seed: int | None = None) -> Tensor:
    """Normal numbers of the given mean and deviation (numbers or Tensors that broadcast with the shape).

    >>> import graphopt as ms
    >>> ms.ops.normal((2, 3), 0.0, 1.0).shape
    (2, 3)
    """
    drawn: Any = standard_normal(shape, seed)
    return drawn * stddev + mean


def uniform(shape: Any, minval: Any, maxval: Any, seed: int | None = None, dtype: DType = f32) -> Tensor:
    """Uniform numbers in [minval, maxval); whole ones for an integer dtype.

    >>> import graphopt as ms
    >>> bool((ms.ops.uniform((100,), ms.Tensor(5.0), ms.Tensor(6.0)) >= 5).all())
    True
    """
    if dtype_of(dtype).is_integer:
        return randint(int(minval), int(maxval), shape, seed, dtype=dtype)
    spread: Any = rand(shape_of(shape, "uniform"), seed=seed)
    return (spread * (maxval - minval) + minval).astype(dtype_of(dtype))


def randint(low: int, high: int, size: Any, seed: int | None = None, *, dtype: DType | None = None) -> Tensor:
    """Whole numbers in [low, high), int64 unless a dtype is given.

    Errors: ValueError when low >= high or they are more than 2^32 apart.

    >>> import graphopt as ms
    >>> sorted(set(ms.ops.randint(1, 4, (100,)).asnumpy().tolist()))
    [1, 2, 3]
    """
    shape, kind = shape_of(size, "randint"), dtype_arg(dtype, i64)
    if not 0 < high - low <= 2**32:
        raise ShapeError(f"randint: expected low < high, at most 2^32 apart, found {low} and {high}")

    def draw(key: Node) -> Node:
        wide = to_dtype(random_bits(key, shape=shape), u64) * constant(high - low, u64)
        return to_dtype(to_dtype(bits.shift_right(wide, full(shape, 32, u64)), i64) + constant(low, i64), kind)

    return apply(draw, fresh_key(seed))


def randint_like(
    input: Tensor, low: int, high: int, seed: int | None = None, *, dtype: DType | None = None
) -> Tensor:
    """Whole numbers in [low, high), in the input's shape and dtype.

    >>> import graphopt as ms
    >>> sorted(set(ms.ops.randint_like(ms.ops.zeros(100), 1, 4).asnumpy().tolist()))
    [1.0, 2.0, 3.0]
    """
    return randint(low, high, input.shape, seed, dtype=dtype_arg(dtype, input.dtype))


def bernoulli(input: Tensor, p: Any = 0.5, seed: int | None = None) -> Tensor:
    """1 with probability p (a number, or a Tensor that broadcasts with the input), else 0; shape and dtype of the
    input.

    >>> import graphopt as ms
    >>> ms.ops.bernoulli(ms.ops.zeros(3), 1.0).asnumpy().tolist()
    [1.0, 1.0, 1.0]
    """
    if isinstance(p, (int, float)) and not 0 <= p <= 1:
        raise ShapeError(f"bernoulli: p must be in [0, 1], found {p}")
    drawn: Any = rand(input.shape, seed=seed)
    return (drawn < p).astype(input.dtype)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, seed: int | None = None) -> Tensor:
    """Each element zeroed with probability p, the others divided by 1 - p; the input itself when not training.

    Errors: TypeError or ValueError when p is no number in [0, 1].

    >>> import graphopt as ms
    >>> ms.ops.dropout(ms.Tensor([1.0, 2.0]), 0.5, training=False).asnumpy().tolist()
    [1.0, 2.0]
    """
    check_bool("dropout", "training", training)
    if p == 1 and not isinstance(p, bool):
        return apply(zero_of, input) if training else input
    if check_probability("dropout", "p", p) == 0 or not training:
        return input
    return dropped(input, p, fresh_key(seed))[0]


def check_probability(owner: str, name: str, p: Any) -> float:
    """0 <= p < 1."""
    if isinstance(p, bool) or not isinstance(p, (int, float)):
        raise TypeError(f"{owner}: {name} must be a number, found {found(p)}")
    if not 0 <= p < 1:
        raise ValueError(f"{owner}: {name} must be in [0, 1), found {p}")
    return float(p)


def dropout_node(x: Node, words: Node, p: float) -> tuple[Node, Node]:
    """(x with each element zeroed with probability p and the rest divided by 1 - p, the mask), from random words."""
    bound = full(x.shape, min(int(p * 2.0**32), 2**32 - 1), words.dtype)
    kept = elementwise.ge(words, bound)
    return elementwise.select(kept, x * (1.0 / (1.0 - p)), zero_of(x)), kept


def dropped(input: Tensor, p: float, key: Tensor) -> tuple[Tensor, Tensor]:
    """(dropout of the input, its mask in the input's dtype)."""

    def run(x: Node, key: Node) -> tuple[Node, Node]:
        y, kept = dropout_node(x, random_bits(key, shape=x.shape), p)
        return y, to_dtype(kept, x.dtype)

    return apply(run, input, key)


def dropout_channels(input: Tensor, p: float, axes: int) -> Tensor:
    """Whole channels zeroed: one draw for the first two axes, shared by the last `axes` ones."""
    if p == 0:
        return input

    def run(x: Node, key: Node) -> Node:
        lead = x.shape[: len(x.shape) - axes]
        ones = full(lead + (1,) * axes, 1, x.dtype)
        return x * dropout_node(ones, random_bits(key, shape=ones.shape), p)[0]

    return apply(run, input, fresh_key())


def randperm(n: int, seed: int = 0, offset: int = 0, dtype: DType = i64) -> Tensor:
    """0 … n-1 in random order. Drawn on the host: not inside a compiled graph.

    Errors: TraceError inside a graph.

    >>> import graphopt as ms
    >>> sorted(ms.ops.randperm(4).asnumpy().tolist())
    [0, 1, 2, 3]
    """
    _on_host("randperm")
    return wrap_array(next_generator(seed or None).permutation(n).astype(dtype_of(dtype).numpy))


def shuffle(x: Tensor, seed: int | None = None) -> Tensor:
    """The rows of x in random order. Drawn on the host: not inside a compiled graph.

    >>> import graphopt as ms
    >>> sorted(ms.ops.shuffle(ms.Tensor([3, 1, 2])).asnumpy().tolist())
    [1, 2, 3]
    """
    _on_host("shuffle")
    order = next_generator(seed).permutation(x.shape[0]) if x.ndim else np.arange(0)
    return x[wrap_array(order.astype(np.int64))] if x.ndim else x


def _on_host(name: str) -> None:
    trace = active()
    if trace is not None and not trace.concrete:
        raise TraceError(
            f"{name} draws on the host, once, while GRAPH_MODE is tracing; call it outside and pass the result in"
        )


def _sizes(size: tuple[Any, ...]) -> tuple[int, ...]:
    return shape_of(size[0] if len(size) == 1 else size, "rand")
