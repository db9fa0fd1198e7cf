"""The context: execution mode and what goes with it, under MindSpore's keywords."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graphopt import config
from graphopt.common import nan_check
from graphopt.common.checks import check_bytes, meant
from graphopt.common.tensor import bump

GRAPH_MODE = 0
PYNATIVE_MODE = 1
STRICT, COMPATIBLE, LAX = 0, 1, 2  # values of jit_syntax_level

_KINDS: dict[str, tuple[type, ...]] = {
    "mode": (int,),
    "device_target": (str,),
    "device_id": (int,),
    "save_graphs": (bool, int),
    "save_graphs_path": (str,),
    "deterministic": (str,),
    "precompile_only": (bool,),
    "max_call_depth": (int,),
    "enable_compile_cache": (bool,),
    "compile_cache_path": (str,),
    "runtime_num_threads": (int,),
    "inter_op_parallel_num": (int,),
    "memory_optimize_level": (str,),
    "jit_level": (str,),
    "jit_config": (dict,),
    "jit_syntax_level": (int,),
    "debug_level": (int,),
    "pynative_synchronize": (bool,),
    "check_bprop": (bool,),
    "check_nan": (str,),
    "enable_sparse": (bool,),
    "grad_for_scalar": (bool,),
    "env_config_path": (str,),
    "reserve_class_name_in_scope": (bool,),
    "enable_graph_kernel": (bool,),
    "graph_kernel_flags": (str,),
    "enable_reduce_precision": (bool,),
    "support_binary": (bool,),
    "print_file_path": (str,),
    "op_timeout": (int,),
    "memory_budget": (str, int),
}

_CHOICES: dict[str, tuple[Any, ...]] = {
    "mode": (GRAPH_MODE, PYNATIVE_MODE),
    "save_graphs": (False, True, 0, 1, 2, 3),
    "deterministic": ("ON", "OFF"),
    "memory_optimize_level": ("O0", "O1"),
    "jit_level": ("O0", "O1", "O2"),
    "jit_syntax_level": (0, 1, 2),
    "debug_level": (0, 1),
    "check_nan": nan_check.MODES,
}

_LEAST = {"device_id": 0, "max_call_depth": 1, "runtime_num_threads": 0, "inter_op_parallel_num": 0, "op_timeout": 0}

_JIT_CONFIG = {"jit_level": ("O0", "O1", "O2"), "infer_boost": ("on", "off")}


def _defaults() -> dict[str, Any]:
    return {
        "mode": PYNATIVE_MODE,
        "device_target": "CPU",
        "device_id": 0,
        "save_graphs": 0,
        "save_graphs_path": "",
        "deterministic": "ON",
        "precompile_only": False,
        "max_call_depth": 1000,
        "enable_compile_cache": True,
        "compile_cache_path": "",
        "runtime_num_threads": 0,
        "inter_op_parallel_num": 0,
        "memory_optimize_level": "O0",
        "jit_level": "O0",
        "jit_config": {},
        "jit_syntax_level": 2,
        "debug_level": 0,
        "pynative_synchronize": False,
        "check_bprop": False,
        "check_nan": "off",
        "enable_sparse": False,
        "grad_for_scalar": False,
        "env_config_path": "",
        "reserve_class_name_in_scope": True,
        "enable_graph_kernel": False,
        "graph_kernel_flags": "",
        "enable_reduce_precision": True,
        "support_binary": False,
        "print_file_path": "",
        "op_timeout": 900,
        "memory_budget": "",
    }


@dataclass
class _Context:
    values: dict[str, Any] = field(default_factory=_defaults)


_context = _Context()


def set_context(**kwargs: Any) -> None:
    """Choose how programs run.

    mode:                GRAPH_MODE compiles a Cell's whole call, PYNATIVE_MODE (the default) runs op by op.
    device_target:       "CPU".
    save_graphs, save_graphs_path: write every stage of each compile as text into that folder.
    runtime_num_threads: width of the thread team; 0 lets the machine decide.
    enable_compile_cache, compile_cache_path: whether, and where, compiled code is kept on disk.
    check_nan:           "first": a step whose outputs or gradients are not finite changes nothing and raises
                         NonFiniteError, a FloatingPointError, which names the op that made the first NaN or infinity,
                         its line, its Cell, the trip of a loop and its operands' ranges; for less than 2 % of the
                         time. "off" is the default.
    memory_budget:       the most memory that the temporaries of a compiled step may take, "512MB" or a number of bytes;
                         values are computed again where that is needed to stay below it. "" for no limit.
    The other keywords are MindSpore's; they are checked and have no effect on a CPU.

    Errors: TypeError for a value of another type; ValueError for an unknown keyword, device or value. Nothing is
            changed when one keyword is wrong.

    >>> import graphopt as ms
    >>> ms.set_context(mode=ms.GRAPH_MODE)
    >>> ms.get_context("mode")
    0
    >>> ms.set_context(mode=ms.PYNATIVE_MODE)
    """
    for name, value in kwargs.items():
        _check(name, value)
    _context.values.update(kwargs)
    _switch(kwargs)


def _check(name: str, value: Any) -> None:
    _check_kind(name, value)
    if name == "device_target" and value != "CPU":
        raise ValueError(f"set_context: device_target must be 'CPU', the only device graphopt compiles for, found {value!r}")
    if name == "mode" and value not in _CHOICES["mode"]:
        raise ValueError(f"set_context: mode must be GRAPH_MODE (0) or PYNATIVE_MODE (1), found {value}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"set_context: {name} must be one of {', '.join(map(repr, _CHOICES[name]))}, found {value!r}")
    if name in _LEAST and value < _LEAST[name]:
        raise ValueError(f"set_context: {name} must be >= {_LEAST[name]}, found {value}")
    if name == "memory_budget" and value != "":
        check_bytes("set_context", name, value)
    if name == "jit_config":
        for key, chosen in value.items():
            if key not in _JIT_CONFIG or chosen not in _JIT_CONFIG[key]:
                known = "; ".join(f"{k}: {', '.join(v)}" for k, v in _JIT_CONFIG.items())
                raise ValueError(f"set_context: jit_config may hold {known}; found {key!r}: {chosen!r}")


def _check_kind(name: str, value: object) -> None:
    kinds = _KINDS.get(name)
    if kinds is None:
        raise ValueError(_unknown("set_context", name))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(k.__name__ for k in kinds)
        raise TypeError(f"set_context: {name} must be {expected}, found {value!r} of type {type(value).__name__}")


def _unknown(owner: str, name: object) -> str:
    return f"{owner}: unknown keyword {name!r}{meant(str(name), _KINDS) or '; known are ' + ', '.join(sorted(_KINDS))}"


def _switch(changed: dict[str, Any]) -> None:
    """Hand on to the compiler's switches what concerns it."""
    values = _context.values
    if "save_graphs" in changed or "save_graphs_path" in changed:
        config.set_config(dump=(values["save_graphs_path"] or "graphs") if values["save_graphs"] else "")
    if "check_nan" in changed:
        nan_check.set_mode(values["check_nan"])
    if "memory_budget" in changed:
        bump()
    if "runtime_num_threads" in changed:
        config.set_config(threads=values["runtime_num_threads"])
    if "enable_compile_cache" in changed or "compile_cache_path" in changed:
        config.set_config(cache=values["compile_cache_path"] if values["enable_compile_cache"] else "off")


