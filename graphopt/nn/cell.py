"""Cell: the base of networks, layers, losses and optimizers."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from graphopt import context
from graphopt.common.border import told
from graphopt.common.branching import prepared
from graphopt.common.checks import check_bool
from graphopt.common.compiled import CompiledFunction
from graphopt.common.derivative import with_derivative
from graphopt.common.dispatch import OTHERWISE
from graphopt.common.dtype import bfloat16, float16, float32
from graphopt.common.hooks import HookHandle, with_backward_hooks
from graphopt.common.journal import UndoneOnError
from graphopt.common.parameter import Parameter, ParameterTuple
from graphopt.common.precision import Rule, computing_by
from graphopt.common.signature import parameters_of, positional_names, refuse_array, refuse_value, tensor_arguments
from graphopt.common.symbol import Specs, check_specs, described, leading, most_rows
from graphopt.common.tensor import Tensor, bump
from graphopt.common.trace import Trace, active
from graphopt.errors import NamingError
from graphopt.ir.types import DType
from graphopt.nn.tree import CellTree
from graphopt.where import cell_path, enter_cell, leave_cell

_MISSING = object()
_OWN = frozenset(("_version", "_last_change", "_traced", "_steps", "_scope_name", "_computing", "_training", "_grad")) | {
    "_inputs",
    "param_prefix",
    "_gradient_functions",
}


class Cell(CellTree):
    """A computation with parameters: subclasses assign Parameters and Cells in `__init__` and compute in `construct`.

    auto_prefix: whether the parameters of child Cells are named after the path to them (`conv1.weight`).
    flags:       attributes to set.

    Calling a Cell runs `construct`. In GRAPH_MODE the outermost call is traced and compiled once per signature: shapes
    and dtypes of the arguments, values of ints, bools, strings and None, structure of containers, which Cells are
    training, and the attributes of the Cells. `compile_cache` counts the compiles and explains each; signatures that
    differ in a number of rows alone share one after `set_inputs`.

    Errors: TypeError, naming the argument, for arguments that are no Tensors, numbers or containers of them, or do not
            fit `construct`. A call that fails leaves all Parameters as they were in GRAPH_MODE.

    >>> import graphopt as ms
    >>> class Twice(ms.nn.Cell):
    ...     def construct(self, x):
    ...         return x * 2
    >>> print(Twice()(ms.Tensor([1.0, 2.0])))
    [2. 4.]
    """

    _version = 0
    _last_change: tuple[str, Any, Any] | None = None
    _traced = False
    _computing = False
    _scope_name = ""
    _steps: CompiledFunction | None = None
    _wants_tensors: tuple[str, ...] = ()
    _unnamed: tuple[str, ...] = ()  # children that do not show in the paths of Cells

    def __init__(self, auto_prefix: bool = True, flags: dict[str, Any] | None = None):
        self._params: OrderedDict[str, Parameter] = OrderedDict()
        self._cells: OrderedDict[str, Cell | None] = OrderedDict()
        self._auto_prefix = auto_prefix
        self._training = False
        self._grad = False
        self._to_float: DType | None = None
        self._precision: Rule | None = None
        self._recompute_outputs: bool | None = None
        self._inputs: tuple[Any, ...] | dict[str, Any] | None = None
        self._pre_hooks: dict[int, tuple[Callable[..., Any], bool]] = {}
        self._forward_hooks: dict[int, tuple[Callable[..., Any], bool]] = {}
        self._backward_pre_hooks: dict[int, tuple[Callable[..., Any], bool]] = {}
        self._backward_hooks: dict[int, tuple[Callable[..., Any], bool]] = {}
        self._steps = None
        self.param_prefix = ""
        if flags:
            self.add_flags(**flags)

    # attributes -----------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        params = self.__dict__.get("_params")
        if params is not None and name in params:
            return self._read_parameter(params[name])
        cells = self.__dict__.get("_cells")
        if cells is not None and name in cells:
            return cells[name]
        raise AttributeError(f"The {type(self).__name__!r} object has no attribute {name!r}.", name=name, obj=self)

    def _read_parameter(self, parameter: Parameter) -> Any:
        """A Parameter as `construct` sees it: in the dtype of `to_float` while it runs, when training changes it."""
        kind = self._to_float
        if kind is None or not self._computing or not parameter.requires_grad or not parameter.dtype.is_float:
            return parameter
        return parameter if parameter.dtype is kind else parameter.astype(kind)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN or (isinstance(getattr(type(self), name, None), property)):
            object.__setattr__(self, name, value)
            return
        self._note_change(name, value)
        params, cells = self.__dict__.get("_params"), self.__dict__.get("_cells")
        if isinstance(value, (Parameter, Cell, ParameterTuple)):
            if params is None or cells is None:
                raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning {name!r}")
        if isinstance(value, Parameter):
            self.__dict__.pop(name, None)
            cells.pop(name, None)  # type: ignore[union-attr]
            self.insert_param_to_cell(name, value)
        elif isinstance(value, Cell):
            self._set_child(name, value)
        elif params is not None and name in params:
            self._set_param_value(name, value)
        elif cells is not None and name in cells:
            if value is not None:
                what = f"{name!r} is a child Cell, expected a Cell or None, found {value!r} of type {type(value).__name__}"
                raise TypeError(f"{type(self).__name__}: {what}")
            cells[name] = None
        else:
            if isinstance(value, ParameterTuple):
                for item in value:
                    self.insert_param_to_cell(item.name, item, check_name_contain_dot=False)
            object.__setattr__(self, name, value)

    def _set_param_value(self, name: str, value: Any) -> None:
        if value is None:
            del self._params[name]
            object.__setattr__(self, name, None)
        elif isinstance(value, Tensor):
            self._params[name].set_data(value)
        else:
            what = f"{name!r} is a Parameter, expected a Parameter, Tensor or None"
            raise TypeError(f"{type(self).__name__}: {what}, found {value!r} of type {type(value).__name__}")

    def _set_child(self, name: str, value: Cell) -> None:
        self.__dict__.pop(name, None)
        self._params.pop(name, None)
        self._cells[name] = value
        value._scope_name = "" if name in self._unnamed else name
        if self._auto_prefix:
            value.update_parameters_name(name + ".")

    def __delattr__(self, name: str) -> None:
        self._note_change(name, None)
        for table in (self._params, self._cells):
            if name in table:
                del table[name]
                return
        object.__delattr__(self, name)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes along: everything but what was compiled."""
        left_out = ("_steps", "_gradient_functions", "_traced")
        return {k: v for k, v in self.__dict__.items() if k not in left_out} | {"_steps": None}

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._params, *self._cells]

    def _note_change(self, name: str, value: Any) -> None:
        """A compiled graph may have read the attribute: if it changes, graphs that visited this Cell are traced again."""
        if not self._traced:
            return
        old = self.__dict__.get(name, _MISSING)
        if old is _MISSING:
            old = self._params.get(name, self._cells.get(name))
        if _same(old, value) or (isinstance(value, Tensor) and value._trace is not None and value._trace is active()):
            return
        if isinstance(old, Parameter) and isinstance(value, Tensor) and not isinstance(value, Parameter):
            return
        self._last_change = (name, old, value)
        self._changed()

    def _changed(self) -> None:
        self._version += 1
        bump()

    def _trace_flags(self) -> tuple[Any, ...]:
        return (self._training,)

    # calling --------------------------------------------------------------------------------------------------

    def construct(self, *args: Any, **kwargs: Any) -> Any:
        """The computation; every subclass defines it.

        Errors: NotImplementedError in the base.
        """
        raise NotImplementedError(f"{type(self).__name__}: define construct(self, ...)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        steps = self._steps
        if steps is not None and steps.shortcut is not None and not kwargs and active() is None and context.graph_mode():
            done = steps.shortcut(args)
            if done is not OTHERWISE:
                return done
        if "_params" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() in __init__")
        token = enter_cell(self._scope_name)
        try:
            trace = active()
            if self._wants_tensors:
                self._check_tensors(args)
            if trace is not None:
                trace.watch(self)
                return self._run(args, kwargs)
            if context.graph_mode():
                return self._compiled()(args, kwargs)
            self._refuse_arrays(args)
            with UndoneOnError():
                return self._run(args, kwargs)
        except Exception as error:
            raise told(error, self.construct, args, kwargs, self._label()) from error.__cause__
        finally:
            leave_cell(token)

    def _signature(self) -> inspect.Signature | None:
        """The arguments of a call, for their names; Cells that hand theirs on to another say that one's."""
        return parameters_of(self.construct)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("graphopt.") and "construct" in vars(cls):
            cls._wants_tensors = tensor_arguments(cls.construct)

    def _check_tensors(self, args: tuple[Any, ...]) -> None:
        """Refuse containers where a layer takes a Tensor; numbers become 0-d Tensors as in any op."""
        for value, name in zip(args, self._wants_tensors, strict=False):
            if name and not isinstance(value, (Tensor, int, float, np.generic)):
                refuse_value(value, name, self._label())

    def _refuse_arrays(self, args: Iterable[Any]) -> None:
        if any(isinstance(a, np.ndarray) for a in args):
            signature = self._signature()
            names = list(signature.parameters) if signature is not None else []
            for k, value in enumerate(args):
                if isinstance(value, np.ndarray):
                    refuse_array(value, names[k] if k < len(names) else f"arg{k}", self._label())

    def _compiled(self) -> CompiledFunction:
        if self._steps is None:
            self._steps = CompiledFunction(self._label(), self._traced_call, self._signature())
            self._steps.declared = self._declared
        return self._steps

    def _traced_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(args, kwargs)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """construct with hooks, `to_float` or another rule of precision, and the Cell's own derivative."""
        trace = active()
        if trace is not None and self._recompute_outputs is not None:
            trace.recomputed[cell_path()] = self._recompute_outputs
        if trace is not None and self._inputs is not None:
            self._declare(trace, args, kwargs)
        for hook, with_kwargs in list(self._pre_hooks.values()):
            changed = hook(self, args, kwargs) if with_kwargs else hook(self, args)
            if with_kwargs and changed is not None:
                args, kwargs = changed
            elif changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        if trace is not None and (self._backward_hooks or self._backward_pre_hooks):
            output = with_backward_hooks(self, self._backward_pre_hooks, self._backward_hooks, self._body, args, kwargs)
        else:
            output = self._body(*args, **kwargs)
        for hook, with_kwargs in list(self._forward_hooks.values()):
            changed = hook(self, args, kwargs, output) if with_kwargs else hook(self, args, output)
            output = output if changed is None else changed
        return output

    def _body(self, *args: Any, **kwargs: Any) -> Any:
        """construct with `to_float` and the Cell's own derivative."""
        if active() is not None and getattr(self, "bprop", None) is not None:
            return with_derivative(self, prepared(self.construct), args, kwargs)
        if self._to_float is not None:
            return self._run_as(self._to_float, args, kwargs)
        if self._precision is not None:
            with computing_by(self._precision):
                return prepared(self.construct)(*args, **kwargs)
        return prepared(self.construct)(*args, **kwargs)

    def _run_as(self, kind: DType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = self._computing
        self._computing = True
        try:
            named = {k: _to_kind(v, kind) for k, v in kwargs.items()}
            with computing_by(None):
                return prepared(self.construct)(*(_to_kind(a, kind) for a in args), **named)
        finally:
            self._computing = before

    @property
    def compile_cache(self) -> CompiledFunction:
        """The compiled signatures of this Cell: `compiles`, `compilations`, `explain()`."""
        return self._compiled()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Trace and compile for these arguments without running."""
        self._compiled().entry(args, kwargs)

    def _run_many(self, rows: Sequence[Sequence[Any]]) -> Any:
        """Call with each row as arguments, in as few native calls as possible: the last one's result."""
        token = enter_cell(self._scope_name)
        try:
            return self._compiled().run_many(rows)
        except Exception as error:
            raise told(error, self.construct, rows[0], {}, self._label()) from error.__cause__
        finally:
            leave_cell(token)

    def compile_and_run(self, *args: Any, **kwargs: Any) -> Any:
        """Compile for these arguments, in whatever mode, and run."""
        return self._compiled()(args, kwargs)

    def set_inputs(self, *inputs: Any, **kwargs: Any) -> None:
        """Say what calls will be given, all arguments or some by name, as Tensors whose sizes may be unknown.

        inputs: a Tensor (or tuple of them) for each argument, `Tensor(shape=[None, 784], dtype=ms.float32)`. A first size
                of None, or a `Symbol`, is symbolic: calls with different ones share a compile, also when the Cell is part
                of a training step. Other unknown sizes are checked for their rank alone, and compiled one by one.

        Code that does something else for some number of rows keeps its meaning: the number then has a compile of its own,
        and `compile_cache.explain()` tells why.
        Errors: ValueError for both kinds of arguments at once, for more than `construct` has, or names it does not have.
                When called, ValueError for a shape that was not declared, TypeError for a dtype.

        >>> import graphopt as ms
        >>> ms.set_context(mode=ms.GRAPH_MODE)
        >>> net = ms.nn.Dense(3, 2)
        >>> net.set_inputs(ms.Tensor(shape=[None, 3], dtype=ms.float32))
        >>> [net(ms.ops.ones((n, 3))).shape for n in (8, 5, 2)]
        [(8, 2), (5, 2), (2, 2)]
        >>> net.compile_cache.compiles
        1
        >>> ms.set_context(mode=ms.PYNATIVE_MODE)
        """
        if inputs and kwargs:
            raise ValueError("set_inputs: expected all arguments by position or some by name, found both")
        signature = self._signature()
        check_specs("set_inputs", inputs or kwargs, signature)
        if inputs and signature is not None:
            try:
                signature.bind_partial(*inputs)
            except TypeError as error:
                raise ValueError(f"set_inputs: {len(inputs)} inputs do not fit {self._label()}: {error}") from None
        self._inputs = kwargs or inputs
        self._changed()

    def get_inputs(self) -> tuple[Any, ...] | None:
        """What `set_inputs` was given."""
        return tuple(self._inputs.values()) if isinstance(self._inputs, dict) else self._inputs

    def _declared(self) -> Specs | None:
        """What `set_inputs` was given, by the arguments' names."""
        if self._inputs is None or isinstance(self._inputs, dict):
            return self._inputs
        return dict(zip(positional_names(self._signature(), len(self._inputs)), self._inputs, strict=True))

    def _declare(self, trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Tell the trace around this call which of its inputs have a symbolic first axis here."""
        specs = self._declared() or {}
        for name, value in [*zip(positional_names(self._signature(), len(args)), args, strict=True), *kwargs.items()]:
            shape = described(specs.get(name))
            if shape is not None and leading(shape) and isinstance(value, Tensor) and value._node is not None:
                trace.declare(value._node, most_rows(shape))

    # children and parameters ----------------------------------------------------------------------------------

    def insert_child_to_cell(self, child_name: str, child_cell: Cell | None) -> None:
        """Add a child Cell.

        Errors: TypeError for a name that is no str or a child that is no Cell; KeyError for a name in use.
        """
        if not isinstance(child_name, str):
            raise TypeError(f"insert_child_to_cell: child_name must be str, found {child_name!r}")
        if child_cell is not None and not isinstance(child_cell, Cell):
            kind = type(child_cell).__name__
            raise TypeError(f"insert_child_to_cell: child_cell must be Cell, found {child_cell!r} of type {kind}")
        if not child_name or "." in child_name or (hasattr(self, child_name) and child_name not in self._cells):
            raise NamingError(f"insert_child_to_cell: child_name {child_name!r} is empty, holds a '.', or is in use")
        self._note_change(child_name, child_cell)
        self._cells[child_name] = child_cell
        if child_cell is not None:
            child_cell._scope_name = child_name

    # state of the whole tree ----------------------------------------------------------------------------------

    def set_train(self, mode: bool = True) -> Cell:
        """Put this Cell and all below it into training (or evaluation) state; dropout and normalization differ."""
        changed = False
        for _, child in self.cells_and_names():
            if child._training is not bool(mode):
                child._training = bool(mode)
                changed = True
        if changed:
            bump()
        return self

    @property
    def training(self) -> bool:
        """Whether the Cell is in training state."""
        return self._training

    @training.setter
    def training(self, mode: bool) -> None:
        if mode is not self._training:
            self.__dict__["_training"] = mode
            bump()

    @property
    def requires_grad(self) -> bool:
        """What `set_grad` set."""
        return self._grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self._grad = value

    def set_grad(self, requires_grad: bool = True) -> Cell:
        """Note that the Cell will be differentiated; gradients work without."""
        self._grad = requires_grad
        return self

    def to_float(self, dst_type: DType) -> Cell:
        """Let this Cell and all below it compute in float16, bfloat16 or float32: inputs and weights are cast on reading.

        Errors: ValueError for another dtype.
        """
        if dst_type not in (float16, bfloat16, float32):
            raise ValueError(f"to_float: dst_type must be float16, bfloat16 or float32, found {dst_type!r}")
        for _, child in self.cells_and_names():
            child._to_float = dst_type
        return self

    def recompute(
        self,
        *,
        use_reentrant: bool = True,
        output_recompute: bool = False,
        early_stop: bool = True,
        context_fn: Callable[..., Any] | None = None,
        mp_comm_recompute: bool = True,
        parallel_optimizer_comm_recompute: bool = False,
    ) -> None:
        """Compute this Cell's values again in the backward pass of a compiled step, instead of keeping them until then.

        Its inputs and outputs are kept; with output_recompute, its outputs are not either. Results stay the same in
        every bit. Inside a loop on Tensors and in PYNATIVE_MODE, where nothing is planned ahead, it has no effect, nor
        have the other arguments, which are MindSpore's.

        Errors: TypeError for an argument that is no bool; ValueError for a context_fn, which nothing here would call.

        >>> import graphopt as ms
        >>> block = ms.nn.SequentialCell([ms.nn.Dense(4, 64), ms.nn.GELU(), ms.nn.Dense(64, 4)])
        >>> block.recompute()
        """
        given = {
            "use_reentrant": use_reentrant,
            "output_recompute": output_recompute,
            "early_stop": early_stop,
            "mp_comm_recompute": mp_comm_recompute,
            "parallel_optimizer_comm_recompute": parallel_optimizer_comm_recompute,
        }
        for name, value in given.items():
            check_bool("recompute", name, value)
        if context_fn is not None:
            raise ValueError("recompute: context_fn must be None: a compiled step runs no Python while it computes again")
        self._recompute_outputs = output_recompute

    def add_flags(self, **flags: Any) -> Cell:
        """Set attributes."""
        for name, value in flags.items():
            setattr(self, name, value)
        return self

    def add_flags_recursive(self, **flags: Any) -> Cell:
        """Set attributes of this Cell and all below it."""
        for _, child in self.cells_and_names():
            child.add_flags(**flags)
        return self

    def apply(self, fn: Callable[[Cell], Any]) -> Cell:
        """Call `fn` with every Cell below this one, children first, then with the Cell itself."""
        for child in self.cells():
            child.apply(fn)
        fn(self)
        return self

    # hooks ----------------------------------------------------------------------------------------------------

    def register_forward_pre_hook(
        self, hook_fn: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> HookHandle:
        """Call `hook_fn(cell, inputs)` before construct; a result other than None replaces the inputs."""
        return self._register(self._pre_hooks, "register_forward_pre_hook", hook_fn, prepend, with_kwargs)

    def register_forward_hook(
        self, hook_fn: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> HookHandle:
        """Call `hook_fn(cell, inputs, output)` after construct; a result other than None replaces the output."""
        return self._register(self._forward_hooks, "register_forward_hook", hook_fn, prepend, with_kwargs)

    def register_backward_pre_hook(self, hook_fn: Callable[..., Any], *, prepend: bool = False) -> HookHandle:
        """Call `hook_fn(cell, grad_outputs)` when the gradients of the outputs have arrived.

        grad_outputs is a tuple with one gradient for each Tensor of the output; a result other than None (such a
        tuple, or the only gradient) replaces it.
        """
        return self._register(self._backward_pre_hooks, "register_backward_pre_hook", hook_fn, prepend, False)

    def register_backward_hook(self, hook_fn: Callable[..., Any], *, prepend: bool = False) -> HookHandle:
        """Call `hook_fn(cell, grad_inputs, grad_outputs)` when the gradients of the inputs are known.

        Both are tuples with one gradient for each Tensor; a result other than None (such a tuple, or the only
        gradient) replaces grad_inputs. In GRAPH_MODE the hook is traced: it runs when the step is compiled, and what
        it computes is part of the step. In forward mode its linear map of grad_inputs is transposed, grad_outputs are zeros.
        Errors: TypeError when hook_fn is no function; in the backward pass ValueError for another number or shape of
                gradients.
        """
        return self._register(self._backward_hooks, "register_backward_hook", hook_fn, prepend, False)

    def _register(self, hooks: dict[int, Any], owner: str, hook: Any, prepend: bool, with_kwargs: bool) -> HookHandle:
        if not callable(hook):
            raise TypeError(f"{owner}: hook_fn must be a function, found {hook!r} of type {type(hook).__name__}")
        handle = HookHandle(hooks, self._changed)
        before = list(hooks.items()) if prepend else []
        if prepend:
            hooks.clear()
        hooks[handle.handle_id] = (hook, with_kwargs)
        hooks.update(before)
        self._changed()
        return handle

    # printing -------------------------------------------------------------------------------------------------

    @property
    def cls_name(self) -> str:
        """The name of the class."""
        return type(self).__name__

    def extend_repr(self) -> str:
        """What a subclass shows of itself between the parentheses."""
        return ""

    def __repr__(self) -> str:
        extra = self.extend_repr()
        children = [(name, child) for name, child in self._cells.items() if child is not None]
        if not children:
            return f"{type(self).__name__}({extra})"
        lines = [extra] if extra else []
        lines += [f"({name}): {child!r}" for name, child in children]
        inner = "\n".join("  " + line for text in lines for line in text.split("\n"))
        return f"{type(self).__name__}(\n{inner}\n)"


def _to_kind(value: Any, kind: DType) -> Any:
    if isinstance(value, Tensor):
        return value.astype(kind) if value.dtype.is_float and value.dtype is not kind else value
    if isinstance(value, (tuple, list)):
        return type(value)(_to_kind(v, kind) for v in value)
    return value


def _same(old: Any, new: Any) -> bool:
    """Whether an attribute has kept its value."""
    if old is new:
        return True
    if isinstance(old, Tensor) or isinstance(new, Tensor) or type(old) is not type(new):
        return False
    if isinstance(old, (tuple, list)):
        return len(old) == len(new) and all(_same(a, b) for a, b in zip(old, new, strict=True))
    return isinstance(old, (int, float, str, bool)) and old == new
