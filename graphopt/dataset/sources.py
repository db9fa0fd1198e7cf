"""Where rows come from: arrays in memory, or Python objects that yield them; and the samplers that order them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.common.checks import check_bool, check_int, check_type, found
from graphopt.common.seed import named_generator
from graphopt.dataset.pipeline import Dataset, Row, View, _array, _names


class Sampler:
    """Base of samplers: `__iter__` gives row numbers. `num_samples` limits how many.

    >>> import graphopt as ms
    >>> class Odd(ms.dataset.Sampler):
    ...     def __iter__(self):
    ...         return iter([1, 3])
    >>> data = ms.dataset.NumpySlicesDataset([10, 11, 12, 13], sampler=Odd())
    >>> [int(x.asnumpy()) for (x,) in data]
    [11, 13]
    """

    def __init__(self, num_samples: int | None = None) -> None:
        if num_samples is not None:
            check_int(type(self).__name__, "num_samples", num_samples, low=0)
        self.num_samples = num_samples or None
        self.dataset_size = 0

    def __iter__(self) -> Iterator[int]:
        raise NotImplementedError(f"{type(self).__name__} must override __iter__")

    def numbers(self, rows: int, epoch: int) -> np.ndarray:
        """The row numbers of one epoch over `rows` rows."""
        self.dataset_size = rows
        return np.asarray(list(self), np.int64).reshape(-1)[: self.num_samples]


class SequentialSampler(Sampler):
    """Rows from start_index on, in order.

    >>> import graphopt as ms
    >>> data = ms.dataset.NumpySlicesDataset([5, 6, 7], sampler=ms.dataset.SequentialSampler(1))
    >>> [int(x.asnumpy()) for (x,) in data]
    [6, 7]
    """

    def __init__(self, start_index: int | None = None, num_samples: int | None = None) -> None:
        super().__init__(num_samples)
        self.start_index = check_int("SequentialSampler", "start_index", start_index or 0, low=0)

    def numbers(self, rows: int, epoch: int) -> np.ndarray:
        return np.arange(self.start_index, rows)[: self.num_samples]


class RandomSampler(Sampler):
    """Rows in random order; with replacement a row may come several times.

    >>> import graphopt as ms
    >>> data = ms.dataset.NumpySlicesDataset([5, 6, 7], sampler=ms.dataset.RandomSampler(num_samples=2))
    >>> data.get_dataset_size()
    2
    """

    def __init__(self, replacement: bool = False, num_samples: int | None = None) -> None:
        super().__init__(num_samples)
        self.replacement = check_bool("RandomSampler", "replacement", replacement)

    def numbers(self, rows: int, epoch: int) -> np.ndarray:
        random = named_generator("source", epoch)
        if self.replacement:
            return random.integers(0, rows, self.num_samples or rows)
        return random.permutation(rows)[: self.num_samples]


class SubsetSampler(Sampler):
    """Exactly these rows.

    >>> import graphopt as ms
    >>> data = ms.dataset.NumpySlicesDataset([5, 6, 7], sampler=ms.dataset.SubsetSampler([2, 0]))
    >>> [int(x.asnumpy()) for (x,) in data]
    [7, 5]
    """

    def __init__(self, indices: Sequence[int], num_samples: int | None = None) -> None:
        super().__init__(num_samples)
        self.indices = [check_int("SubsetSampler", "indices", int(i)) for i in indices]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class _Source(Dataset):
    """What the sources share: a sampler chosen by the arguments, and its check."""

    def __init__(
        self,
        columns: Sequence[str],
        sampler: Any,
        shuffle: bool | None,
        num_samples: int | None,
        shards: tuple[Any, Any],
    ) -> None:
        owner = type(self).__name__
        if shuffle is not None:
            check_bool(owner, "shuffle", shuffle)
        if num_samples is not None:
            check_int(owner, "num_samples", num_samples, low=0)
        if sampler is not None and shuffle is not None:
            raise RuntimeError(f"{owner}: sampler and shuffle cannot be given together")
        if (shards[0] is None) != (shards[1] is None):
            raise RuntimeError(
                f"{owner}: num_shards and shard_id must be given together, found {shards[0]} and {shards[1]}"
            )
        if shards[0] is not None:
            check_int(owner, "num_shards", shards[0], low=1)
            if not 0 <= check_int(owner, "shard_id", shards[1]) < shards[0]:
                raise ValueError(f"{owner}: shard_id must be in [0, {shards[0]}), found {shards[1]}")
        self._shards = shards
        self._sampler = _sampler(owner, sampler, shuffle is not False, num_samples)
        super().__init__(columns)

    def _order(self, rows: int, epoch: int) -> np.ndarray:
        """The row numbers of an epoch."""
        numbers = self._sampler.numbers(rows, epoch)
        if self._shards[0] is not None:  # every shard gets equally many rows: the first ones fill up the last
            per_shard = -(-len(numbers) // self._shards[0])
            numbers = np.resize(numbers, per_shard * self._shards[0])[self._shards[1] :: self._shards[0]]
        outside = numbers[(numbers < 0) | (numbers >= rows)]
        if outside.size:
            raise RuntimeError(f"{type(self).__name__}: the sampler asks for row {outside[0]} of {rows}")
        return numbers


class NumpySlicesDataset(_Source):
    """Rows are slices of arrays along their first axis.

    data: an array or list (one column), a tuple of them (a column each), or a dict {column: array}. Shuffled unless
    shuffle=False or a sampler is given.
    Shapes: all columns have the same first axis. Dtypes: kept as they are.
    Errors: ValueError for columns of different lengths or a wrong number of names.

    >>> import graphopt as ms
    >>> data = ms.dataset.NumpySlicesDataset(([1, 2], [3, 4]), ["x", "y"], shuffle=False)
    >>> [[int(v.asnumpy()) for v in row] for row in data]
    [[1, 3], [2, 4]]
    """

    def __init__(
        self,
        data: Any,
        column_names: str | Sequence[str] | None = None,
        num_samples: int | None = None,
        num_parallel_workers: int = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        num_shards: int | None = None,
        shard_id: int | None = None,
    ) -> None:
        columns: list[Any] = (
            list(data.values()) if isinstance(data, dict) else list(data) if isinstance(data, tuple) else [data]
        )
        if not columns:
            raise ValueError("NumpySlicesDataset: expected data with at least one column, found none")
        self._arrays = tuple(_array(c) for c in columns)
        for array in self._arrays:
            if array.ndim == 0:
                raise TypeError(
                    f"NumpySlicesDataset: data must be arrays, lists, a tuple or a dict of them, found {found(data)}"
                )
        lengths = [len(a) for a in self._arrays]
        if len(set(lengths)) > 1:
            raise ValueError(f"NumpySlicesDataset: all columns must have equally many rows, found {lengths}")
        if column_names is not None:
            names = _names("NumpySlicesDataset", column_names)
        else:
            names = [str(k) for k in data] if isinstance(data, dict) else [f"column_{k}" for k in range(len(columns))]
        if len(names) != len(columns):
            raise ValueError(f"NumpySlicesDataset: expected {len(columns)} column names, found {names}")
        super().__init__(names, sampler, shuffle, num_samples, (num_shards, shard_id))

    def _view(self, epoch: int) -> View | None:
        return self._arrays, self._order(len(self._arrays[0]), epoch)

    def _count(self) -> int:
        return len(self._order(len(self._arrays[0]), 0))


class GeneratorDataset(_Source):
    """Rows come from a Python object: a function that returns an iterator, an iterable, or an object with
    `__getitem__` and `__len__` (which is shuffled unless shuffle=False).

    A row is a tuple with one value per column, or one bare value for one column.
    Errors: TypeError for a source that is none of these; RuntimeError for a row with another number of columns.

    >>> import graphopt as ms
    >>> def rows():
    ...     for k in range(3):
    ...         yield k, k * k
    >>> data = ms.dataset.GeneratorDataset(rows, ["x", "square"])
    >>> [[int(v.asnumpy()) for v in row] for row in data]
    [[0, 0], [1, 1], [2, 4]]
    """

    def __init__(
        self,
        source: Any,
        column_names: str | Sequence[str] | None = None,
        column_types: Sequence[Any] | None = None,
        schema: Any = None,
        num_samples: int | None = None,
        num_parallel_workers: int = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        num_shards: int | None = None,
        shard_id: int | None = None,
        python_multiprocessing: bool = True,
        max_rowsize: Any = None,
    ) -> None:
        if column_names is None:
            raise ValueError("GeneratorDataset: expected column_names, found None")
        names = _names("GeneratorDataset", column_names)
        self._random_access = hasattr(source, "__getitem__") and hasattr(source, "__len__")
        if not (self._random_access or callable(source) or hasattr(source, "__iter__")):
            raise TypeError(
                f"GeneratorDataset: source must be callable, iterable or indexable, found {found(source)}"
            )
        if not self._random_access and (sampler is not None or shuffle):
            raise RuntimeError(
                "GeneratorDataset: shuffle and sampler need a source with __getitem__ and __len__; use .shuffle(n)"
            )
        self._source, self._limit = source, num_samples or None
        self._dtypes = None if column_types is None else [getattr(t, "numpy", t) for t in column_types]
        super().__init__(names, sampler, shuffle, num_samples, (num_shards, shard_id))

    def _rows(self, epoch: int) -> Iterator[Row]:
        if self._random_access:
            for k in self._order(len(self._source), epoch):
                yield self._row(self._source[int(k)])
            return
        rows = self._source() if callable(self._source) else iter(self._source)
        shards, shard = self._shards
        for k, row in enumerate(rows):
            if self._limit is not None and k >= self._limit:
                return
            if shards is None or k % shards == shard:
                yield self._row(row)

    def _row(self, row: Any) -> Row:
        values = row if isinstance(row, tuple) else (row,)
        if isinstance(row, list) and len(self._columns) == len(row) > 1:
            values = tuple(row)
        if len(values) != len(self._columns):
            raise RuntimeError(
                f"GeneratorDataset: expected rows of {len(self._columns)} columns, found one with {len(values)}"
            )
        arrays = tuple(_array(v) for v in values)
        if self._dtypes is None:
            return arrays
        return tuple(a.astype(d) for a, d in zip(arrays, self._dtypes, strict=True))

    def _count(self) -> int:
        if self._random_access:
            return len(self._order(len(self._source), 0))
        return super()._count()


def _sampler(owner: str, sampler: Any, shuffle: bool, num_samples: int | None) -> Sampler:
    if sampler is None:
        return RandomSampler(num_samples=num_samples) if shuffle else SequentialSampler(num_samples=num_samples)
    if isinstance(sampler, Sampler):
        if num_samples is not None:
            sampler.num_samples = num_samples or None
        return sampler
    if hasattr(sampler, "__iter__"):
        numbers: Callable[[], Iterator[int]] = sampler.__iter__
        listed = SubsetSampler((), num_samples)
        listed.indices = _Lazy(numbers)  # type: ignore[assignment]
        return listed
    raise check_type(owner, "sampler", sampler, Sampler)


class _Lazy:
    """Row numbers asked for anew in each epoch."""

    def __init__(self, numbers: Callable[[], Iterator[int]]) -> None:
        self._numbers = numbers

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers())
