"""What is measured, side by side for every framework: a file per program.

A program has `arrays(sizes, rng)`, which gives the initial weights `weight.<name>` in the order of the network's
parameters and the batches `batch.<name>`, stacked; and `in_torch`, `in_jax`, `in_mindspore(kit, sizes, arrays)`, which
return the step (see serve.py). graphopt runs `in_mindspore`. Frameworks are imported inside: no Python has all of them.
"""
