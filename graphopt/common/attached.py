"""The names that other modules attach to Tensor, listed for the type checker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.common.tensor import Tensor


class Attached:
    """Base of Tensor, empty at run time. `common.arithmetic`, `common.indexing`, `common.methods` and `ops.methods`
    attach what is listed here.
    """

    if TYPE_CHECKING:

        def _operator(self, other: Any) -> Tensor:
            raise NotImplementedError

        def _sign(self) -> Tensor:
            raise NotImplementedError

        def _method(self, *args: Any, **kwargs: Any) -> Any: ...

        def register_hook(self, hook_fn: Any) -> Any: ...

        def __getitem__(self, index: Any) -> Tensor:
            raise NotImplementedError

        def __setitem__(self, index: Any, value: Any) -> None: ...

        __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = __matmul__ = _operator
        __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = __rmatmul__ = _operator
        __and__ = __or__ = __xor__ = __rand__ = __ror__ = __rxor__ = __lt__ = __le__ = __gt__ = __ge__ = _operator
        __neg__ = __pos__ = __abs__ = __invert__ = _sign
        abs = absolute = acosh = add = addmm = all = any = argmax = argmin = asinh = astype = atanh = _method
        bitwise_and = bitwise_or = bitwise_xor = bmm = bool = broadcast_to = ceil = chunk = clamp = clip = cos = _method
        cosh = count_nonzero = cumsum = div = divide = equal = erf = erfc = exp = expand = expand_as = _method
        expand_dims = expm1 = flatten = flip = float = floor = floor_div = floor_divide = floor_mod = fmod = _method
        gather = gather_elements = ge = gelu = greater = greater_equal = gt = half = index_select = int = _method
        isfinite = isinf = isnan = le = less = less_equal = log = log10 = log1p = log2 = log_softmax = _method
        logical_and = logical_not = logical_or = logical_xor = logsumexp = long = lt = masked_fill = matmul = _method
        max = maximum = mean = min = minimum = moveaxis = movedim = mul = multiply = mv = narrow = neg = _method
        negative = nonzero = norm = not_equal = outer = permute = pow = prod = ravel = reciprocal = relu = _method
        remainder = repeat_interleave = reshape = reshape_as = roll = round = rsqrt = select = sigmoid = sign = _method
        silu = sin = sinh = softmax = split = sqrt = square = squeeze = std = stop_gradient = sub = subtract = _method
        sum = swapaxes = swapdims = t = tan = tanh = tile = to = transpose = tril = triu = true_divide = trunc = _method
        type_as = unbind = unique = unsqueeze = var = view = view_as = where = xlogy = _method
        T: Any