def set_device(device_target: str, device_id: int = 0) -> None:
    """Choose the device: "CPU".

    Errors: ValueError for another one.

    >>> import graphopt as ms
    >>> ms.set_device("CPU")
    >>> ms.get_context("device_target")
    'CPU'
    """
    set_context(device_target=device_target, device_id=device_id)


def get_context(attr_key: str) -> Any:
    """The value of a context keyword.

    Errors: ValueError for an unknown keyword.

    >>> import graphopt as ms
    >>> ms.get_context("device_target")
    'CPU'
    """
    if attr_key not in _KINDS:
        raise ValueError(_unknown("get_context", attr_key))
    return _context.values[attr_key]


def reset_context() -> None:
    """Back to the defaults.

    >>> import graphopt as ms
    >>> ms.set_context(mode=ms.GRAPH_MODE)
    >>> ms.reset_context()
    >>> ms.get_context("mode") == ms.PYNATIVE_MODE
    True
    """
    _context.values = _defaults()
    nan_check.set_mode("off")
    bump()


def graph_mode() -> bool:
    """Whether outermost calls are compiled as a whole."""
    return _context.values["mode"] == GRAPH_MODE


def memory_budget() -> int | None:
    """The most bytes of temporaries; None for no limit."""
    value = _context.values["memory_budget"]
    return None if value == "" else check_bytes("set_context", "memory_budget", value)
