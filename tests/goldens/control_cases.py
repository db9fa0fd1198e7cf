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


def if_in_if_in_for(n, x):
    for k in range(4):
        if x > k:
            if n > k:
                x = x * 1.5
            else:
                x = x - 1
        elif n == k:
            x = x + 3
    return x


def if_between_loops(n, x):
    i = n * 0
    while i < n:
        x = x * 1.5
        i = i + 1
    if x > 4:
        x = x / 2
    else:
        x = x + 2
    while i > 0:
        x = x + i * x
        i = i - 2
    return x


def loops_on_both_sides(n, x):
    if x > 0:
        i = n * 0
        while i < n:
            x = x * 2
            i = i + 1
    else:
        for k in range(3):
            x = x - k * x
    return x * x


def if_in_while_in_for(n, x):
    for k in range(3):
        j = n * 0
        while j < n:
            if j % 2 == k % 2:
                x = x * 1.25
            else:
                x = x - j
            j = j + 1
    return x


def if_in_for_in_while(n, x):
    i = n * 0
    while i < n:
        for k in range(3):
            if x > 3 * k:
                x = x * 0.5
            else:
                x = x + k + i
        i = i + 1
    return x


def while_in_while_in_if(n, x):
    if n > 2:
        i = n * 0
        while i < n:
            j = n * 0
            while j < i:
                x = x * 1.1 + j
                j = j + 2
            i = i + 1
    return x


def while_in_while_in_while(n, x):
    i = n * 0
    while i < n:
        j = i
        while j < n:
            k = j
            while k < n:
                x = x + i * j - k * x * 0.1
                k = k + 1
            j = j + 1
        i = i + 1
    return x


def while_and(n, x):
    i = n * 0
    while i < n and x < 20:
        x = x * 2 + 1
        i = i + 1
    return x, i


def while_or(n, x):
    while n > 3 or x < 4:
        x = x * 1.5 + 1
        n = n - 1
    return x, n


def while_not_and_or(n, x):
    i = n * 0
    while not (i >= n) and (x < 10 or i < 2):
        x = x * x + 1
        i = i + 1
    return x


def break_in_inner_while(n, x):
    i = n * 0
    while i < n:
        j = n * 0
        while j < n:
            if j > i:
                break
            x = x + j * x
            j = j + 1
        x = x - 1
        i = i + 1
    return x


def break_in_both_loops(n, x):
    i = n * 0
    while i < 10:
        for k in range(5):
            if k > n:
                break
            x = x + k * 0.5 * x
        if x > 50:
            break
        i = i + 1
    return x, i


def continue_in_both_loops(n, x):
    i = n * 0
    while i < n:
        i = i + 1
        if i == 2:
            continue
        j = n * 0
        while j < 4:
            j = j + 1
            if j == i:
                continue
            x = x * 1.1 + j
    return x


def break_and_continue(n, x):
    for k in range(10):
        if k % 2 == 0:
            continue
        if x > 30:
            break
        x = x * 1.5 + n
    return x


def return_in_inner_while(n, x):
    i = n * 0
    while i < 5:
        j = n * 0
        while j < n:
            if x > 40:
                return x * 3
            x = x + x * j * 0.5
            j = j + 1
        i = i + 1
    return x + 1


def return_in_if_in_for(n, x):
    for k in range(6):
        if n == k:
            if x > 2:
                return x * k
            x = x + 1
        x = x * 1.5
    return x - n


def return_on_every_side(n, x):
    if n > 3:
        if x > 0:
            while x < 10:
                x = x * 2
            return x
        return x * x
    elif n > 1:
        return x * n
    while n < 5:
        if x > 3:
            return x - n
        x = x + 1.5
        n = n + 1
    return -x


def counters_down_and_up(n, x):
    low = n * 0
    high = n
    while low < high:
        x = x * (high - low) * 0.5
        low = low + 1
        high = high - 1
    return x, low, high


def float_counter(t, x):
    s = t * 0.0
    while s < t:
        x = x + s * x * x * 0.1
        s = s + 0.25
    return x


def counter_is_a_power(n, x):
    p = n * 0 + 1
    while p < n:
        x = x * p * 0.75
        p = p * 2
    return x, p


def two_carries_swap(n, x):
    a = x
    b = x * 0 + 1
    i = n * 0
    while i < n:
        c = a + b * x
        a = b
        b = c
        i = i + 1
    return a, b


def state_of_a_tuple(n, x):
    pair = (x, x * 2)
    i = n * 0
    while i < n:
        pair = (pair[1], pair[0] * 0.5 + pair[1])
        i = i + 1
    return pair[0] * pair[1]


