"""The steps of a pipeline. A dataset is a recipe: iterating it asks its child for the rows of one epoch.

A dataset that only chooses rows of arrays (a source of arrays, shuffled, cut, repeated) says so through `_view`:
then a batch is one indexing of each array and no row is ever made.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.common.border import border
from graphopt.common.checks import check_bool, check_int, check_type, found
from graphopt.common.seed import named_generator, settings
from graphopt.common.tensor import Tensor

Row = tuple[np.ndarray, ...]
View = tuple[tuple[np.ndarray, ...], np.ndarray]


class Dataset:
    """Base of all pipelines: named columns of rows.

    Iterating gives lists of Tensors. Every pass is the next epoch: shuffling differs from pass to pass and the
    sequence of passes repeats after `set_seed`.

    >>> import graphopt as ms
    >>> data = ms.dataset.NumpySlicesDataset({"x": [1, 2, 3, 4]}, shuffle=False).batch(2)
    >>> [x.asnumpy().tolist() for (x,) in data]
    [[1, 2], [3, 4]]
    """

    def __init__(self, columns: Sequence[str], children: Sequence[Dataset] = ()) -> None:
        self._columns = list(columns)
        self._children = tuple(children)
        self._passes, self._settings = 0, settings()

    # what a step must say

    def _rows(self, epoch: int) -> Iterator[Row]:
        """The rows of one epoch, as arrays."""
        view = self._view(epoch)
        if view is None:
            raise NotImplementedError(f"{type(self).__name__} must override _rows")
        arrays, order = view
        for k in order:
            yield tuple(a[k] for a in arrays)

    def _view(self, epoch: int) -> View | None:
        """(arrays, row numbers) when the rows are a choice of rows of arrays; else None."""
        return None

    def _count(self) -> int:
        """How many rows an epoch has."""
        return sum(1 for _ in self._rows(0))

    # steps

    def batch(
        self, batch_size: int, drop_remainder: bool = False, num_parallel_workers: int | None = None, **kwargs: Any
    ) -> BatchDataset:
        """Rows stacked `batch_size` at a time; the last, smaller batch is kept unless drop_remainder."""
        return BatchDataset(self, batch_size, drop_remainder, **kwargs)

    def shuffle(self, buffer_size: int) -> ShuffleDataset:
        """Rows in random order: each is drawn from a buffer of that many rows."""
        return ShuffleDataset(self, buffer_size)

    def map(
        self,
        operations: Any,
        input_columns: str | Sequence[str] | None = None,
        output_columns: str | Sequence[str] | None = None,
        num_parallel_workers: int | None = None,
        **kwargs: Any,
    ) -> MapDataset:
        """The columns `input_columns` (default: the first ones) replaced by what the operations, in turn, make of
        them.
        """
        return MapDataset(self, operations, input_columns, output_columns)

    def repeat(self, count: int | None = None) -> RepeatDataset:
        """`count` passes as one epoch."""
        return RepeatDataset(self, count)

    def skip(self, count: int) -> SliceDataset:
        """Without the first `count` rows."""
        return SliceDataset(self, check_int("skip", "count", count, low=0), None)

    def take(self, count: int = -1) -> Dataset:
        """The first `count` rows; -1 for all."""
        check_int("take", "count", count)
        if count != -1 and count < 1:
            raise ValueError(f"take: count must be -1 or > 0, found {count}")
        return self if count == -1 else SliceDataset(self, 0, count)

    def project(self, columns: str | Sequence[str]) -> SelectDataset:
        """Only these columns, in this order."""
        names = _names("project", columns)
        return SelectDataset(self, [_position(self, "project", n) for n in names], names)

    def rename(self, input_columns: str | Sequence[str], output_columns: str | Sequence[str]) -> SelectDataset:
        """Columns under other names."""
        old, fresh = _names("rename", input_columns), _names("rename", output_columns)
        if len(old) != len(fresh):
            raise ValueError(f"rename: expected as many output_columns as input_columns, found {old} and {fresh}")
        names = list(self._columns)
        for a, b in builtins.zip(old, fresh, strict=True):
            names[_position(self, "rename", a)] = b
        return SelectDataset(self, list(range(len(names))), names)

    def zip(self, datasets: Dataset | tuple[Dataset, ...]) -> ZipDataset:
        """The columns of this and the other datasets side by side, as long as the shortest."""
        others = datasets if isinstance(datasets, tuple) else (datasets,)
        return ZipDataset((self, *others))

    # what is asked of a pipeline

    def get_col_names(self) -> list[str]:
        return list(self._columns)

    def get_dataset_size(self) -> int:
        """Rows (batches, after batch) of one epoch."""
        return self._count()

    def get_batch_size(self) -> int:
        """The batch size of the innermost batch step; 1 without one."""
        return self._children[0].get_batch_size() if self._children else 1

    def get_repeat_count(self) -> int:
        return self._children[0].get_repeat_count() if self._children else 1

    def output_shapes(self) -> list[list[int]]:
        """The shape of each column in the first row."""
        return [list(a.shape) for a in self._first()]

    def output_types(self) -> list[np.dtype]:
        """The numpy dtype of each column in the first row."""
        return [a.dtype for a in self._first()]

    def _first(self) -> Row:
        row = next(iter(self._rows(0)), None)
        if row is None:
            raise RuntimeError(f"{type(self).__name__}: the dataset has no rows")
        return row

    def create_tuple_iterator(
        self,
        columns: Sequence[str] | None = None,
        num_epochs: int = -1,
        output_numpy: bool = False,
        do_copy: bool = True,
    ) -> EpochIterator:
        """An iterable over lists of columns: each `for` over it is the next epoch, at most num_epochs of them (-1:
        any).
        """
        source = self if columns is None else self.project(columns)
        return EpochIterator(self, source, num_epochs, output_numpy, as_dict=False)

    def create_dict_iterator(
        self, num_epochs: int = -1, output_numpy: bool = False, do_copy: bool = True
    ) -> EpochIterator:
        """An iterable over dicts {column: value}; see create_tuple_iterator."""
        return EpochIterator(self, self, num_epochs, output_numpy, as_dict=True)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.create_tuple_iterator())

    def __len__(self) -> int:
        return self.get_dataset_size()

    def _next_epoch(self) -> int:
        if self._settings != settings():
            self._passes, self._settings = 0, settings()
        self._passes += 1
        return self._passes - 1


class EpochIterator:
    """What create_tuple_iterator and create_dict_iterator return."""

    def __init__(self, counter: Dataset, source: Dataset, num_epochs: int, output_numpy: bool, as_dict: bool) -> None:
        check_int("iterator", "num_epochs", num_epochs)
        check_bool("iterator", "output_numpy", output_numpy)
        if num_epochs != -1 and num_epochs < 1:
            raise ValueError(f"iterator: num_epochs must be -1 or > 0, found {num_epochs}")
        self._counter, self._source = counter, source
        self._left = num_epochs
        self._convert: Callable[[np.ndarray], Any] = np.asarray if output_numpy else Tensor
        self._as_dict = as_dict
        self._running: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._left == 0:
            raise RuntimeError("iterator: all of its num_epochs epochs have been used")
        self._left -= self._left > 0
        return self._pass(self._counter._next_epoch())

    @border
    def _pass(self, epoch: int) -> Iterator[Any]:
        names = self._source.get_col_names()
        for row in self._source._rows(epoch):
            values = [self._convert(a) for a in row]
            yield dict(builtins.zip(names, values, strict=True)) if self._as_dict else values

    def __next__(self) -> Any:
        if self._running is None:
            self._running = iter(self)
        try:
            return next(self._running)
        except StopIteration:
            self._running = None
            raise

    get_next = __next__


class BatchDataset(Dataset):
    """Rows stacked into batches; made by `Dataset.batch`.

    >>> import graphopt as ms
    >>> ms.dataset.NumpySlicesDataset([1, 2, 3]).batch(2, drop_remainder=True).get_dataset_size()
    1
    """

    def __init__(self, child: Dataset, batch_size: int, drop_remainder: bool = False, **kwargs: Any) -> None:
        self._per_batch = kwargs.pop("per_batch_map", None)
        inputs = _names("batch", kwargs.pop("input_columns", None) or child.get_col_names())
        outputs = _names("batch", kwargs.pop("output_columns", None) or inputs)
        for name in ("max_rowsize", "python_multiprocessing"):
            kwargs.pop(name, None)
        if kwargs:
            raise TypeError(f"batch: unknown argument {next(iter(kwargs))!r}")
        self._size = check_int("batch", "batch_size", batch_size, low=1)
        self._drop = check_bool("batch", "drop_remainder", drop_remainder)
        if self._per_batch is not None and not callable(self._per_batch):
            raise TypeError(f"batch: per_batch_map must be callable, found {found(self._per_batch)}")
        self._inputs = [_position(child, "batch", n) for n in inputs]
        columns = child.get_col_names()
        if self._per_batch is not None:
            columns = _replaced(columns, self._inputs, outputs)
        super().__init__(columns, (child,))

    def _rows(self, epoch: int) -> Iterator[Row]:
        for number, batch in enumerate(self._batches(epoch)):
            if self._per_batch is None:
                yield batch
                continue
            given = [[np.asarray(v) for v in batch[k]] for k in self._inputs]
            made = self._per_batch(*given, BatchInfo(epoch, number))
            made = made if isinstance(made, tuple) else (made,)
            yield _substituted(batch, self._inputs, [np.stack([np.asarray(v) for v in column]) for column in made])

    def _batches(self, epoch: int) -> Iterator[Row]:
        child = self._children[0]
        view = child._view(epoch)
        if view is not None:
            arrays, order = view
            for start in range(0, len(order), self._size):
                chosen = order[start : start + self._size]
                if len(chosen) == self._size or not self._drop:
                    yield tuple(a[chosen] for a in arrays)
            return
        pending: list[Row] = []
        for row in child._rows(epoch):
            pending.append(row)
            if len(pending) == self._size:
                yield self._stack(pending)
                pending = []
        if pending and not self._drop:
            yield self._stack(pending)

    def _stack(self, rows: list[Row]) -> Row:
        for name, column in builtins.zip(
            self._children[0].get_col_names(), builtins.zip(*rows, strict=True), strict=True
        ):
            shapes = {v.shape for v in column}
            if len(shapes) > 1:
                raise RuntimeError(f"batch: rows of column {name!r} have different shapes: {sorted(shapes)}")
        return tuple(np.stack(column) for column in builtins.zip(*rows, strict=True))

    def _count(self) -> int:
        rows = self._children[0]._count()
        return rows // self._size if self._drop else -(-rows // self._size)

    def get_batch_size(self) -> int:
        return self._size


class BatchInfo:
    """The last argument of a per_batch_map function: which batch of which epoch it is."""

    def __init__(self, epoch: int, batch: int) -> None:
        self._epoch, self._batch = epoch, batch

    def get_epoch_num(self) -> int:
        return self._epoch

    def get_batch_num(self) -> int:
        return self._batch


class ShuffleDataset(Dataset):
    """Rows drawn at random from a buffer; made by `Dataset.shuffle`.

    >>> import graphopt as ms
    >>> data = ms.dataset.NumpySlicesDataset([1, 2, 3], shuffle=False).shuffle(3)
    >>> sorted(int(x.asnumpy()) for (x,) in data)
    [1, 2, 3]
    """

    def __init__(self, child: Dataset, buffer_size: int) -> None:
        self._buffer = check_int("shuffle", "buffer_size", buffer_size, low=2)
        super().__init__(child.get_col_names(), (child,))

    def _view(self, epoch: int) -> View | None:
        view = self._children[0]._view(epoch)
        if view is None:
            return None
        if self._buffer >= len(view[1]):
            return view[0], named_generator("shuffle", epoch).permutation(view[1])
        return view[0], np.fromiter(self._drawn(iter(view[1]), epoch), np.int64, len(view[1]))

    def _rows(self, epoch: int) -> Iterator[Row]:
        if self._children[0]._view(epoch) is not None:
            yield from super()._rows(epoch)
        else:
            yield from self._drawn(self._children[0]._rows(epoch), epoch)

    def _drawn(self, rows: Iterator[Any], epoch: int) -> Iterator[Any]:
        buffer: list[Any] = []
        random = named_generator("shuffle", epoch)
        for row in rows:
            if len(buffer) < self._buffer:
                buffer.append(row)
                continue
            k = int(random.integers(self._buffer))
            yield buffer[k]
            buffer[k] = row
        for k in random.permutation(len(buffer)):
            yield buffer[k]

    def _count(self) -> int:
        return self._children[0]._count()


class MapDataset(Dataset):
    """Columns changed by functions; made by `Dataset.map`.

    >>> import graphopt as ms
    >>> data = ms.dataset.NumpySlicesDataset({"x": [1, 2]}, shuffle=False).map(lambda x: (x, x * x), "x", ["x", "square"])
    >>> [int(row["square"].asnumpy()) for row in data.create_dict_iterator()]
    [1, 4]
    """

    def __init__(self, child: Dataset, operations: Any, input_columns: Any, output_columns: Any) -> None:
        listed = list(operations) if isinstance(operations, (list, tuple)) else [operations]
        for operation in listed:
            if not callable(operation):
                raise TypeError(f"map: operations must be callable, found {found(operation)}")
        inputs = _names("map", input_columns if input_columns is not None else child.get_col_names()[:1])
        self._operations = listed
        self._inputs = [_position(child, "map", n) for n in inputs]
        self._outputs = _names("map", output_columns if output_columns is not None else inputs)
        super().__init__(_replaced(child.get_col_names(), self._inputs, self._outputs), (child,))

    def _rows(self, epoch: int) -> Iterator[Row]:
        for row in self._children[0]._rows(epoch):
            values = tuple(row[k] for k in self._inputs)
            for operation in self._operations:
                made = operation(*values)
                values = made if isinstance(made, tuple) else (made,)
            if len(values) != len(self._outputs):
                raise RuntimeError(
                    f"map: expected {len(self._outputs)} columns {self._outputs}, found {len(values)} results"
                )
            yield _substituted(row, self._inputs, [_array(v) for v in values])

    def _count(self) -> int:
        return self._children[0]._count()


class RepeatDataset(Dataset):
    """Several passes as one; made by `Dataset.repeat`.

    >>> import graphopt as ms
    >>> ms.dataset.NumpySlicesDataset([1, 2, 3]).repeat(2).get_dataset_size()
    6
    """

    def __init__(self, child: Dataset, count: int | None) -> None:
        count = -1 if count is None else check_int("repeat", "count", count)
        if count != -1 and count < 1:
            raise ValueError(f"repeat: count must be -1 or > 0, found {count}")
        self._times = count
        super().__init__(child.get_col_names(), (child,))

    def _view(self, epoch: int) -> View | None:
        views = [self._children[0]._view(epoch * self._times + k) for k in range(self._times)]
        if not views or any(v is None for v in views):
            return None
        return views[0][0], np.concatenate([v[1] for v in views if v is not None])  # type: ignore[index]

    def _rows(self, epoch: int) -> Iterator[Row]:
        k = 0
        while k != self._times:
            yield from self._children[0]._rows(max(epoch, 0) * max(self._times, 1) + k)
            k += 1

    def _count(self) -> int:
        return self._children[0]._count() * max(self._times, 1)

    def get_repeat_count(self) -> int:
        return self._times * self._children[0].get_repeat_count()


class SliceDataset(Dataset):
    """Rows from `start` on, at most `count`; made by `skip` and `take`.

    >>> import graphopt as ms
    >>> data = ms.dataset.NumpySlicesDataset([1, 2, 3, 4], shuffle=False).skip(1).take(2)
    >>> [int(x.asnumpy()) for (x,) in data]
    [2, 3]
    """

    def __init__(self, child: Dataset, start: int, count: int | None) -> None:
        self._start, self._stop = start, None if count is None else start + count
        super().__init__(child.get_col_names(), (child,))

    def _view(self, epoch: int) -> View | None:
        view = self._children[0]._view(epoch)
        return None if view is None else (view[0], view[1][self._start : self._stop])

    def _rows(self, epoch: int) -> Iterator[Row]:
        for k, row in enumerate(self._children[0]._rows(epoch)):
            if self._stop is not None and k >= self._stop:
                return
            if k >= self._start:
                yield row

    def _count(self) -> int:
        return len(range(self._children[0]._count())[self._start : self._stop])


class SelectDataset(Dataset):
    """Columns chosen and named; made by `project` and `rename`.

    >>> import graphopt as ms
    >>> data = ms.dataset.NumpySlicesDataset({"a": [1], "b": [2]}).project(["b"]).rename("b", "label")
    >>> data.get_col_names()
    ['label']
    """

    def __init__(self, child: Dataset, positions: list[int], columns: list[str]) -> None:
        if len(set(columns)) != len(columns):
            raise ValueError(f"column names must differ, found {columns}")
        self._positions = positions
        super().__init__(columns, (child,))

    def _view(self, epoch: int) -> View | None:
        view = self._children[0]._view(epoch)
        return None if view is None else (tuple(view[0][k] for k in self._positions), view[1])

    def _rows(self, epoch: int) -> Iterator[Row]:
        for row in self._children[0]._rows(epoch):
            yield tuple(row[k] for k in self._positions)

    def _count(self) -> int:
        return self._children[0]._count()


class ZipDataset(Dataset):
    """Datasets side by side; made by `zip`.

    >>> import graphopt as ms
    >>> a = ms.dataset.NumpySlicesDataset({"a": [1, 2]}, shuffle=False)
    >>> b = ms.dataset.NumpySlicesDataset({"b": [3, 4, 5]}, shuffle=False)
    >>> [[int(v.asnumpy()) for v in row] for row in ms.dataset.zip((a, b))]
    [[1, 3], [2, 4]]
    """

    def __init__(self, datasets: tuple[Dataset, ...]) -> None:
        if not isinstance(datasets, tuple) or len(datasets) < 2:
            raise ValueError(f"zip: expected a tuple of two or more datasets, found {found(datasets)}")
        for dataset in datasets:
            check_type("zip", "datasets", dataset, Dataset)
        columns = [name for d in datasets for name in d.get_col_names()]
        if len(set(columns)) != len(columns):
            raise ValueError(f"zip: column names must differ, found {columns}; rename one dataset's columns first")
        super().__init__(columns, datasets)

    def _rows(self, epoch: int) -> Iterator[Row]:
        for rows in builtins.zip(*(d._rows(epoch) for d in self._children), strict=False):
            yield tuple(value for row in rows for value in row)

    def _count(self) -> int:
        return min(d._count() for d in self._children)


def zip(datasets: tuple[Dataset, ...]) -> ZipDataset:
    """The columns of several datasets side by side, as long as the shortest.

    Errors: ValueError for fewer than two datasets or two columns of one name; TypeError for other things.

    >>> import graphopt as ms
    >>> a = ms.dataset.NumpySlicesDataset([1, 2], ["a"], shuffle=False)
    >>> b = ms.dataset.NumpySlicesDataset([3, 4], ["b"], shuffle=False)
    >>> [[int(v) for v in row] for row in ms.dataset.zip((a, b)).create_tuple_iterator()]
    [[1, 3], [2, 4]]
    """
    return ZipDataset(datasets)


def _array(value: Any) -> np.ndarray:
    return value.asnumpy() if isinstance(value, Tensor) else np.asarray(value)


def _names(owner: str, names: Any) -> list[str]:
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, (list, tuple)) or not all(isinstance(n, str) for n in listed):
        raise TypeError(f"{owner}: columns must be a str or a list of str, found {found(names)}")
    return list(listed)


def _position(dataset: Dataset, owner: str, name: str) -> int:
    columns = dataset.get_col_names()
    if name not in columns:
        raise ValueError(f"{owner}: no column {name!r}; the dataset has {columns}")
    return columns.index(name)


def _replaced(columns: list[str], positions: list[int], names: list[str]) -> list[str]:
    """`columns` with those at `positions` replaced: names stand where the first one stood."""
    first = min(positions)
    rest = [(k, c) for k, c in enumerate(columns) if k not in positions]
    result = [c for k, c in rest if k < first] + names + [c for k, c in rest if k >= first]
    if len(set(result)) != len(result):
        raise ValueError(f"column names must differ, found {result}")
    return result


def _substituted(row: Row, positions: list[int], values: list[np.ndarray]) -> Row:
    first = min(positions)
    before = tuple(v for k, v in enumerate(row) if k not in positions and k < first)
    after = tuple(v for k, v in enumerate(row) if k not in positions and k >= first)
    return (*before, *values, *after)
