#!/usr/bin/env python3
"""Record control.npz with a real MindSpore (2.10, CPU, GRAPH_MODE): the cases of control_cases.py.

Usage:  <mindspore-python> make_control.py

For argument list <k> of case <name>: `<name>/<k>/<result>`, and `<name>/<k>/grad`, the gradient of the sum of its
results with respect to the last argument.
"""

import os

import mindspore as ms
import numpy as np
from control_cases import CASES, tensors
from mindspore import ops


def main():
    ms.set_context(mode=ms.GRAPH_MODE)
    data = {}
    for name, (function, argument_lists) in CASES.items():
        for k, arguments in enumerate(argument_lists):
            inputs = [ms.Tensor(a) for a in tensors(arguments)]
            try:
                results = ms.jit(function)(*inputs)
                results = results if isinstance(results, tuple) else (results,)
                for r, result in enumerate(results):
                    data[f"{name}/{k}/{r}"] = result.asnumpy()
            except Exception as error:
                print(name, k, "FAILED", type(error).__name__, str(error)[:300].replace("\n", " | "))
            try:
                gradient = ops.GradOperation(get_all=True)(function)(*inputs)[-1]
                data[f"{name}/{k}/grad"] = gradient.asnumpy()
            except Exception as error:
                print(name, k, "gradient FAILED", type(error).__name__, str(error)[:300].replace("\n", " | "))
    np.savez_compressed(os.path.join(os.path.dirname(os.path.abspath(__file__)), "control.npz"), **data)
    print(len(data), "arrays;", ms.__version__)


if __name__ == "__main__":
    main()
