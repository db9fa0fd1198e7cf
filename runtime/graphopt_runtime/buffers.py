"""Memory: aligned arrays, the arena of a step, large results that use their memory again, and the address of an array."""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from math import prod

import numpy as np

ALIGNMENT = 64
_HUGE_BYTES = 1 << 21  # the size of a huge page on x86-64 and on most ARM kernels
_PAGE_BYTES = 1 << 12
_LARGE_BYTES = 1 << 18  # smaller memory comes back from the allocator without new pages
DATA_FIELD = object.__basicsize__  # a numpy array object begins with its header, then its data pointer


def dtype_of(name: str) -> np.dtype:
    """numpy's dtype for a buffer's dtype; "bfloat16" is the one that the package ml_dtypes defines."""
    return np.dtype(import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def aligned_empty(shape: Sequence[int], dtype: np.dtype, alignment: int = ALIGNMENT) -> np.ndarray:
    """An uninitialised C-contiguous array whose address is a multiple of `alignment` bytes.

    One that nearly fills its huge pages lies on such, where the system has them; they are not touched here.
    """
    nbytes = prod(shape) * dtype.itemsize
    if hasattr(mmap, "MADV_HUGEPAGE") and -nbytes % _HUGE_BYTES < nbytes // 8:
        alignment = max(alignment, _HUGE_BYTES)
        # Private: shared memory, which mmap gives by default, has huge pages only where the system is told so.
        pages = mmap.mmap(-1, nbytes + _HUGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without huge pages: small ones do
            pages.madvise(mmap.MADV_HUGEPAGE)
        raw = np.frombuffer(pages, np.uint8)
    else:
        raw = np.empty(nbytes + alignment, np.uint8)
    return _aligned(raw, shape, dtype, alignment)


def _aligned(raw: np.ndarray, shape: Sequence[int], dtype: np.dtype, alignment: int) -> np.ndarray:
    """The first aligned array inside these bytes."""
    return np.ndarray(tuple(shape), dtype, raw, -address(raw) % alignment)


def aligned_copy(array: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """A C-contiguous copy, converted to `dtype`; where it is larger than a page, its address is a multiple of 64 bytes.

    numpy's own arrays begin anywhere, and a vector that lies across two cache lines is two reads: LayerNorm of such an array
    takes a quarter longer. Memory for the copy comes from numpy's allocator, which has pages at hand that are cleared already.
    """
    dtype = array.dtype if dtype is None else dtype
    nbytes = array.size * dtype.itemsize
    if nbytes <= _PAGE_BYTES:
        return np.array(array, dtype, order="C")
    copy = _aligned(np.empty(nbytes + ALIGNMENT, np.uint8), array.shape, dtype, ALIGNMENT)
    np.copyto(copy, array, casting="unsafe")
    return copy


def _address_of_field(array: np.ndarray) -> int:
    return ctypes.c_void_p.from_address(id(array) + DATA_FIELD).value or 0


def _address_of_interface(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _field_works() -> bool:
    """Whether this interpreter's arrays keep their data pointer where CPython's do."""
    probe = np.arange(3)
    return id(probe) != 0 and hasattr(ctypes, "pythonapi") and _address_of_field(probe) == _address_of_interface(probe)


FIELD_WORKS = _field_works()
"""Whether native code finds an array's memory by the array object's address, DATA_FIELD bytes further on."""

address = _address_of_field if FIELD_WORKS else _address_of_interface
"""address(array): where an array's first element lies; the array must be kept alive by the caller.

Cost: 0.15 us by reading the array object's field, 0.6 us by numpy's own interface (the fallback).
"""


class Arena:
    """Uninitialised memory aligned to 64 bytes; a page of a large one costs nothing until a step uses it."""

    __slots__ = ("_keep", "address", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._keep = aligned_empty((max(nbytes, ALIGNMENT),), np.dtype(np.uint8))
        self.address = _address_of_interface(self._keep)


class Results:
    """Memory for the results of one step: what a large array occupied is used again when nobody has it any more.

    The system clears each page of new memory when it is first touched, which takes longer than most steps need to fill it.
    One block per result is kept for the next step, as the arena is; blocks of results that somebody still has are not ours.
    """

    __slots__ = ("_free", "_lock", "_most")

    def __init__(self, sizes: Sequence[int]) -> None:
        """sizes: bytes of each result of the step."""
        large = [nbytes for nbytes in sizes if nbytes >= _LARGE_BYTES]
        self._most = {nbytes: large.count(nbytes) for nbytes in large}
        self._free: dict[int, list[Arena]] = {nbytes: [] for nbytes in large}
        self._lock = threading.RLock()  # a result may die at any moment, also while this thread is in here

    @property
    def needed(self) -> bool:
        """Whether any result is large."""
        return bool(self._most)

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """An uninitialised C-contiguous array for a result of the step, as numpy.empty."""
        nbytes = prod(shape) * dtype.itemsize
        if nbytes not in self._most:
            return np.empty(shape, dtype)
        with self._lock:
            free = self._free[nbytes]
            block = free.pop() if free else Arena(nbytes)
        lease = (ctypes.c_char * nbytes).from_address(block.address)
        weakref.finalize(lease, self._return, nbytes, block).atexit = False
        return np.ndarray(shape, dtype, memoryview(lease))

    def _return(self, nbytes: int, block: Arena) -> None:
        with self._lock:
            free = self._free[nbytes]
            if len(free) < self._most[nbytes]:
                free.append(block)
