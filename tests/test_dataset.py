"""Pipelines: sources, steps, order, epochs, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt as ms
from graphopt import dataset as ds


def values(data: ds.Dataset, column: int = 0) -> list:
    return [row[column].tolist() for row in data.create_tuple_iterator(output_numpy=True)]


def numbers(n: int = 6, **kwargs) -> ds.Dataset:
    return ds.NumpySlicesDataset({"x": np.arange(n), "y": np.arange(n) * 10}, **kwargs)


def stream(n: int = 6) -> ds.Dataset:
    """A source without random access."""
    return ds.GeneratorDataset(lambda: ((np.int64(k), np.int64(10 * k)) for k in range(n)), ["x", "y"])


@pytest.mark.parametrize("source", [lambda: numbers(shuffle=False), stream])
def test_steps_keep_rows_together(source) -> None:
    assert values(source().batch(4)) == [[0, 1, 2, 3], [4, 5]]
    assert values(source().batch(4, drop_remainder=True), 1) == [[0, 10, 20, 30]]
    assert values(source().skip(1).take(3)) == [1, 2, 3]
    assert values(source().repeat(2).batch(5)) == [[0, 1, 2, 3, 4], [5, 0, 1, 2, 3], [4, 5]]
    assert values(source().project("y").rename("y", "z")) == [0, 10, 20, 30, 40, 50]
    assert values(source().map(lambda x, y: (x + y,), ["x", "y"], "s")) == [0, 11, 22, 33, 44, 55]
    shuffled = source().shuffle(4)
    rows = list(shuffled.create_dict_iterator(output_numpy=True))
    assert sorted(int(r["x"]) for r in rows) == list(range(6)) and all(r["y"] == 10 * r["x"] for r in rows)


def test_sizes_and_types() -> None:
    data = numbers(10, shuffle=False).batch(4).repeat(3)
    assert (data.get_dataset_size(), data.get_batch_size(), data.get_repeat_count(), len(data)) == (9, 4, 3, 9)
    assert numbers(10).batch(4, True).get_dataset_size() == 2
    assert data.output_shapes() == [[4], [4]] and data.output_types() == [np.int64, np.int64]
    assert stream(5).get_dataset_size() == 5 and numbers(4).skip(9).get_dataset_size() == 0
    assert numbers().get_col_names() == ["x", "y"]
    assert ds.NumpySlicesDataset(([1], [2])).get_col_names() == ["column_0", "column_1"]


def test_iterators_give_tensors_of_the_source_dtype() -> None:
    (row,) = ds.NumpySlicesDataset(np.ones((1, 2, 3), np.float16))
    assert isinstance(row[0], ms.Tensor) and row[0].dtype is ms.float16 and row[0].shape == (2, 3)
    named = next(iter(numbers(1).create_dict_iterator()))
    assert set(named) == {"x", "y"} and named["x"].dtype is ms.int64


@pytest.mark.parametrize(
    "make", [lambda: numbers(50), lambda: numbers(50, shuffle=False).shuffle(50), lambda: stream(50).shuffle(16)]
)
def test_epochs_differ_and_repeat_after_set_seed(make) -> None:
    ms.set_seed(5)
    data = make()
    first = [values(data), values(data)]
    ms.set_seed(5)
    again = [values(data), values(data)]
    fresh = make()
    assert first[0] != first[1] and again == first
    ms.set_seed(5)
    assert values(fresh) == first[0]
    ms.set_seed(6)
    assert values(fresh) != first[0]


def test_small_buffers_shuffle_near_the_row() -> None:
    order = values(numbers(100, shuffle=False).shuffle(5))
    assert sorted(order) == list(range(100)) and order != list(range(100))
    assert all(row - position <= 5 for position, row in enumerate(order))


def test_an_iterator_counts_its_epochs() -> None:
    iterator = numbers(4, shuffle=False).create_tuple_iterator(num_epochs=2, output_numpy=True)
    assert len(list(iterator)) == 4 and len(list(iterator)) == 4
    with pytest.raises(RuntimeError, match="epochs"):
        list(iterator)


def test_samplers_and_shards() -> None:
    assert values(ds.NumpySlicesDataset(np.arange(6), sampler=ds.SubsetSampler([4, 1]))) == [4, 1]
    assert values(ds.NumpySlicesDataset(np.arange(6), sampler=ds.SequentialSampler(2, 2))) == [2, 3]
    assert values(ds.NumpySlicesDataset(np.arange(6), sampler=[5, 0])) == [5, 0]
    assert len(values(ds.NumpySlicesDataset(np.arange(6), num_samples=2))) == 2
    parts = [values(ds.NumpySlicesDataset(np.arange(5), shuffle=False, num_shards=2, shard_id=k)) for k in (0, 1)]
    assert parts == [[0, 2, 4], [1, 3, 0]]
    drawn = values(ds.NumpySlicesDataset(np.arange(3), sampler=ds.RandomSampler(True, 20)))
    assert len(drawn) == 20 and set(drawn) <= {0, 1, 2}


def test_random_access_sources() -> None:
    class Squares:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, k: int):
            return np.float32(k), np.float32(k * k)

    data = ds.GeneratorDataset(Squares(), ["x", "square"], shuffle=False)
    assert values(data, 1) == [0, 1, 4, 9, 16]
    typed = ds.GeneratorDataset(Squares(), ["x", "square"], column_types=[ms.int32, ms.float16], shuffle=False)
    assert typed.output_types() == [np.int32, np.float16]
    ms.set_seed(1)
    shuffled = ds.GeneratorDataset(Squares(), ["x", "square"])
    orders = [values(shuffled) for _ in range(5)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders) and len({tuple(order) for order in orders}) > 2


def test_zip_and_per_batch_map() -> None:
    zipped = ds.zip((numbers(3, shuffle=False), ds.NumpySlicesDataset({"z": [7, 8]}, shuffle=False)))
    assert zipped.get_col_names() == ["x", "y", "z"] and zipped.get_dataset_size() == 2
    assert values(zipped, 2) == [7, 8]
    data = numbers(4, shuffle=False).batch(
        2, per_batch_map=lambda x, info: ([v + info.get_batch_num() for v in x],), input_columns="x"
    )
    assert values(data) == [[0, 1], [3, 4]]


def test_later_writes_do_not_reach_a_batch() -> None:
    source = np.arange(4)
    (batch,) = ds.NumpySlicesDataset(source, shuffle=False).batch(4)
    source[:] = 9
    assert batch[0].asnumpy().tolist() == [0, 1, 2, 3]


WRONG = [
    (lambda: numbers().batch(0), ValueError, "batch_size"),
    (lambda: numbers().batch("a"), TypeError, "batch_size"),
    (lambda: numbers().batch(2, nothing=1), TypeError, "nothing"),
    (lambda: numbers().shuffle(1), ValueError, "buffer_size"),
    (lambda: numbers().repeat(0), ValueError, "count"),
    (lambda: numbers().take(0), ValueError, "count"),
    (lambda: numbers().skip(-1), ValueError, "count"),
    (lambda: numbers().project("z"), ValueError, "'z'"),
    (lambda: numbers().rename(["x"], ["y"]), ValueError, "differ"),
    (lambda: numbers().map(3), TypeError, "callable"),
    (lambda: list(numbers().map(lambda x: (x, x), "x")), RuntimeError, "2 results"),
    (lambda: ds.NumpySlicesDataset((np.zeros(3), np.zeros(4))), ValueError, "[3, 4]"),
    (lambda: ds.NumpySlicesDataset(3), TypeError, "3"),
    (lambda: ds.NumpySlicesDataset([1], ["a", "b"]), ValueError, "['a', 'b']"),
    (lambda: ds.NumpySlicesDataset([1], sampler=ds.SubsetSampler([0]), shuffle=True), RuntimeError, "together"),
    (lambda: list(ds.NumpySlicesDataset([1], sampler=ds.SubsetSampler([4]))), RuntimeError, "row 4"),
    (lambda: ds.NumpySlicesDataset([1], num_shards=2), RuntimeError, "shard_id"),
    (lambda: ds.GeneratorDataset(3, ["a"]), TypeError, "source"),
    (lambda: ds.GeneratorDataset(lambda: [], None), ValueError, "column_names"),
    (lambda: list(ds.GeneratorDataset(lambda: iter([(1, 2)]), ["a"])), RuntimeError, "2"),
    (lambda: ds.zip((numbers(), numbers())), ValueError, "differ"),
    (
        lambda: list(ds.GeneratorDataset(lambda: iter([np.zeros(1), np.zeros(2)]), ["a"]).batch(2)),
        RuntimeError,
        "shapes",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_bad_input(call, error, text) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
