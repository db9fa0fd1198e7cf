"""Primitive-style classes: `ops.MatMul(transpose_b=True)(x, y)`. One table, from the class's name to what a call
does.

A row is: the constructor's arguments as Python text, and a function of (self, *inputs). Classes without arguments
whose call is a function of this package are listed by name alone.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graphopt.common.checks import int_tuple
from graphopt.common.dtype import int32
from graphopt.common.precision import ruled
from graphopt.common.tensor import Tensor, apply
from graphopt.opdefs.math import rsqrt
from graphopt.opdefs.shape import reshape
from graphopt.ops import (
    activation,
    array,
    creation,
    host,
    indexing,
    joining,
    linear,
    losses,
    math,
    normalization,
    pooling,
    products,
    random,
    reduction,
)
from graphopt.ops.promote import promoted, to_dtype
from graphopt.ops.row_updates import ROW_UPDATES
from graphopt.ops.state import apply_momentum, assign, assign_add, assign_sub


class Primitive:
    """Base of the operator classes: constructor arguments become attributes; calling the object computes.

    >>> import graphopt as ms
    >>> add = ms.ops.Add()
    >>> add.name
    'Add'
    """

    __signature_text__ = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.name = (
            type(self).__name__ if type(self) is not Primitive else str(args[0] if args else kwargs.get("name"))
        )
        self.attrs: dict[str, Any] = {}
        if type(self) is not Primitive:
            for key, value in _bound(type(self), args, kwargs).items():
                setattr(self, key, value)

    def __call__(self, *inputs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no computation of its own")

    def add_prim_attr(self, name: str, value: Any) -> Primitive:
        """Keep a remark under a name; it has no effect on the computation."""
        self.attrs[name] = value
        return self

    def set_device(self, device_target: str) -> Primitive:
        """The object itself: there is one device."""
        return self

    def shard(self, *_: Any, **__: Any) -> Primitive:
        """The object itself: one device holds everything."""
        return self

    def __repr__(self) -> str:
        return f"Prim[{self.name}]"


def _bound(cls: type[Primitive], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature: inspect.Signature = cls._arguments  # type: ignore[attr-defined]
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{cls.__name__}{signature}: {error}") from None
    bound.apply_defaults()
    return dict(bound.arguments)


def signature_of(text: str) -> inspect.Signature:
    scope: dict[str, Any] = {}
    exec(f"def arguments({text}): ...", scope)
    return inspect.signature(scope["arguments"])


_OWN_NODES = {"MatMul": "matmul", "BatchMatMul": "bmm", "LayerNorm": "layer_norm"}
"""Classes that run no lifted function, and what they are called in rules of precision."""


def primitive(name: str, arguments: str, call: Callable[..., Any], doc: str = "") -> type[Primitive]:
    """A Primitive class of that name. Its docstring is made from the function it runs."""
    signature = signature_of(arguments)

    own = _OWN_NODES.get(name)

    def __call__(self: Any, *inputs: Any, **named: Any) -> Any:
        done, result = (False, None) if own is None else ruled(own, functools.partial(call, self), inputs, named)
        return result if done else call(self, *inputs, **named)

    text = f"Operator class of that name: `ops.{name}({arguments})(…)`.\n\n    {doc}".rstrip()
    members = {"_arguments": signature, "__call__": __call__, "__doc__": text, "__module__": __name__}
    return type(name, (Primitive,), members)


# Classes without constructor arguments that run one function.
SAME: dict[str, Any] = {
    "Abs": math.abs, "Neg": math.neg, "Sign": math.sign, "Square": math.square, "Exp": math.exp, "Expm1": math.expm1,
    "Log": math.log, "Log1p": math.log1p, "Sqrt": math.sqrt, "Rsqrt": math.rsqrt, "Reciprocal": math.reciprocal,
    "Inv": math.reciprocal, "Sin": math.sin, "Cos": math.cos, "Tan": math.tan, "Sinh": math.sinh, "Cosh": math.cosh,
    "Asinh": math.asinh, "Acosh": math.acosh, "Atanh": math.atanh, "Tanh": math.tanh, "Erf": math.erf, "Erfc": math.erfc,
    "Floor": math.floor, "Ceil": math.ceil, "Round": math.round, "Rint": math.round, "Trunc": math.trunc, "IsNan": math.isnan,
    "IsInf": math.isinf, "IsFinite": math.isfinite, "LogicalNot": math.logical_not, "Invert": math.invert, "Add": math.add,
    "TensorAdd": math.add, "Sub": math.sub, "Mul": math.mul, "Div": math.div, "RealDiv": math.div, "FloorDiv": math.floor_div,
    "FloorMod": math.floor_mod, "Mod": math.floor_mod, "Pow": math.pow, "Maximum": math.maximum, "Minimum": math.minimum,
    "Equal": math.equal, "NotEqual": math.not_equal, "Less": math.less, "LessEqual": math.less_equal, "Greater": math.greater,
    "GreaterEqual": math.greater_equal, "LogicalAnd": math.logical_and, "LogicalOr": math.logical_or,
    "LogicalXor": math.logical_xor, "BitwiseAnd": math.bitwise_and, "BitwiseOr": math.bitwise_or,
    "BitwiseXor": math.bitwise_xor, "SquaredDifference": math.squared_difference, "DivNoNan": math.div_no_nan,
    "Xlogy": math.xlogy, "AddN": math.addn, "AccumulateNV2": math.addn, "ReLU": activation.relu, "ReLU6": activation.relu6,
    "Sigmoid": activation.sigmoid, "Softsign": activation.softsign, "Mish": activation.mish, "FastGeLU": activation.fast_gelu,
    "HSwish": activation.hardswish, "HSigmoid": activation.hardsigmoid, "PReLU": activation.prelu, "SiLU": activation.silu,
    "Softplus": activation.softplus, "SeLU": activation.selu,
    "SoftmaxCrossEntropyWithLogits": losses.softmax_cross_entropy_with_logits, "Reshape": array.reshape,
    "Transpose": array.transpose, "ExpandDims": array.expand_dims, "Cast": array.cast, "Shape": array.shape,
    "DType": array.dtype, "Rank": array.rank, "Size": array.size, "Select": indexing.select,
    "MaskedFill": indexing.masked_fill, "ZerosLike": creation.zeros_like, "OnesLike": creation.ones_like,
    "Fill": creation.fill, "Zeros": creation.zeros, "Ones": creation.ones, "Eye": creation.eye, "Slice": joining.slice,
    "Tile": array.tile, "GatherNd": indexing.gather_nd, "ScatterNd": indexing.scatter_nd, "GatherD": indexing.gather_elements,
    "TensorScatterAdd": indexing.tensor_scatter_add, "TensorScatterSub": indexing.tensor_scatter_sub,
    "UnsortedSegmentSum": indexing.unsorted_segment_sum, "Identity": array.identity, "Depend": array.depend,
    "StopGradient": array.stop_gradient, "Diag": indexing.diag, "LinSpace": creation.linspace,
    "TupleToArray": creation.tuple_to_array, "ScalarToTensor": creation.scalar_to_tensor, "Lerp": math.lerp,
    "Addcmul": math.addcmul, "Addcdiv": math.addcdiv, "Range": creation.range_, "Unique": host.unique,
}  # fmt: skip


def _batch_norm(self: Any, x: Tensor, scale: Any, bias: Any, mean: Any, variance: Any) -> Any:
    """(y, mean, variance, mean, variance); training moves the Parameters mean and variance by `momentum` towards the
    batch's.
    """
    return normalization.running_batch_norm(
        x, scale, bias, mean, variance, self.is_training, self.momentum, self.epsilon
    )


def _pool(self: Any, owner: str) -> tuple[Any, Any, str]:
    kernel, stride = (_two(owner, v) for v in (self.kernel_size, self.strides))
    return kernel, stride, self.pad_mode.lower()


def _two(owner: str, value: Any) -> tuple[int, ...]:
    return int_tuple(owner, "kernel_size and strides", linear.spatial(value, 2), 2)


def _max_pool(self: Any, x: Tensor) -> Any:
    kernel, stride, mode = _pool(self, "MaxPool")
    return apply(lambda n: pooling.max_pool_node(n, "MaxPool", kernel, stride, mode, 0, (1, 1), False, False), x)


def _max_pool_argmax(self: Any, x: Tensor) -> Any:
    kernel, stride, mode = _pool(self, "MaxPoolWithArgmax")
    return apply(lambda n: pooling.max_pool_node(n, "MaxPoolWithArgmax", kernel, stride, mode, 0, (1, 1), False, True), x)


def _avg_pool(self: Any, x: Tensor) -> Any:
    kernel, stride, mode = _pool(self, "AvgPool")
    return apply(lambda n: pooling.avg_pool_node(n, "AvgPool", kernel, stride, mode, 0, False, True, None), x)


def _conv2d(self: Any, x: Tensor, weight: Tensor) -> Any:
    kernel = int_tuple("Conv2D", "kernel_size", self.kernel_size, 2)
    if tuple(weight.shape[2:]) != kernel or weight.shape[0] != self.out_channel:
        expected = f"({self.out_channel}, C/{self.group}, {kernel[0]}, {kernel[1]})"
        raise ValueError(f"Conv2D: expected a weight of shape {expected}, found {weight.shape}")
    return linear.conv2d(x, weight, None, self.stride, self.pad_mode, self.pad, self.dilation, self.group)


def _layer_norm(self: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
    def run(n: Any, g: Any, b: Any) -> Any:
        first, wide = self.begin_norm_axis % n.type.rank, normalization.wide_enough(n)
        middle, variance = normalization.moments(wide, tuple(range(first, n.type.rank)))
        lead = self.begin_params_axis % n.type.rank
        shape = (*(1,) * lead, *n.shape[lead:])
        g, b = (reshape(to_dtype(v, wide.dtype), shape=shape) for v in (g, b))
        y = (wide - middle) * rsqrt(variance + self.epsilon) * g + b
        return tuple(to_dtype(v, n.dtype) for v in (y, middle, variance))

    return apply(run, x, gamma, beta)


def _one_hot(self: Any, indices: Any, depth: int, on_value: Any, off_value: Any) -> Any:
    return indexing.one_hot(indices, depth, on_value, off_value, self.axis)


def _dropout(self: Any, x: Tensor) -> Any:
    return random.dropped(x, 1.0 - self.keep_prob, random.fresh_key())


def _sparse_softmax_ce(self: Any, logits: Tensor, labels: Tensor) -> Any:
    loss = losses.cross_entropy(logits, labels)
    if not self.is_grad:
        return loss
    one_hot = indexing.one_hot(labels, logits.shape[-1], 1.0, 0.0)
    return (activation.softmax(logits) - one_hot) / logits.shape[0]


def _cum_sum(self: Any, x: Tensor, axis: int) -> Any:
    x = joining.flip(x, axis) if self.reverse else x
    total = reduction.cumsum(x, axis)
    total = total - x if self.exclusive else total
    return joining.flip(total, axis) if self.reverse else total


def _nll(self: Any, x: Tensor, target: Tensor, weight: Tensor) -> Any:
    loss = losses.nll_loss(x, target, weight, self.ignore_index, self.reduction)
    kept = array.cast(math.not_equal(target, self.ignore_index), weight.dtype)
    return loss, reduction.reduce_sum(indexing.gather(weight, target, 0) * kept)


def _sparse_gather(self: Any, x: Tensor, indices: Tensor, axis: int) -> Any:
    """The slices of x at `indices` along `axis`; along axis 0 the gradient by x is a RowTensor."""
    return indexing.gather_rows(x, indices, axis)


def _embedding_lookup(self: Any, input_params: Tensor, input_indices: Tensor, offset: int) -> Any:
    """The rows of input_params at input_indices - offset, zeros out of range; the gradient by input_params is a
    RowTensor.

    >>> import graphopt as ms
    >>> table = ms.Tensor([[8.0, 9.0], [10.0, 11.0]])
    >>> ms.ops.EmbeddingLookup()(table, ms.Tensor([5, 2]), 4).asnumpy().tolist()
    [[10.0, 11.0], [0.0, 0.0]]
    """
    return indexing.embedding_lookup(input_params, input_indices, offset)


def _mat_mul(self: Any, x: Tensor, y: Tensor) -> Any:
    def run(a: Any, b: Any) -> Any:
        a, b = promoted(a, b)
        return products.matmul_flags(a, b, self.transpose_a, self.transpose_b)

    return apply(run, x, y)


# name: (constructor arguments, call)
WITH_ARGUMENTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "MatMul": (
        "transpose_a=False, transpose_b=False",
        _mat_mul,
    ),
    "BatchMatMul": (
        "transpose_a=False, transpose_b=False",
        _mat_mul,
    ),
    "ReduceSum": ("keep_dims=False, skip_mode=False", lambda s, x, axis=(): reduction.reduce_sum(x, axis, s.keep_dims)),
    "ReduceMean": ("keep_dims=False", lambda s, x, axis=(): reduction.mean(x, axis, s.keep_dims)),
    "ReduceMax": ("keep_dims=False", lambda s, x, axis=(): reduction.amax(x, axis, s.keep_dims)),
    "ReduceMin": ("keep_dims=False", lambda s, x, axis=(): reduction.amin(x, axis, s.keep_dims)),
    "ReduceProd": ("keep_dims=False", lambda s, x, axis=(): reduction.prod(x, axis, s.keep_dims)),
    "ReduceAll": ("keep_dims=False", lambda s, x, axis=(): reduction.all(x, axis, s.keep_dims)),
    "ReduceAny": ("keep_dims=False", lambda s, x, axis=(): reduction.any(x, axis, s.keep_dims)),
    "Argmax": (
        "axis=-1, output_type=None",
        lambda s, x: array.cast(reduction.argmax(x, s.axis), s.output_type or int32),
    ),
    "Argmin": (
        "axis=-1, output_type=None",
        lambda s, x: array.cast(reduction.argmin(x, s.axis), s.output_type or int32),
    ),
    "ArgMaxWithValue": ("axis=0, keep_dims=False", lambda s, x: reduction.argmax_with_value(x, s.axis, s.keep_dims)),
    "ArgMinWithValue": ("axis=0, keep_dims=False", lambda s, x: reduction.argmin_with_value(x, s.axis, s.keep_dims)),
    "CumSum": ("exclusive=False, reverse=False", _cum_sum),
    "Softmax": ("axis=-1", lambda s, x: activation.softmax(x, s.axis)),
    "LogSoftmax": ("axis=-1", lambda s, x: activation.log_softmax(x, s.axis)),
    "Elu": ("alpha=1.0", lambda s, x: activation.elu(x, s.alpha)),
    "GeLU": ("", lambda s, x: activation.gelu(x, "tanh")),
    "LeakyReLU": ("alpha=0.2", lambda s, x: activation.leaky_relu(x, s.alpha)),
    "BiasAdd": ("data_format='NCHW'", lambda s, x, b: linear.bias_add(x, b)),
    "Conv2D": (
        "out_channel, kernel_size, mode=1, pad_mode='valid', pad=0, stride=1, dilation=1, group=1, data_format='NCHW'",
        _conv2d,
    ),
    "MaxPool": ("kernel_size=1, strides=1, pad_mode='valid', data_format='NCHW'", _max_pool),
    "MaxPoolWithArgmax": ("kernel_size=1, strides=1, pad_mode='valid', data_format='NCHW'", _max_pool_argmax),
    "AvgPool": ("kernel_size=1, strides=1, pad_mode='valid', data_format='NCHW'", _avg_pool),
    "BatchNorm": ("is_training=False, epsilon=1e-5, momentum=0.1, data_format='NCHW'", _batch_norm),
    "LayerNorm": ("begin_norm_axis=1, begin_params_axis=1, epsilon=1e-7", _layer_norm),
    "L2Normalize": ("axis=0, epsilon=1e-4", lambda s, x: normalization.l2_normalize(x, s.axis, s.epsilon)),
    "Dropout": ("keep_prob=0.5, Seed0=0, Seed1=0", _dropout),
    "OneHot": ("axis=-1", _one_hot),
    "Gather": ("batch_dims=0", lambda s, x, indices, axis: indexing.gather(x, indices, axis, s.batch_dims)),
    "SparseGatherV2": ("", _sparse_gather),
    "EmbeddingLookup": ("", _embedding_lookup),
    "Concat": ("axis=0", lambda s, tensors: joining.concat(tensors, s.axis)),
    "Stack": ("axis=0", lambda s, tensors: joining.stack(tensors, s.axis)),
    "Unstack": ("axis=0, num=None", lambda s, x: joining.unstack(x, s.axis)),
    "Split": ("axis=0, output_num=1", lambda s, x: joining.split_equal(x, s.axis, s.output_num)),
    "Squeeze": ("axis=()", lambda s, x: array.squeeze(x, s.axis)),
    "Flatten": ("", lambda s, x: array.reshape(x, (x.shape[0], -1)) if x.size else array.flatten(x)),
    "BroadcastTo": ("shape", lambda s, x: array.broadcast_to(x, s.shape)),
    "StridedSlice": (
        "begin_mask=0, end_mask=0, ellipsis_mask=0, new_axis_mask=0, shrink_axis_mask=0",
        lambda s, x, begin, end, strides: joining.strided_slice(
            x, begin, end, strides, s.begin_mask, s.end_mask, s.ellipsis_mask, s.new_axis_mask, s.shrink_axis_mask
        ),
    ),
    "ReverseV2": ("axis", lambda s, x: joining.flip(x, s.axis)),
    "Pad": ("paddings", lambda s, x: joining.pad(x, tuple(n for pair in reversed(s.paddings) for n in pair))),
    "SmoothL1Loss": ("beta=1.0, reduction='none'", lambda s, x, y: losses.smooth_l1_loss(x, y, s.beta, s.reduction)),
    "NLLLoss": ("reduction='mean', ignore_index=-100", _nll),
    "KLDivLoss": ("reduction='mean'", lambda s, x, y: losses.kl_div(x, y, s.reduction)),
    "BinaryCrossEntropy": ("reduction='mean'", lambda s, x, y, w=None: losses.binary_cross_entropy(x, y, w, s.reduction)),
    "BCEWithLogitsLoss": (
        "reduction='mean'",
        lambda s, x, y, w=None, p=None: losses.binary_cross_entropy_with_logits(x, y, w, p, s.reduction),
    ),
    "SparseSoftmaxCrossEntropyWithLogits": ("is_grad=False", _sparse_softmax_ce),
    "Assign": ("", lambda s, variable, value: assign(variable, value)),
    "AssignAdd": ("", lambda s, variable, value: assign_add(variable, value)),
    "AssignSub": ("", lambda s, variable, value: assign_sub(variable, value)),
    "ApplyGradientDescent": ("use_locking=False", lambda s, variable, alpha, delta: assign_sub(variable, delta * alpha)),
    "ApplyMomentum": (
        "use_nesterov=False, use_locking=False, gradient_scale=1.0",
        lambda s, variable, accumulation, learning_rate, gradient, momentum: apply_momentum(
            variable, accumulation, learning_rate, gradient, momentum, s.use_nesterov, s.gradient_scale
        ),
    ),
    **ROW_UPDATES,
    "StandardNormal": ("seed=0, seed2=0", lambda s, shape: random.standard_normal(shape)),
    "UniformReal": ("seed=0, seed2=0", lambda s, shape: random.rand(shape)),
}


def _plain(function: Any) -> Callable[..., Any]:
    return lambda self, *inputs, **named: function(*inputs, **named)


CLASSES: dict[str, type[Primitive]] = {
    name: primitive(name, "", _plain(function), (function.__doc__ or "").strip())
    for name, function in SAME.items()
} | {
    name: primitive(name, arguments, call, (call.__doc__ or "").strip())
    for name, (arguments, call) in WITH_ARGUMENTS.items()
}
globals().update(CLASSES)

if TYPE_CHECKING:

    def __getattr__(name: str) -> type[Primitive]:
        """The classes made from the tables, under their names."""
