"""Kernels: fused groups become loop nests here. The loop language, its interpreter, and the lowering into it."""
