#!/usr/bin/env python3
"""Record opt_<case>.npz and more_errors.json with a real MindSpore (2.10, CPU): AdaMax, Adadelta, ASGD, Rprop.

Usage:  <mindspore-python> make_optimizers.py

Members of a case: `meta` (JSON text: optimizer, kwargs, groups, param_order, steps), `init:<param>`, `grad:<param>`
(steps, ...), `param:<param>` and `state:<name>` after each step, `lr` before each step. A rate that is a list is an
Iterable, {"$tensor": ...} a Tensor, {"$schedule": [class, arguments]} a schedule.
"""

import json
import os

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS = 10
SHAPES = {"fc.weight": (5, 3), "fc.bias": (5,), "conv.weight": (2, 3, 2, 2), "bn.gamma": (4,)}
RATES = [0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.04, 0.03, 0.02, 0.01]
SCHEDULE = {"$schedule": ["ExponentialDecayLR", {"learning_rate": 0.1, "decay_rate": 0.9, "decay_steps": 4}]}
BASE = {"AdaMax": 0.01, "Adadelta": 0.5, "ASGD": 0.05, "Rprop": 0.02}
WITH_SCALE = ("AdaMax", "Adadelta")
OWN = {
    "adamax_betas": ("AdaMax", {"beta1": 0.5, "beta2": 0.75, "eps": 1e-3}),
    "adadelta_rho_epsilon": ("Adadelta", {"rho": 0.5, "epsilon": 1e-2}),
    "adadelta_rho1": ("Adadelta", {"rho": 1.0}),
    "asgd_t0": ("ASGD", {"t0": 3.0, "lambd": 0.1, "alpha": 0.5}),
    "rprop_etas": ("Rprop", {"etas": (0.25, 2.0)}),
    "rprop_step_sizes": ("Rprop", {"step_sizes": (0.015, 0.03)}),
}


def groups(**second):
    first = {"params": ["conv.weight"], "weight_decay": 0.1}
    order = {"order_params": ["fc.weight", "fc.bias", "conv.weight", "bn.gamma"]}
    return [first, {"params": ["fc.weight", "fc.bias", "bn.gamma"], **second}, order]


def cases():
    for name, rate in BASE.items():
        tag, base = name.lower(), {"learning_rate": rate}
        yield tag + "_plain", name, base, None, 1
        yield tag + "_weight_decay", name, dict(base, weight_decay=0.05), None, 1
        yield tag + "_lr_list", name, {"learning_rate": RATES}, None, 1
        yield tag + "_lr_tensor1d", name, {"learning_rate": {"$tensor": RATES}}, None, 1
        yield tag + "_lr_schedule", name, {"learning_rate": SCHEDULE}, None, 1
        yield tag + "_groups_lr", name, dict(base, weight_decay=0.02), groups(lr=0.02), 1
        yield tag + "_groups_lr_dynamic", name, {"learning_rate": RATES}, groups(lr=RATES[::-1]), 1
        if name in WITH_SCALE:
            yield tag + "_loss_scale_wd", name, dict(base, loss_scale=8.0, weight_decay=0.05), None, 8
    for tag, (name, kwargs) in OWN.items():
        yield tag, name, dict(kwargs, learning_rate=BASE[name]), None, 1


def decode(value):
    if isinstance(value, dict) and "$tensor" in value:
        return Tensor(np.array(value["$tensor"], np.float32))
    if isinstance(value, dict) and "$schedule" in value:
        return getattr(nn, value["$schedule"][0])(**value["$schedule"][1])
    return value


def encode(value):
    return {"$tuple": list(value)} if isinstance(value, tuple) else value


def lr_now(optimizer):
    value = optimizer.get_lr()
    if isinstance(value, (tuple, list)):
        return np.array([float(v.asnumpy().reshape(-1)[0]) for v in value])
    return np.array(float(value.asnumpy().reshape(-1)[0]))


