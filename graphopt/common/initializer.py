"""Initial values of parameters: the classes, their names, and `initializer(init, shape, dtype)`.

Random ones draw from the global seed, one numbered draw each: `set_seed(n)` and the same order of layers give the
same values on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.common.checks import check_choice, check_int, check_number, check_positive, check_type, found
from graphopt.common.seed import next_generator
from graphopt.common.tensor import Tensor
from graphopt.ir.types import DType, dtype_of, f32

_by_name: dict[str, type[Initializer]] = {}


class Initializer:
    """Base of all initializers: a subclass writes its values into the array that `_initialize(arr)` receives.

    Shapes: any. Dtypes: the array's; draws are made in float32 or wider and rounded.

    >>> import graphopt as ms
    >>> from graphopt.common.initializer import Initializer, initializer
    >>> class Sevens(Initializer):
    ...     def _initialize(self, arr):
    ...         arr[...] = 7
    >>> initializer(Sevens(), (2,)).asnumpy().tolist()
    [7.0, 7.0]
    """

    _names: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        self._kwargs = kwargs
        self.seed: int | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in (cls.__name__.lower(), *cls.__dict__.get("_names", ())):
            _by_name.setdefault(name, cls)

    def _initialize(self, arr: np.ndarray) -> None:
        raise NotImplementedError(f"{type(self).__name__} must override _initialize(arr)")

    def __call__(self, arr: np.ndarray) -> None:
        """Fill `arr` in place."""
        self._initialize(arr)

    @property
    def random(self) -> np.random.Generator:
        """A generator for one draw."""
        return next_generator(self.seed)


class Zero(Initializer):
    """All zeros; name 'zeros'.

    >>> from graphopt.common.initializer import initializer
    >>> initializer('zeros', (2,)).asnumpy().tolist()
    [0.0, 0.0]
    """

    _names = ("zeros",)

    def _initialize(self, arr: np.ndarray) -> None:
        arr[...] = 0


class One(Initializer):
    """All ones; name 'ones'.

    >>> from graphopt.common.initializer import initializer
    >>> initializer('ones', (2,)).asnumpy().tolist()
    [1.0, 1.0]
    """

    _names = ("ones",)

    def _initialize(self, arr: np.ndarray) -> None:
        arr[...] = 1


class Constant(Initializer):
    """One number everywhere.

    >>> from graphopt.common.initializer import Constant, initializer
    >>> initializer(Constant(3), (2,)).asnumpy().tolist()
    [3.0, 3.0]
    """

    def __init__(self, value: Any) -> None:
        super().__init__(value=value)
        self.value = value

    def _initialize(self, arr: np.ndarray) -> None:
        arr[...] = self.value


class Normal(Initializer):
    """Normal distribution with standard deviation `sigma` around `mean`; name 'normal'.

    Errors: ValueError when sigma is negative.

    >>> from graphopt.common.initializer import Normal, initializer
    >>> initializer(Normal(0.01), (3, 4)).shape
    (3, 4)
    """

    def __init__(self, sigma: float = 0.01, mean: float = 0.0) -> None:
        super().__init__(sigma=sigma, mean=mean)
        self.sigma = check_number("Normal", "sigma", sigma, low=0)
        self.mean = check_number("Normal", "mean", mean)

    def _initialize(self, arr: np.ndarray) -> None:
        arr[...] = self.random.normal(self.mean, self.sigma, arr.shape)


class TruncatedNormal(Initializer):
    """Normal distribution cut to [a, b], drawn again outside; name 'truncatednormal'.

    Units: a and b are values, as is mean; MindSpore's bounds are in the same units.
    Errors: ValueError when sigma is negative or a >= b.

    >>> from graphopt.common.initializer import TruncatedNormal, initializer
    >>> values = initializer(TruncatedNormal(sigma=1.0, a=-1.0, b=1.0), (100,)).asnumpy()
    >>> bool(abs(values).max() <= 1)
    True
    """

    def __init__(self, sigma: float = 0.01, mean: float = 0.0, a: float = -2.0, b: float = 2.0) -> None:
        super().__init__(sigma=sigma, mean=mean, a=a, b=b)
        self.sigma = check_number("TruncatedNormal", "sigma", sigma, low=0)
        self.mean = check_number("TruncatedNormal", "mean", mean)
        self.a, self.b = check_number("TruncatedNormal", "a", a), check_number("TruncatedNormal", "b", b)
        if a >= b:
            raise ValueError(f"TruncatedNormal: a must be below b, found a={a}, b={b}")

    def _initialize(self, arr: np.ndarray) -> None:
        arr[...] = truncated_normal(self.random, self.mean, self.sigma, self.a, self.b, arr.shape)


class Uniform(Initializer):
    """Uniform distribution on [-scale, scale); name 'uniform'.

    >>> from graphopt.common.initializer import Uniform, initializer
    >>> bool(abs(initializer(Uniform(0.5), (100,)).asnumpy()).max() <= 0.5)
    True
    """

    def __init__(self, scale: float = 0.07) -> None:
        super().__init__(scale=scale)
        self.scale = check_number("Uniform", "scale", scale)

    def _initialize(self, arr: np.ndarray) -> None:
        arr[...] = self.random.uniform(-self.scale, self.scale, arr.shape)


class XavierUniform(Initializer):
    """Uniform on ±gain·sqrt(6/(fan_in + fan_out)); names 'xavier_uniform', 'XavierUniform'.

    Shapes: two or more axes, (out, in, *window).
    Errors: ValueError when the shape has fewer than two axes.
    Source: Glorot and Bengio 2010.

    >>> from graphopt.common.initializer import initializer
    >>> bool(abs(initializer('xavier_uniform', (3, 3)).asnumpy()).max() <= 1)
    True
    """

    _names = ("xavier_uniform",)

    def __init__(self, gain: float = 1) -> None:
        super().__init__(gain=gain)
        self.gain = check_number("XavierUniform", "gain", gain)

    def _initialize(self, arr: np.ndarray) -> None:
        bound = self.gain * math.sqrt(6.0 / sum(fans(arr.shape)))
        arr[...] = self.random.uniform(-bound, bound, arr.shape)


class XavierNormal(Initializer):
    """Normal with deviation gain·sqrt(2/(fan_in + fan_out)); names 'xavier_normal', 'XavierNormal'.

    Shapes: two or more axes, (out, in, *window).
    Errors: ValueError when the shape has fewer than two axes.

    >>> from graphopt.common.initializer import initializer
    >>> initializer('xavier_normal', (3, 3)).shape
    (3, 3)
    """

    _names = ("xavier_normal",)

    def __init__(self, gain: float = 1) -> None:
        super().__init__(gain=gain)
        self.gain = check_number("XavierNormal", "gain", gain)

    def _initialize(self, arr: np.ndarray) -> None:
        arr[...] = self.random.normal(0.0, self.gain * math.sqrt(2.0 / sum(fans(arr.shape))), arr.shape)


class _He(Initializer):
    """What the two He initializers share: the standard deviation gain/sqrt(fan)."""

    def __init__(self, negative_slope: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> None:
        super().__init__(negative_slope=negative_slope, mode=mode, nonlinearity=nonlinearity)
        owner = type(self).__name__
        check_type(owner, "mode", mode, str)
        check_choice(owner, "mode", mode.lower(), ("fan_in", "fan_out"))
        gain_of(nonlinearity, negative_slope)
        self.negative_slope, self.mode, self.nonlinearity = negative_slope, mode.lower(), nonlinearity

    def deviation(self, shape: tuple[int, ...]) -> float:
        fan_in, fan_out = fans(shape)
        return gain_of(self.nonlinearity, self.negative_slope) / math.sqrt(
            fan_in if self.mode == "fan_in" else fan_out
        )


class HeUniform(_He):
    """Uniform on ±gain·sqrt(3/fan); names 'he_uniform', 'HeUniform'. The layers' usual weight is HeUniform(sqrt(5)).

    mode: 'fan_in' or 'fan_out'. nonlinearity: its gain, 'leaky_relu' with `negative_slope`, 'relu', 'tanh',
    'sigmoid' …
    Shapes: two or more axes, (out, in, *window).
    Errors: ValueError for an unknown mode or nonlinearity, or a shape with fewer than two axes.
    Source: He, Zhang, Ren, Sun 2015.

    >>> from graphopt.common.initializer import HeUniform, initializer
    >>> bool(abs(initializer(HeUniform(5 ** 0.5), (8, 4)).asnumpy()).max() <= 0.5)
    True
    """

    _names = ("he_uniform",)

    def _initialize(self, arr: np.ndarray) -> None:
        bound = math.sqrt(3.0) * self.deviation(arr.shape)
        arr[...] = self.random.uniform(-bound, bound, arr.shape)


class HeNormal(_He):
    """Normal with deviation gain/sqrt(fan); names 'he_normal', 'HeNormal'. Arguments as HeUniform.

    Shapes: two or more axes, (out, in, *window).
    Errors: ValueError for an unknown mode or nonlinearity, or a shape with fewer than two axes.

    >>> from graphopt.common.initializer import initializer
    >>> initializer('HeNormal', (8, 4)).shape
    (8, 4)
    """

    _names = ("he_normal",)

    def _initialize(self, arr: np.ndarray) -> None:
        arr[...] = self.random.normal(0.0, self.deviation(arr.shape), arr.shape)


class VarianceScaling(Initializer):
    """Variance scale/fan; name 'variancescaling'.

    mode: 'fan_in', 'fan_out' or 'fan_avg'. distribution: 'uniform', 'truncated_normal' (cut at two deviations,
    widened so that the deviation stays) or 'untruncated_normal'.
    Shapes: two or more axes, (out, in, *window).
    Errors: ValueError when scale <= 0 or for another mode or distribution.

    >>> from graphopt.common.initializer import VarianceScaling, initializer
    >>> initializer(VarianceScaling(2.0, 'fan_out', 'uniform'), (4, 2)).shape
    (4, 2)
    """

    def __init__(self, scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal") -> None:
        super().__init__(scale=scale, mode=mode, distribution=distribution)
        self.scale = check_positive("VarianceScaling", "scale", scale)
        self.mode = check_choice("VarianceScaling", "mode", mode, ("fan_in", "fan_out", "fan_avg"))
        kinds = ("uniform", "truncated_normal", "untruncated_normal")
        self.distribution = check_choice("VarianceScaling", "distribution", distribution, kinds)

    def _initialize(self, arr: np.ndarray) -> None:
        fan_in, fan_out = fans(arr.shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, fan)
        if self.distribution == "uniform":
            bound = math.sqrt(3.0 * variance)
            arr[...] = self.random.uniform(-bound, bound, arr.shape)
        elif self.distribution == "untruncated_normal":
            arr[...] = self.random.normal(0.0, math.sqrt(variance), arr.shape)
        else:
            sigma = math.sqrt(variance) / 0.87962566103423978  # deviation of a unit normal cut at two
            arr[...] = truncated_normal(self.random, 0.0, sigma, -2 * sigma, 2 * sigma, arr.shape)


class Orthogonal(Initializer):
    """Orthonormal rows or columns (the first axis against all others), times gain; name 'orthogonal'.

    Errors: ValueError when the shape has fewer than two axes.
    Source: Saxe, McClelland, Ganguli 2013.

    >>> from graphopt.common.initializer import initializer
    >>> w = initializer('orthogonal', (3, 5)).asnumpy()
    >>> bool(abs(w @ w.T - [[1, 0, 0], [0, 1, 0], [0, 0, 1]]).max() < 1e-5)
    True
    """

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__(gain=gain)
        self.gain = check_number("Orthogonal", "gain", gain)

    def _initialize(self, arr: np.ndarray) -> None:
        if arr.ndim < 2:
            raise ValueError(f"Orthogonal: expected a shape with 2 or more axes, found {arr.shape}")
        rows, cols = arr.shape[0], math.prod(arr.shape[1:])
        q, r = np.linalg.qr(self.random.normal(size=(max(rows, cols), min(rows, cols))))
        q = q * np.sign(np.diag(r))
        arr[...] = self.gain * (q.T if rows < cols else q).reshape(arr.shape)


class Identity(Initializer):
    """The identity matrix; name 'identity'.

    Errors: ValueError when the shape has not two axes.

    >>> from graphopt.common.initializer import initializer
    >>> initializer('identity', (2, 2)).asnumpy().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def _initialize(self, arr: np.ndarray) -> None:
        if arr.ndim != 2:
            raise ValueError(f"Identity: expected a shape with 2 axes, found {arr.shape}")
        arr[...] = np.eye(*arr.shape)


