"""Checkpoints during training: when to save, under which name, and how many files to keep."""

from __future__ import annotations

import os
import time
import warnings
from typing import Any

from graphopt.common.checks import check_bool, check_int, check_type, found
from graphopt.nn.cell import Cell
from graphopt.train.callback import Callback, RunContext
from graphopt.train.serialization import (
    check_appended,
    check_async,
    check_secret,
    save_checkpoint,
    wait_for_saves,
)

_NUMBERS = ("epoch_num", "step_num")


class CheckpointConfig:
    """When ModelCheckpoint saves, and what.

    save_checkpoint_steps:   every so many steps; 0 or None: by save_checkpoint_seconds.
    keep_checkpoint_max:     the oldest files above this number are removed; 0 or None: by
    keep_checkpoint_per_n_minutes: of the files of the last n minutes the oldest stays; without both, one file.
    saved_network:           what to save; None: the training Cell, with the optimizer's state.
    append_info:             what else to save: "epoch_num", "step_num", one dict of names and values.
    exception_save:          save too when the training ends with an error, as `…_breakpoint.ckpt`.
    integrated_save, async_save, enc_key, enc_mode, crc_check, format: see save_checkpoint.
    remove_redundancy:       False: nothing is split between devices.

    Errors: TypeError or ValueError for arguments that do not fit; ValueError when the four numbers are all None or
            0, or for safetensors with crc_check or exception_save; NotImplementedError for enc_key.

    >>> import graphopt as ms
    >>> ms.train.CheckpointConfig(save_checkpoint_steps=100, keep_checkpoint_max=3).keep_checkpoint_max
    3
    """

    def __init__(
        self,
        save_checkpoint_steps: int | None = 1,
        save_checkpoint_seconds: int | None = 0,
        keep_checkpoint_max: int | None = 5,
        keep_checkpoint_per_n_minutes: int | None = 0,
        integrated_save: bool = True,
        async_save: Any = False,
        saved_network: Cell | None = None,
        append_info: list[Any] | None = None,
        enc_key: bytes | None = None,
        enc_mode: str = "AES-GCM",
        exception_save: bool = False,
        crc_check: bool = False,
        remove_redundancy: bool = False,
        format: str = "ckpt",
        **kwargs: Any,
    ) -> None:
        owner = "CheckpointConfig"
        numbers = {
            "save_checkpoint_steps": save_checkpoint_steps,
            "save_checkpoint_seconds": save_checkpoint_seconds,
            "keep_checkpoint_max": keep_checkpoint_max,
            "keep_checkpoint_per_n_minutes": keep_checkpoint_per_n_minutes,
        }
        for name, value in numbers.items():
            if value is not None:
                check_int(owner, name, value, low=0)
        check_type(owner, "saved_network", saved_network, Cell, type(None))
        if not any(numbers.values()):
            raise ValueError(
                f"{owner}: one of {', '.join(numbers)} must be > 0, found {list(numbers.values())}"
            )
        self.exception_save = check_bool(owner, "exception_save", exception_save)
        self.integrated_save = check_bool(owner, "integrated_save", integrated_save)
        check_async(owner, async_save)
        if not isinstance(format, str):
            raise ValueError(f"{owner}: format must be str, found {found(format)}")
        check_secret(owner, enc_key, enc_mode, crc_check, format)
        if format == "safetensors" and (crc_check or exception_save):
            raise ValueError(f"{owner}: safetensors goes without crc_check and exception_save")
        if not isinstance(remove_redundancy, bool):
            raise ValueError(f"{owner}: remove_redundancy must be bool, found {found(remove_redundancy)}")
        self.save_checkpoint_steps = save_checkpoint_steps
        self.save_checkpoint_seconds = None if save_checkpoint_steps else save_checkpoint_seconds
        none_kept = not keep_checkpoint_max and not keep_checkpoint_per_n_minutes
        self.keep_checkpoint_max = 1 if none_kept else keep_checkpoint_max
        self.keep_checkpoint_per_n_minutes = None if keep_checkpoint_max else keep_checkpoint_per_n_minutes
        self.saved_network, self.append_dict = saved_network, _append_info(append_info)
        self.async_save, self.crc_check, self.format = async_save, crc_check, format
        self.enc_key, self.enc_mode, self.remove_redundancy = enc_key, enc_mode, remove_redundancy

    def get_checkpoint_policy(self) -> dict[str, Any]:
        """The numbers of saving and keeping, and the network, by name."""
        names = ("save_checkpoint_steps", "save_checkpoint_seconds", "keep_checkpoint_max")
        return {n: getattr(self, n) for n in (*names, "keep_checkpoint_per_n_minutes", "saved_network")}