def record(case, name, kwargs, grouped, scale):
    rng = np.random.RandomState(7)
    init = {n: (np.round(32 * rng.randn(*s)) / 64).astype(np.float32) for n, s in SHAPES.items()}
    grads = {n: (np.round(64 * rng.randn(STEPS, *s)) / 64 * scale).astype(np.float32) for n, s in SHAPES.items()}
    params = {n: Parameter(Tensor(v.copy()), name=n) for n, v in init.items()}
    given = list(params.values())
    if grouped:
        names = ("params", "order_params")
        given = [{k: [params[n] for n in v] if k in names else decode(v) for k, v in g.items()} for g in grouped]
    optimizer = getattr(nn, name)(given, **{k: decode(v) for k, v in kwargs.items()})
    order = [p.name for p in optimizer.parameters]
    states = [p for p in optimizer.get_parameters() if p.name not in params and not p.name.startswith("learning_rate")]
    history = {"param:" + n: [] for n in order} | {"state:" + p.name: [] for p in states} | {"lr": []}
    for step in range(STEPS):
        history["lr"].append(lr_now(optimizer))
        optimizer(tuple(Tensor(grads[n][step]) for n in order))
        for n in order:
            history["param:" + n].append(params[n].asnumpy().copy())
        for p in states:
            history["state:" + p.name].append(p.asnumpy().copy())
    data = {k: np.stack(v) for k, v in history.items()}
    data |= {"init:" + n: init[n] for n in order} | {"grad:" + n: grads[n] for n in order}
    meta = {"name": case, "optimizer": name, "kwargs": {k: encode(v) for k, v in kwargs.items()}, "steps": STEPS}
    meta |= {"param_order": order, "mindspore": ms.__version__} | ({"groups": grouped} if grouped else {})
    np.savez_compressed(os.path.join(HERE, f"opt_{case}.npz"), meta=json.dumps(meta, sort_keys=True), **data)


CALLS = """\
nn.AdaMax(p,beta1=1.0)
nn.AdaMax(p,beta1=1)
nn.AdaMax(p,beta2=0.0)
nn.AdaMax(p,beta2='a')
nn.AdaMax(p,eps=0.0)
nn.AdaMax(p,eps=1)
nn.AdaMax(p,weight_decay=-1)
nn.AdaMax(p,weight_decay='a')
nn.AdaMax(p,weight_decay=1)
nn.AdaMax(p,loss_scale=0.0)
nn.AdaMax(p,loss_scale='a')
nn.AdaMax(p,learning_rate=-0.1)
nn.AdaMax(p,use_locking=True)
nn.Adadelta(p,rho=1)
nn.Adadelta(p,rho=1.5)
nn.Adadelta(p,rho=-0.1)
nn.Adadelta(p,rho=1.0)
nn.Adadelta(p,rho=0.0)
nn.Adadelta(p,epsilon=1)
nn.Adadelta(p,epsilon=-1e-6)
nn.Adadelta(p,epsilon=0.0)
nn.Adadelta(p,weight_decay=-1)
nn.Adadelta(p,loss_scale=0.0)
nn.Adadelta(p,learning_rate=-0.1)
nn.ASGD(p,lambd=1)
nn.ASGD(p,lambd=-1.0)
nn.ASGD(p,alpha=1)
nn.ASGD(p,alpha=-1.0)
nn.ASGD(p,t0=1)
nn.ASGD(p,t0=-1.0)
nn.ASGD(p,weight_decay=-1)
nn.ASGD(p,weight_decay='a')
nn.ASGD(p,weight_decay=WD())
nn.ASGD(p,learning_rate=-0.1)
nn.ASGD(p,loss_scale=2.0)
nn.Rprop(p,etas=[0.5,1.2])
nn.Rprop(p,etas=0.5)
nn.Rprop(p,etas=(0.5,))
nn.Rprop(p,etas=(0.5,1.2,1.3))
nn.Rprop(p,etas=(1,1.2))
nn.Rprop(p,etas=(0.0,1.2))
nn.Rprop(p,etas=(1.0,1.2))
nn.Rprop(p,etas=(0.5,1.0))
nn.Rprop(p,etas=(0.5,2))
nn.Rprop(p,step_sizes=[1e-6,50.0])
nn.Rprop(p,step_sizes=(1e-6,))
nn.Rprop(p,step_sizes=(1.0,0.5))
nn.Rprop(p,step_sizes=(1.0,1.0))
nn.Rprop(p,step_sizes=(1e-6,50))
nn.Rprop(p,step_sizes=(0,50.0))
nn.Rprop(p,step_sizes=(-1.0,50.0))
nn.Rprop(p,weight_decay=-1)
nn.Rprop(p,weight_decay='a')
nn.Rprop(p,learning_rate=-0.1)
nn.Rprop(p,loss_scale=2.0)
""".splitlines()


class WD(nn.Cell):
    def construct(self, step):
        return Tensor(0.1)


def outcome(call):
    p = [Parameter(Tensor(np.ones(s, np.float32)), name=n) for n, s in SHAPES.items()]
    try:
        eval(call, {"nn": nn, "p": p, "WD": WD})
    except Exception as error:
        return type(error).__name__
    return None


def main():
    for case in cases():
        try:
            record(*case)
        except Exception as error:
            print(case[0], "FAILED", type(error).__name__, str(error)[:200].replace("\n", " | "))
    with open(os.path.join(HERE, "more_errors.json"), "w") as file:
        json.dump([{"call": c, "raises": outcome(c)} for c in CALLS], file, indent=0)


if __name__ == "__main__":
    main()
