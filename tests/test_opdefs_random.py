"""Random bits: the cipher's published answers, and which counter and key each element gets."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import input_node
from graphopt.ir.types import TensorType, i32, u32
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.random import philox2x32, random_bits

KEY = input_node("key", TensorType(u32, (2,)))


def bits(key: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    return evaluate_nodes([random_bits(KEY, shape=shape)], {KEY: np.array(key, np.uint32)})[0]


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0x00000000, 0x00000000), 0x00000000, (0xFF1DAE59, 0x6CD10DF2)),
        ((0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF, (0x2C3F628B, 0xAB4FD7AD)),
        ((0x243F6A88, 0x85A308D3), 0x13198A2E, (0xDD7CE038, 0xF62A4C12)),
    ],
)
def test_known_answers(counter: tuple[int, int], key: int, answer: tuple[int, int]) -> None:
    """The three vectors that the authors of the cipher publish for ten rounds."""
    low, high = (np.array([word], np.uint32) for word in counter)
    assert tuple(int(word[0]) for word in philox2x32(low, high, key)) == answer


def test_an_element_depends_on_its_number_alone() -> None:
    flat = bits((5, 7), (60,))
    assert np.array_equal(bits((5, 7), (3, 4, 5)).ravel(), flat)
    assert np.array_equal(bits((5, 7), (17,)), flat[:17])
    assert bits((5, 7), ())[()] == flat[0]
    assert bits((0, 0), (1,))[0] == 0xFF1DAE59


def test_the_second_key_word_is_the_counters_high_word() -> None:
    words, _ = philox2x32(np.arange(4), np.full(4, 9), 3)
    assert np.array_equal(bits((3, 9), (4,)), words)


def test_streams_differ_and_bits_are_even() -> None:
    """Each of the 32 bits is set in half of the words of each stream, within five standard deviations."""
    n = 1 << 14
    streams = [bits(key, (n,)) for key in ((0, 0), (1, 0), (0, 1), (1, 1), (0xFFFFFFFF, 0xFFFFFFFF))]
    for words in streams:
        counts = [(words >> b & 1).sum() for b in range(32)]
        assert np.all(np.abs(np.array(counts) - n / 2) < 5 * np.sqrt(n) / 2)
    for a in range(len(streams)):
        for b in range(a):
            ones = np.bitwise_count(streams[a] ^ streams[b]).sum()
            assert abs(int(ones) - 16 * n) < 5 * np.sqrt(8 * n)


def test_errors() -> None:
    with pytest.raises(DTypeError, match="random_bits: expects a key of u32, found i32"):
        random_bits(input_node("key", TensorType(i32, (2,))), shape=(3,))
    with pytest.raises(ShapeError, match=r"random_bits: expects a key of two words, found shape \(3,\)"):
        random_bits(input_node("key", TensorType(u32, (3,))), shape=(3,))
