"""The processor that code is generated for."""

from __future__ import annotations

from graphopt.kernel.machine import AVX2, AVX512, NEON, SSE2, Machine
from graphopt_runtime.engine import Target


def machine_of(target: Target) -> Machine:
    """The vector unit a target offers, from its features: AVX-512, AVX2 with FMA, NEON, else 128-bit vectors."""
    off = {f[1:] for f in target.features.split(",") if f.startswith("-")}
    on = {f[1:] for f in target.features.split(",") if f.startswith("+")} - off
    if target.triple.startswith(("aarch64", "arm64")):
        return NEON
    if not {"avx2", "fma", "f16c"} <= on:
        return SSE2
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= on:  # LLVM turns them off with what they build on
        return AVX512
    return AVX2