class Dirac(Initializer):
    """Convolution kernels that hand their input on: out channel i of each group copies in channel i; name 'dirac'.

    Errors: ValueError when the shape has not 3 to 5 axes or groups does not divide its first.

    >>> from graphopt.common.initializer import Dirac, initializer
    >>> initializer(Dirac(), (2, 2, 1)).asnumpy().tolist()
    [[[1.0], [0.0]], [[0.0], [1.0]]]
    """

    def __init__(self, groups: int = 1) -> None:
        super().__init__(groups=groups)
        self.groups = check_int("Dirac", "groups", groups, low=1)

    def _initialize(self, arr: np.ndarray) -> None:
        if arr.ndim not in (3, 4, 5):
            raise ValueError(f"Dirac: expected a shape with 3, 4 or 5 axes, found {arr.shape}")
        if arr.shape[0] % self.groups:
            raise ValueError(f"Dirac: the first axis must be a multiple of groups {self.groups}, found {arr.shape}")
        arr[...] = 0
        per_group = arr.shape[0] // self.groups
        middle = tuple(n // 2 for n in arr.shape[2:])
        for group in range(self.groups):
            for k in range(min(per_group, arr.shape[1])):
                arr[(group * per_group + k, k, *middle)] = 1


class Sparse(Initializer):
    """Normal values with the share `sparsity` of each column set to zero; name 'sparse'.

    Errors: ValueError when the shape has not two axes.
    Source: Martens 2010.

    >>> from graphopt.common.initializer import Sparse, initializer
    >>> (initializer(Sparse(0.5), (4, 3)).asnumpy() == 0).sum(axis=0).tolist()
    [2, 2, 2]
    """

    def __init__(self, sparsity: float, sigma: float = 0.01) -> None:
        super().__init__(sparsity=sparsity, sigma=sigma)
        self.sparsity = check_number("Sparse", "sparsity", sparsity)
        self.sigma = check_number("Sparse", "sigma", sigma, low=0)

    def _initialize(self, arr: np.ndarray) -> None:
        if arr.ndim != 2:
            raise ValueError(f"Sparse: expected a shape with 2 axes, found {arr.shape}")
        random = self.random
        values = random.normal(0.0, self.sigma, arr.shape)
        zeros = math.ceil(self.sparsity * arr.shape[0])
        for column in range(arr.shape[1]):
            values[random.permutation(arr.shape[0])[:zeros], column] = 0
        arr[...] = values


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, *window).

    Errors: ValueError when there are fewer than two axes.
    """
    if len(shape) < 2:
        raise ValueError(f"fan_in and fan_out need a shape with 2 or more axes, found {tuple(shape)}")
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def gain_of(nonlinearity: str, negative_slope: Any = None) -> float:
    """The factor that keeps variances through a nonlinearity.

    Errors: ValueError for an unknown name or a slope that is no number.
    """
    linear = ("linear", "sigmoid") + tuple(f"conv{t}{k}d" for t in ("", "_transpose") for k in (1, 2, 3))
    if nonlinearity == "leaky_relu":
        slope = 0.01 if negative_slope is None else negative_slope
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"negative_slope must be a number, found {found(negative_slope)}")
        return math.sqrt(2.0 / (1 + slope**2))
    gains = {"relu": math.sqrt(2.0), "tanh": 5.0 / 3} | dict.fromkeys(linear, 1.0)
    if nonlinearity not in gains:
        raise ValueError(f"nonlinearity must be one of leaky_relu, {', '.join(gains)}, found {nonlinearity!r}")
    return gains[nonlinearity]


def truncated_normal(
    random: np.random.Generator, mean: float, sigma: float, a: float, b: float, shape: tuple[int, ...]
) -> np.ndarray:
    """Normal draws inside [a, b]; what falls outside is drawn again, at last it is drawn uniformly.

    Cost: a bound far in the tail takes a fixed number of attempts, not an endless one.
    """
    values = random.normal(mean, sigma, shape)
    for _ in range(64):
        outside = (values < a) | (values > b)
        count = int(np.count_nonzero(outside))
        if not count:
            return values
        values[outside] = random.normal(mean, sigma, count)
    return np.where((values < a) | (values > b), random.uniform(a, b, shape), values)


def initializer(init: Any, shape: Any = None, dtype: DType = f32) -> Tensor:
    """A Tensor filled by `init`: a name, an Initializer, a number, or a Tensor (returned as it is when it fits).

    Shapes: `shape` is an int, a tuple or a list of ints; () when left out.
    Errors: TypeError for another init or shape; ValueError for an unknown name, a negative size, or a Tensor of
            another shape.

    >>> import graphopt as ms
    >>> from graphopt.common.initializer import initializer, Normal
    >>> initializer('ones', [1, 2], ms.float32).asnumpy().tolist()
    [[1.0, 1.0]]
    >>> initializer(0.5, (2,)).asnumpy().tolist()
    [0.5, 0.5]
    """
    if isinstance(init, Tensor):
        if shape is not None and tuple(init.shape) != _shape(shape):
            raise ValueError(f"initializer: shape must be that of init, {tuple(init.shape)}, found {_shape(shape)}")
        return init
    sizes, kind = _shape(() if shape is None else shape), dtype_of(dtype)
    values = np.empty(sizes, np.float32 if kind.name in ("float16", "bfloat16") else kind.numpy)
    make_initializer(init)(values)
    return Tensor(values.astype(kind.numpy, copy=False), dtype=kind)


def make_initializer(init: Any) -> Initializer:
    """The Initializer that a name, a number or an Initializer stands for."""
    if isinstance(init, Initializer):
        return init
    if isinstance(init, str):
        cls = _by_name.get(init.lower())
        if cls is None:
            names = sorted(n for n in _by_name if not n.startswith("_"))
            raise ValueError(f"initializer: init must be one of {', '.join(names)}, found {init!r}")
        return cls()
    if isinstance(init, (int, float, np.number)) and not isinstance(init, bool):
        return Constant(init)
    raise TypeError(f"initializer: init must be a str, Initializer, number or Tensor, found {found(init)}")


def _shape(shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
            raise TypeError(f"initializer: shape must hold ints, found {found(shape)}")
        if size < 1:
            raise ValueError(f"initializer: sizes must be >= 1, found {sizes}")
    return tuple(int(n) for n in sizes)