def conditional_expression_in_while(n, x):
    i = n * 0
    while i < n:
        x = x * 1.5 if x < 5 else x - 4
        i = i + 1
    return x


def function_in_while(n, x):
    i = n * 0
    while i < n:
        x = helper(x) * 1.5
        i = i + 1
    return helper(x)


def recursion_over_helpers(n, x):
    y = while_in_if(n, x)
    if y > 3:
        y = if_in_if(y)
    return y * x


def vector_until_its_sum(n, v):
    i = n * 0
    while v.sum() < 40 and i < n:
        v = v * 1.5 + 1
        i = i + 1
    return v, i


def vector_by_element(n, v):
    for k in range(3):
        if v[k] > 1:
            v = v * 0.5
        else:
            v = v + n
    return v * v


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
    "if_in_if_in_for": (if_in_if_in_for, [[4, 0.5], [2, 3.0], [0, -1.0], [1, 1.5]]),
    "if_between_loops": (if_between_loops, [[4, 0.5], [0, 3.0], [3, 5.0]]),
    "loops_on_both_sides": (loops_on_both_sides, [[3, 0.5], [3, -2.0], [0, 2.0]]),
    "if_in_while_in_for": (if_in_while_in_for, [[4, 0.5], [0, 3.0], [1, -2.0]]),
    "if_in_for_in_while": (if_in_for_in_while, [[4, 0.5], [0, 3.0], [2, 9.0]]),
    "while_in_while_in_if": (while_in_while_in_if, [[5, 0.5], [2, 3.0], [3, -1.0]]),
    "while_in_while_in_while": (while_in_while_in_while, [[4, 0.5], [0, 3.0], [2, -1.0]]),
    "while_and": (while_and, [[3, 0.5], [30, 2.0], [0, 1.0], [5, 25.0]]),
    "while_or": (while_or, [[6, 0.5], [2, 0.25], [3, 9.0]]),
    "while_not_and_or": (while_not_and_or, [[4, 0.5], [9, 1.5], [1, 20.0], [0, 1.0]]),
    "break_in_inner_while": (break_in_inner_while, [[4, 0.5], [0, 3.0], [2, -1.0]]),
    "break_in_both_loops": (break_in_both_loops, [[2, 0.5], [9, 1.0], [0, 3.0]]),
    "continue_in_both_loops": (continue_in_both_loops, [[4, 0.5], [2, 3.0], [0, 1.0]]),
    "break_and_continue": (break_and_continue, [[1, 0.5], [9, 2.0], [0, 31.0]]),
    "return_in_inner_while": (return_in_inner_while, [[3, 0.5], [4, 3.0], [0, 1.0], [3, 50.0]]),
    "return_in_if_in_for": (return_in_if_in_for, [[3, 1.0], [0, 0.5], [9, 1.0], [1, 0.25]]),
    "return_on_every_side": (return_on_every_side, [[4, 0.75], [5, -2.0], [2, 1.5], [0, 1.0], [1, 4.0], [4, 11.0], [0, -30.0]]),
    "counters_down_and_up": (counters_down_and_up, [[7, 0.5], [0, 3.0], [4, -1.0]]),
    "float_counter": (float_counter, [[1.5, 0.5], [0.0, 3.0]]),
    "counter_is_a_power": (counter_is_a_power, [[20, 0.5], [1, 3.0], [8, -1.0]]),
    "two_carries_swap": (two_carries_swap, [[5, 0.5], [0, 3.0], [1, 2.0]]),
    "state_of_a_tuple": (state_of_a_tuple, [[4, 0.5], [0, 3.0]]),
    "conditional_expression_in_while": (conditional_expression_in_while, [[6, 0.5], [0, 3.0], [2, 9.0]]),
    "function_in_while": (function_in_while, [[4, 0.5], [0, 3.0], [3, 9.0]]),
    "recursion_over_helpers": (recursion_over_helpers, [[4, 0.5], [2, -3.0], [0, 3.5]]),
    "vector_until_its_sum": (vector_until_its_sum, [[9, [0.5, 1.5, -2.0]], [2, [0.5, 1.5, 2.0]], [0, [1.0, 2.0, 3.0]]]),
    "vector_by_element": (vector_by_element, [[2, [0.5, 1.5, -2.0]], [0, [5.0, 1.5, 0.25]]]),
}


def tensors(arguments):
    """The arguments of a case as arrays: int32, or float32."""
    return [np.asarray(a, np.int32 if isinstance(a, int) else np.float32) for a in arguments]
