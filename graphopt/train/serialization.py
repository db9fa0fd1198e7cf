"""Checkpoints: Parameters written to a file and read back, in MindSpore's `.ckpt` layout or as safetensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np

from graphopt.common.checks import check_bool, check_choice, check_type, found
from graphopt.common.parameter import Parameter
from graphopt.common.tensor import Tensor, wrap_array
from graphopt.nn.cell import Cell
from graphopt.train import tensor_files

FORMATS = ("ckpt", "safetensors")
_writer = ThreadPoolExecutor(1, thread_name_prefix="graphopt_checkpoint")
_pending: Future[None] | None = None


def save_checkpoint(
    save_obj: Any,
    ckpt_file_name: str,
    integrated_save: bool = True,
    async_save: Any = False,
    append_dict: dict[str, Any] | None = None,
    enc_key: bytes | None = None,
    enc_mode: str = "AES-GCM",
    choice_func: Callable[[str], bool] | None = None,
    crc_check: bool = False,
    format: str = "ckpt",
    **kwargs: Any,
) -> None:
    """Write Parameters to a file that a MindSpore or `load_checkpoint` reads. The file is there whole or not at
    all: a save that fails leaves the one before. The name gets the ending `.<format>` if it has another.

    save_obj:        a Cell (a training Cell has the optimizer's state too), a list of Parameters or of
                     {"name": str, "data": Tensor}, or a dict from names to Parameters, Tensors, arrays or strs.
    integrated_save: no effect: nothing is split between devices.
    async_save:      True, "thread" or "process": values are copied now and written by a thread, one file after
                     the other; an error is raised by the next save, load or `train.wait_for_saves`.
    append_dict:     more entries: int, float, bool, str, Parameter or Tensor.
    choice_func:     from a name to whether it is saved.
    crc_check:       end the file with the CRC32 of its bytes. Without, a value that was damaged later, or a file cut
                     exactly between two entries, is not noticed in a `.ckpt`.
    format:          "ckpt", or "safetensors", which needs the package of that name and holds no strs.

    Errors: TypeError or ValueError for arguments that do not fit; ValueError for two Parameters of one name;
            NotImplementedError for enc_key, encryption is not offered; ImportError for safetensors without the
            package; IsADirectoryError, or the OSError of writing.

    >>> import graphopt as ms, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ms.save_checkpoint(ms.nn.Dense(2, 1), folder + "/net.ckpt", append_dict={"epoch": 3})
    ...     list(ms.load_checkpoint(folder + "/net.ckpt"))
    ['weight', 'bias', 'epoch']
    """
    owner = "save_checkpoint"
    check_choice(owner, "format", format, FORMATS)
    check_type(owner, "save_obj", save_obj, Cell, list, dict)
    check_type(owner, "ckpt_file_name", ckpt_file_name, str)
    check_bool(owner, "integrated_save", integrated_save)
    check_async(owner, async_save)
    check_secret(owner, enc_key, enc_mode, crc_check, format)
    path = os.path.realpath(ckpt_file_name)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{owner}: ckpt_file_name must be a file, found the folder {path}")
    path = path if path.endswith(format) else f"{path}.{format}"
    chosen = {n: v for n, v in _named(save_obj) if choice_func is None or choice_func(n)}
    chosen |= check_appended(owner, append_dict)
    values = {n: _value(v, bool(async_save)) for n, v in chosen.items()}
    wait_for_saves()
    if async_save:
        global _pending
        _pending = _writer.submit(tensor_files.save, path, values, format, crc_check)
    else:
        tensor_files.save(path, values, format, crc_check)


def wait_for_saves() -> None:
    """Wait until what `async_save` began is written.

    Errors: the OSError of writing.

    >>> import tempfile
    >>> import graphopt as ms
    >>> path = tempfile.mkdtemp() + "/net.ckpt"
    >>> ms.save_checkpoint(ms.nn.Dense(2, 1), path, async_save=True)
    >>> ms.train.wait_for_saves()
    >>> sorted(ms.load_checkpoint(path))
    ['bias', 'weight']
    """
    global _pending
    pending, _pending = _pending, None
    if pending is not None:
        pending.result()


def check_async(owner: str, value: Any) -> None:
    """async_save: a bool, "process" or "thread"."""
    check_type(owner, "async_save", value, bool, str)
    if isinstance(value, str):
        check_choice(owner, "async_save", value, ("process", "thread"))


def check_secret(owner: str, key: Any, mode: Any, crc_check: Any, format: str) -> None:
    """enc_key, enc_mode (dec_ for loading) and crc_check; MindSpore raises ValueError for wrong types here."""
    way = "dec" if owner == "load_checkpoint" else "enc"
    kinds_of = (
        (f"{way}_key", key, (bytes, type(None))),
        (f"{way}_mode", mode, str),
        ("crc_check", crc_check, bool),
    )
    for name, value, kinds in kinds_of:
        if not isinstance(value, kinds):
            raise ValueError(f"{owner}: {name} is of the wrong type, found {found(value)}")
    if format == "safetensors" and (key is not None or mode != "AES-GCM"):
        raise ValueError(f"{owner}: safetensors files are not encrypted; leave {way}_key and {way}_mode out")
    if key is not None:
        raise NotImplementedError(f"{owner}: encrypted checkpoints are not offered; leave {way}_key out")


def check_appended(owner: str, values: Any) -> dict[str, Any]:
    """append_dict: names to int, float, bool, str, Parameter or Tensor."""
    check_type(owner, "append_dict", values, dict, type(None))
    for name, value in (values or {}).items():
        if not isinstance(name, str) or not isinstance(value, (int, float, str, Tensor)):
            kinds = "a str with an int, float, bool, str, Parameter or Tensor"
            raise TypeError(f"{owner}: append_dict must hold {kinds}, found {name!r}: {found(value)}")
    return values or {}


def _named(save_obj: Any) -> Iterable[tuple[str, Any]]:
    """The names and values to save."""
    if isinstance(save_obj, Cell):
        save_obj.check_names()
        return [(p.name, p) for p in save_obj.get_parameters()]
    pairs = list(save_obj.items()) if isinstance(save_obj, dict) else [_pair(item) for item in save_obj]
    names: set[str] = set()
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, (Tensor, np.ndarray, str)):
            kinds = "a str with a Parameter or Tensor"
            raise TypeError(f"save_checkpoint: save_obj must hold {kinds}, found {name!r}: {found(value)}")
        if name in names:
            raise ValueError(f"save_checkpoint: two entries of save_obj are named {name!r}; rename one")
        names.add(name)
    return pairs


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Parameter):
        return item.name, item
    if isinstance(item, dict) and {"name", "data"} <= set(item):
        return item["name"], item["data"]
    what = "a Parameter or a dict with name and data"
    raise TypeError(f"save_checkpoint: an element of save_obj must be {what}, found {found(item)}")


def _value(value: Any, copied: bool) -> np.ndarray | str:
    if isinstance(value, str):
        return value
    tensor = value if isinstance(value, Tensor) else Tensor(value)
    array = tensor._value("save_checkpoint")
    return array.copy() if copied else array


def load_checkpoint(
    ckpt_file_name: Any,
    net: Cell | None = None,
    strict_load: bool = False,
    filter_prefix: Any = None,
    dec_key: bytes | None = None,
    dec_mode: str = "AES-GCM",
    specify_prefix: Any = None,
    choice_func: Callable[[str], bool] | None = None,
    crc_check: bool = False,
    remove_redundancy: bool = False,
    format: str = "ckpt",
) -> dict[str, Parameter | str]:
    """The Parameters (and strs) of a checkpoint file by name; with `net` they are loaded into it too.

    ckpt_file_name: a file of that format, for safetensors also a BytesIO.
    filter_prefix, specify_prefix: a str or several: leave out, or keep only, names that begin so; with one of
                    them choice_func, from a name to whether it is loaded, has no effect.
    crc_check:      compare the sum that a safetensors file notes; that of a `.ckpt` file is always compared.
    strict_load:    see load_param_into_net. remove_redundancy: no effect: nothing is split between devices.

    Errors: TypeError or ValueError for arguments that do not fit; ValueError, naming the file and what is wrong,
            for a file that is not there or damaged, and when nothing is left to load; NotImplementedError for
            dec_key; ImportError for safetensors without the package; as load_param_into_net with `net`. Nothing
            is loaded into `net` then.

    >>> import graphopt as ms, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ms.save_checkpoint(ms.nn.Dense(2, 1, weight_init="ones"), folder + "/net.ckpt")
    ...     ms.load_checkpoint(folder + "/net.ckpt", choice_func=lambda name: name == "weight")
    {'weight': Parameter (name=weight, shape=(1, 2), dtype=Float32, requires_grad=True)}
    """
    owner = "load_checkpoint"
    if format not in FORMATS:
        raise ValueError(f"{owner}: format must be one of {', '.join(FORMATS)}, found {format!r}")
    wanted = _prefixes("specify_prefix", specify_prefix)
    unwanted = _prefixes("filter_prefix", filter_prefix)
    check_secret(owner, dec_key, dec_mode, crc_check, format)
    if not isinstance(remove_redundancy, bool):
        raise ValueError(f"{owner}: remove_redundancy must be bool, found {found(remove_redundancy)}")
    if choice_func is not None and not callable(choice_func):
        raise ValueError(f"{owner}: choice_func must be a function, found {found(choice_func)}")
    _check_file(ckpt_file_name, format)
    loaded: dict[str, Parameter | str] = {}
    for name, value in tensor_files.load(ckpt_file_name, format, crc_check).items():
        if wanted or unwanted:
            take = (not wanted or name.startswith(wanted)) and not (unwanted and name.startswith(unwanted))
        else:
            take = choice_func is None or choice_func(name)
        if take:
            loaded[name] = value if isinstance(value, str) else Parameter(wrap_array(value), name=name)
    if not loaded:
        raise ValueError(
            f"{owner}: {ckpt_file_name} has nothing to load; look at the prefixes and choice_func"
        )
    if net is not None:
        load_param_into_net(net, loaded, strict_load)
    return loaded


def _prefixes(name: str, value: Any) -> tuple[str, ...]:
    check_type("load_checkpoint", name, value, str, list, tuple, type(None))
    prefixes = () if value is None else (value,) if isinstance(value, str) else tuple(value)
    for prefix in prefixes:
        check_type("load_checkpoint", f"an element of {name}", prefix, str)
    if value is not None and (not prefixes or "" in prefixes):
        raise ValueError(f"load_checkpoint: {name} must hold prefixes that are not empty, found {value!r}")
    return prefixes


def _check_file(file: Any, format: str) -> None:
    if isinstance(file, BytesIO) and format == "safetensors":
        return
    check_type("load_checkpoint", "ckpt_file_name", file, str)
    if not file.endswith(format):
        raise ValueError(f"load_checkpoint: {file} does not end with its format, {format!r}")
    wait_for_saves()
    if not os.path.exists(file):
        raise ValueError(f"load_checkpoint: there is no file {file}")


def load_param_into_net(
    net: Cell, parameter_dict: Mapping[str, Any], strict_load: bool = False, remove_redundancy: bool = False
) -> tuple[list[str], list[str]]:
    """Load what `load_checkpoint` gave into a Cell: all that fits, or on an error nothing.

    strict_load: names and dtypes must be the same. Else a float takes any float and a signed integer any signed
                 integer, and a Parameter that is not found by its name is looked for behind a prefix: `fc.weight`
                 in `network.fc.weight`, then all others behind that prefix. A shape may always have more axes of
                 size 1 at the end.

    Gives (names of Parameters of net that got nothing, names of parameter_dict that were not used).
    Errors: TypeError when net is no Cell, parameter_dict no dict from str to Parameter or str, a flag no bool, or
            remove_redundancy True, which is for several devices; RuntimeError for another shape or dtype.

    >>> import graphopt as ms
    >>> net, other = ms.nn.Dense(2, 1), ms.nn.Dense(2, 1, has_bias=False)
    >>> ms.load_param_into_net(net, other.parameters_dict())
    (['bias'], [])
    """
    owner = "load_param_into_net"
    check_type(owner, "net", net, Cell)
    check_type(owner, "parameter_dict", parameter_dict, dict)
    check_bool(owner, "strict_load", strict_load)
    check_bool(owner, "remove_redundancy", remove_redundancy)
    for name, value in parameter_dict.items():
        if not isinstance(name, str) or not isinstance(value, (Parameter, str, list)):
            what = f"{name!r}: {found(value)}"
            raise TypeError(f"{owner}: parameter_dict must hold Parameters by their names, found {what}")
    if remove_redundancy:
        raise TypeError(f"{owner}: remove_redundancy is for several devices, there is one")
    given = {n: v for n, v in parameter_dict.items() if isinstance(v, Parameter)}
    parameters = list(net.get_parameters())
    pairs = {p: p.name for p in parameters if p.name in given}
    if not strict_load:
        pairs |= _behind_prefixes([p for p in parameters if p.name not in parameter_dict], given)
    arrays = [(p, _fitting(p, name, given[name], strict_load)) for p, name in pairs.items()]
    for p, array in arrays:
        p._assign(wrap_array(array))
    used = set(pairs.values())
    missing = [p.name for p in parameters if p not in pairs and p.name not in parameter_dict]
    return missing, [name for name in parameter_dict if name not in used]


def _behind_prefixes(
    missing: list[Parameter], given: Mapping[str, Parameter]
) -> Iterator[tuple[Parameter, str]]:
    """(Parameter, name of its value) for those whose name stands behind a prefix in `given`."""
    while True:
        ends = ((p.name, name) for p in missing for name in given if name.endswith(p.name))
        first = next(ends, None)
        if first is None:
            return
        prefix = first[1].removesuffix(first[0])
        matched = [p for p in missing if prefix + p.name in given]
        yield from ((p, prefix + p.name) for p in matched)
        missing = [p for p in missing if prefix + p.name not in given]


def _fitting(p: Parameter, name: str, value: Parameter, strict: bool) -> np.ndarray:
    """The values in the Parameter's shape and dtype."""
    more = value.shape[p.ndim :]
    if value.shape != p.shape + (1,) * len(more):
        raise RuntimeError(f"load_param_into_net: {p.name} has shape {p.shape}, {name} has {value.shape}")
    kinds = (p.dtype.kind, value.dtype.kind)
    if p.dtype is not value.dtype and (strict or kinds not in (("f", "f"), ("i", "i"))):
        hint = "; strict_load=False would convert" if kinds in (("f", "f"), ("i", "i")) else ""
        raise RuntimeError(f"load_param_into_net: {p.name} is {p.dtype!r}, {name} is {value.dtype!r}{hint}")
    return value._data().astype(p.dtype.numpy).reshape(p.shape)
