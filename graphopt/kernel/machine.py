"""What lowering needs to know of the processor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """Vector unit and caches of the target.

    fma: a fused multiply-add is one instruction. scales: so are x * 2^n and an estimate of 1 / x, of f32 vectors.
    spreads: a vector instruction can read one element from memory for all its lanes.
    """

    vector_bytes: int
    vector_registers: int
    fma: bool
    half: bool = False
    scales: bool = False
    spreads: bool = False

    def lanes(self, itemsize: int) -> int:
        """Elements of one vector; at least 4 bytes each, so that narrow dtypes convert within one vector count."""
        return self.vector_bytes // max(itemsize, 4)


AVX512 = Machine(64, 32, True, True, True, True)
AVX2 = Machine(32, 16, True, True)
SSE2 = Machine(16, 16, False)
NEON = Machine(16, 32, True, True)
