"""How far a result may be from the expected one: one table per dtype, and the only comparison the tests use.

A wider tolerance is given by the test that needs it, with its reason.
"""

from __future__ import annotations

import numpy as np

# Relative to the expected number: one unit in the last place of a 16-bit float, a few of a longer one.
RELATIVE = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 4e-6, "float64": 1e-13}
# Relative to the magnitudes that were added up; 16-bit floats are added in float32.
SUMMED = {"float16": 4e-6, "bfloat16": 4e-6, "float32": 4e-6, "float64": 1e-13}
# Below this, only the absolute difference counts: the smallest normal number, times a little.
ABSOLUTE = {"float16": 1e-6, "bfloat16": 1e-37, "float32": 1e-37, "float64": 1e-300}

# Analytic derivatives against central differences in float64.
FIRST_DERIVATIVE = 1e-6
SECOND_DERIVATIVE = 1e-5


def assert_close(
    actual: np.ndarray,
    expected: np.ndarray,
    *,
    factor: float = 1.0,
    scale: np.ndarray | float = 0.0,
    stored: bool = False,
    what: str = "",
) -> None:
    """Equal dtype, shape, NaNs and infinities; integers and bools equal; floats within the table's tolerance.

    factor: widens the relative tolerances.
    scale:  magnitude of the numbers that were added up, where a sum may cancel.
    stored: the running sum lies in the result itself, so each addition is rounded to its dtype.
    """
    assert actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    name = expected.dtype.name
    if name not in RELATIVE:
        assert np.array_equal(actual, expected), f"{what}: {_worst(actual, expected, actual != expected)}"
        return
    with np.errstate(all="ignore"):
        a, e = actual.astype(np.float64), expected.astype(np.float64)
        sums = (RELATIVE if stored else SUMMED)[name] * scale
        allowed = factor * (RELATIVE[name] * np.abs(e) + sums) + ABSOLUTE[name]
        good = (
            (a == e)
            | (np.isnan(a) & np.isnan(e))
            | (np.isfinite(a) & np.isfinite(e) & (np.abs(a - e) <= allowed))
        )
    assert good.all(), f"{what}: {_worst(actual, expected, ~good)}"


def _worst(actual: np.ndarray, expected: np.ndarray, bad: np.ndarray) -> str:
    """How many elements differ, and the first one."""
    places = np.argwhere(bad)
    place = tuple(int(i) for i in places[0])
    found = f"{actual[place]!r}, expected {expected[place]!r}"
    return f"{len(places)} of {bad.size} elements differ, first {place}: {found}"
