"""The cases of control.npz: functions with Python's control flow on Tensors, run by both libraries under one `jit`.

Each takes Tensors and returns a Tensor or a tuple of them. CASES: name -> (function, argument lists); ints become int32,
floats float32, lists float32 arrays.
"""

from __future__ import annotations

import numpy as np


def if_by_value(x):
    if x > 0:
        y = x * 2
    else:
        y = x - 1
    return y


def if_in_if(x):
    if x > 0:
        if x > 10:
            y = x * 100
        else:
            y = x + 1
    else:
        if x < -10:
            y = -x
        else:
            y = x * 0
    return y + 1


def early_return(x):
    if x > 10:
        return x * 100
    if x < 0:
        return -x
    return x * 3


def nested_early_return(x):
    if x > 0:
        if x > 10:
            return x * 100
        y = x + 1
    elif x == 0:
        return x + 7
    else:
        y = -x
    return y * 3


def counter_loop(n, x):
    i = n * 0
    total = x * 0
    while i < n:
        total = total + x * i
        i = i + 1
    return total, i


def if_in_while(n, x):
    while n > 1:
        if n % 2 == 0:
            n = n // 2
        else:
            n = 3 * n + 1
        x = x + 1
    return x, n


def while_in_while(n, x):
    i = n * 0
    while i < n:
        j = n * 0
        while j < i:
            x = x + j
            j = j + 1
        i = i + 1
    return x


def while_in_for(n, x):
    for k in range(3):
        j = n * 0
        while j < n:
            x = x + k
            j = j + 1
    return x


def for_in_while(n, x):
    i = n * 0
    while i < n:
        for k in range(3):
            x = x + k * i
        i = i + 1
    return x


def while_in_if(n, x):
    if x > 0:
        while n > 0:
            x = x * 2
            n = n - 1
    else:
        x = x - 1
    return x


def break_in_while(n, x):
    i = n * 0
    while i < 100:
        x = x + i
        if x > 20:
            break
        i = i + n
    return x, i


def continue_in_while(n, x):
    i = n * 0
    while i < 10:
        i = i + 1
        if i % n == 0:
            continue
        x = x + i
    return x


def return_in_while(n, x):
    i = n * 0
    while i < 10:
        x = x + i
        if x > 12:
            return x * 2
        i = i + n
    return x - 1


def break_in_for(n, x):
    for i in range(8):
        if x > n:
            break
        x = x + i
    return x


def and_or_not(n, x):
    y = x
    if n > 2 and x > 0:
        y = y + 1
    if n > 4 or x < 0:
        y = y + 10
    if not n > 3:
        y = y + 100
    return y


def conditional_expression(n, x):
    y = x * 2 if n > 2 else x * 5
    return y + 1


def chained_comparison(n, x):
    if 1 < n < 4:
        return x + 1
    return x - 1


def helper(x):
    if x > 3:
        return x - 3
    return x + 5


def calls_a_function(x):
    y = helper(x)
    y = helper(y)
    return helper(y) * 2


def loop_over_vector(n, v):
    i = n * 0
    while i < n:
        v = v * 2 - i
        i = i + 1
    return v


CASES = {
    "if_by_value": (if_by_value, [[1.5], [-2.0], [0.0]]),
    "if_in_if": (if_in_if, [[20.0], [5.0], [-3.0], [-30.0]]),
    "early_return": (early_return, [[20.0], [5.0], [-3.0]]),
    "nested_early_return": (nested_early_return, [[20.0], [5.0], [0.0], [-3.0]]),
    "counter_loop": (counter_loop, [[5, 2.0], [0, 1.0]]),
    "if_in_while": (if_in_while, [[7, 0.5], [1, 3.0], [27, 0.0]]),
    "while_in_while": (while_in_while, [[4, 0.5], [0, 3.0]]),
    "while_in_for": (while_in_for, [[4, 0.5], [0, 3.0]]),
    "for_in_while": (for_in_while, [[4, 0.5], [0, 3.0]]),
    "while_in_if": (while_in_if, [[4, 0.5], [4, -3.0], [0, 2.0]]),
    "break_in_while": (break_in_while, [[4, 0.5], [1, 30.0], [60, 1.0]]),
    "continue_in_while": (continue_in_while, [[4, 0.5], [1, 3.0]]),
    "return_in_while": (return_in_while, [[4, 0.5], [1, -100.0], [1, 30.0]]),
    "break_in_for": (break_in_for, [[4, 0.5], [100, 3.0], [0, 1.0]]),
    "and_or_not": (and_or_not, [[4, 0.5], [1, -3.0], [5, 2.0], [3, 1.0]]),
    "conditional_expression": (conditional_expression, [[4, 0.5], [1, -3.0]]),
    "chained_comparison": (chained_comparison, [[4, 0.5], [2, -3.0], [1, 1.0]]),
    "calls_a_function": (calls_a_function, [[4.0], [-30.0], [100.0]]),
    "loop_over_vector": (loop_over_vector, [[4, [0.5, 1.5, -2.0]], [0, [0.5, 1.5, -2.0]]]),
}


def tensors(arguments):
    """The arguments of a case as arrays: int32, or float32."""
    return [np.asarray(a, np.int32 if isinstance(a, int) else np.float32) for a in arguments]