def _append_info(info: Any) -> dict[str, Any] | None:
    check_type("CheckpointConfig", "append_info", info, list, type(None))
    appended: dict[str, Any] = {}
    for element in info or ():
        check_type("CheckpointConfig", "an element of append_info", element, str, dict)
        if isinstance(element, dict):
            appended |= check_appended("CheckpointConfig", element)
        elif element in _NUMBERS:
            appended[element] = 0
        else:
            raise ValueError(
                f"CheckpointConfig: append_info knows {' and '.join(_NUMBERS)}, found {element!r}"
            )
    if sum(isinstance(element, dict) for element in info or ()) > 1:
        raise TypeError("CheckpointConfig: append_info must hold one dict at most, found several")
    return appended or None


class ModelCheckpoint(Callback):
    """Save the training during `Model.train`: `<prefix>-<epoch>_<step>.ckpt`, and once more at the end.

    prefix:    the beginning of the file names, without '/'; where files of that name are already in the folder,
               `<prefix>_1`, `<prefix>_2` … A function from the callback's facts to the whole name without ending.
    directory: the folder, made when it is not there; None: the current one. Or a function from the facts to it.
    config:    a CheckpointConfig; None: after every step, five files.

    Random draws depend on `get_rng_state()` besides what is saved: append it to continue with the same ones.
    Errors: ValueError for a prefix that is no str or has a '/'; TypeError when directory is no str or config no
            CheckpointConfig; in training those of save_checkpoint.

    >>> import graphopt as ms, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saving = ms.train.ModelCheckpoint("net", folder, ms.train.CheckpointConfig(100))
    """

    def __init__(
        self, prefix: Any = "CKP", directory: Any = None, config: CheckpointConfig | None = None
    ) -> None:
        if not callable(prefix):
            _check_prefix(prefix)
        if not callable(directory):
            directory = os.getcwd() if directory is None else _made(directory)
        self._config = (
            check_type("ModelCheckpoint", "config", config, CheckpointConfig, type(None))
            or CheckpointConfig()
        )
        self._prefix, self._directory = prefix, directory
        if not callable(prefix) and not callable(directory):
            self._prefix = _unused(prefix, directory)
        self._last_step = 0
        self._last_seconds = time.monotonic()
        self._facts: Any = None
        self._files: list[tuple[float, str]] = []
        self._latest = ""

    @property
    def latest_ckpt_file_name(self) -> str:
        """The path of the file that was saved last; "" before the first."""
        return self._latest

    def begin(self, run_context: RunContext) -> None:
        self._facts = run_context.original_args()
        self._last_step = self._facts.cur_step_num or 0

    def step_end(self, run_context: RunContext) -> None:
        self._facts = facts = run_context.original_args()
        steps, seconds = self._config.save_checkpoint_steps, self._config.save_checkpoint_seconds
        if steps:
            due = facts.cur_step_num >= self._last_step + steps
        else:
            due = seconds is not None and 0 < seconds < time.monotonic() - self._last_seconds
        if due:
            self._save(facts)

    def end(self, run_context: RunContext) -> None:
        facts = run_context.original_args()
        by_rule = self._config.save_checkpoint_steps or self._config.save_checkpoint_seconds
        if by_rule and facts.cur_step_num != self._last_step:
            self._save(facts)
        wait_for_saves()
        self._trim(0)

    def on_eval_begin(self, run_context: RunContext) -> None:
        """An evaluation saves nothing."""

    on_eval_step_end = on_eval_end = on_eval_begin

    def __exit__(self, *error: Any) -> None:
        if self._config.exception_save and self._facts is not None and error and error[0] is not None:
            self._write(self._facts, "_breakpoint", keep=False)

    def _save(self, facts: Any) -> None:
        self._last_step, self._last_seconds = facts.cur_step_num, time.monotonic()
        self._write(facts, "", keep=True)

    def _write(self, facts: Any, ending: str, keep: bool) -> None:
        """Save under the name for these facts, and remove what is too much."""
        folder = _made(self._directory(facts)) if callable(self._directory) else self._directory
        if callable(self._prefix):
            name = _check_prefix(self._prefix(facts))
        else:
            in_epoch = (facts.cur_step_num - 1) % max(facts.batch_num or 1, 1) + 1
            name = f"{self._prefix}-{facts.cur_epoch_num}_{in_epoch}"
        config = self._config
        path = os.path.join(folder, f"{name}{ending}.{config.format}")
        numbers = {"epoch_num": facts.cur_epoch_num, "step_num": facts.cur_step_num}
        appended = {k: numbers.get(k, v) for k, v in (config.append_dict or {}).items()}
        network = facts.train_network if config.saved_network is None else config.saved_network
        save_checkpoint(
            network,
            path,
            config.integrated_save,
            config.async_save,
            appended,
            crc_check=config.crc_check,
            format=config.format,
        )
        self._latest = path
        if keep:
            self._files = [(t, p) for t, p in self._files if p != path] + [(time.monotonic(), path)]
            self._trim(1 if config.async_save else 0)

    def _trim(self, unwritten: int) -> None:
        """Remove files of this training that are too many, not counting the last, which may be unwritten."""
        most, minutes = self._config.keep_checkpoint_max, self._config.keep_checkpoint_per_n_minutes
        surplus: list[str] = []
        if most:
            surplus = [p for _, p in self._files[: max(len(self._files) - unwritten - most, 0)]]
        elif minutes:
            surplus = [p for t, p in self._files[:-1] if time.monotonic() - t < 60 * minutes][1:]
        for old in surplus:
            try:
                os.remove(old)
            except OSError as error:
                warnings.warn(f"ModelCheckpoint: {old} could not be removed: {error}", stacklevel=2)
        self._files = [(t, p) for t, p in self._files if p not in surplus]


def _check_prefix(prefix: Any) -> str:
    if not isinstance(prefix, str) or "/" in prefix:
        raise ValueError(
            f"ModelCheckpoint: prefix must be a str without '/' or a function, found {found(prefix)}"
        )
    return prefix


def _made(directory: Any) -> str:
    """The folder, which is there afterwards."""
    check_type("ModelCheckpoint", "directory", directory, str)
    if not directory.strip():
        raise ValueError(f"ModelCheckpoint: directory must not be empty, found {directory!r}")
    os.makedirs(directory, exist_ok=True)
    return os.path.realpath(directory)


def _unused(prefix: str, folder: str) -> str:
    """The prefix, or with the next number where files of that prefix are in the folder."""
    number = -1
    for file in os.listdir(folder):
        stem, ending = os.path.splitext(file)
        if (
            ending not in (".ckpt", ".safetensors")
            or not stem.startswith(prefix)
            or stem.endswith("_breakpoint")
        ):
            continue
        middle, dash, _ = stem.removeprefix(prefix).partition("-")
        if dash and not middle:
            number = max(number, 0)
        elif dash and middle.startswith("_") and middle[1:].isdigit():
            number = max(number, int(middle[1:]))
    return prefix if number < 0 else f"{prefix}_{number + 1}"
