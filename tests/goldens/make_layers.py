#!/usr/bin/env python3
"""Record layers.npz with a real MindSpore (2.10, CPU): the cases of layer_cases.py.

Usage:  <mindspore-python> make_layers.py

For case <name>: `<name>/out`, `<name>/grad` (of sum(out * weight) with respect to the first float input; weight
counts 1, 2, 3 … / 8 cyclically), `<name>/p:<parameter>` after the call.
"""

import os

import mindspore as ms
import numpy as np
from layer_cases import CASES, make_inputs, make_parameter
from mindspore import Tensor, nn, ops


def main():
    data = {}
    for number, (name, expression, specs, training) in enumerate(CASES):
        try:
            net = eval(expression, {"nn": nn, "ops": ops, "Tensor": Tensor, "np": np, "__name__": "cases"})
            inputs = [Tensor(a) for a in make_inputs(number, specs)]
            if isinstance(net, nn.Cell):
                net.set_train(training)
                for position, parameter in enumerate(net.get_parameters()):
                    parameter.set_data(Tensor(make_parameter(number, position, parameter.shape)))
            out = net(*inputs)
            data[name + "/out"] = out.asnumpy()
            if isinstance(net, nn.Cell):
                for parameter in net.get_parameters():
                    data[name + "/p:" + parameter.name] = parameter.asnumpy().copy()
            if specs[0][0] != "i":
                weight = (1 + np.arange(out.size) % 8).reshape(out.shape).astype(np.float32) / 8
                grad = ops.GradOperation(sens_param=True)(net)(*inputs, Tensor(weight))
                data[name + "/grad"] = grad.asnumpy()
        except Exception as error:
            print(name, "FAILED", type(error).__name__, str(error)[:300].replace("\n", " | "))
    np.savez_compressed(os.path.join(os.path.dirname(os.path.abspath(__file__)), "layers.npz"), **data)
    print(len(data), "arrays;", ms.__version__)


if __name__ == "__main__":
    ms.set_context(mode=ms.PYNATIVE_MODE)
    main()
