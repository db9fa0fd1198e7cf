"""Only the update of an optimizer: the gradients are inputs, the result is the parameters.

sizes: optimizer (an entry of RULES), tensors, rows, columns (of each tensor).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RATE, DECAY = 1e-3, 0.01
FUSED, OWN = ("fused", "foreach"), ("foreach", "compile")
LATE = 1e6  # a step count after which a bias correction corrects nothing
ACCUMULATED = 0.1  # what Adagrad's and FTRL's sums start with


@dataclass(frozen=True)
class Rule:
    """An optimizer under MindSpore's name, with its arguments, and how to make the same of the others' parts.

    torch: (parameters, fused= or foreach=) -> something with step(). jax: optax -> its transformation. None where there
    is no such optimizer. variants: PyTorch's forms of it. make: (nn, parameters) -> it, where the name does not do.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    torch: Callable[..., Any] | None = None
    jax: Callable[[Any], Any] | None = None
    make: Callable[..., Any] | None = None
    variants: tuple[str, ...] = ("foreach",)

    def mindspore(self, nn: Any, name: str, parameters: Any) -> Any:
        if self.make is not None:
            return self.make(nn, parameters)
        return getattr(nn, name)(parameters, **self.arguments)


def _torch(name: str, *arguments: Any, **options: Any) -> Callable[..., Any]:
    """A rule of torch.optim."""

    def make(parameters: Any, **how: Any) -> Any:
        import torch

        return getattr(torch.optim, name)(parameters, *arguments, **options, **how)

    return make


def _started(make: Callable[..., Any], step: float, **values: float) -> Callable[..., Any]:
    """A rule of torch.optim whose states start with other values than PyTorch's."""

    def started(parameters: Any, **how: Any) -> Any:
        import torch

        optimizer = make(parameters, **how)
        for p in parameters:
            filled = {name: torch.full_like(p, value) for name, value in values.items()}
            optimizer.state[p] = {"step": torch.tensor(step), **filled}
        return optimizer

    return started


def _own(name: str, *arguments: float) -> Callable[..., Any]:
    """A rule of torch_rules.py."""

    def make(parameters: Any, **how: Any) -> Any:
        from . import torch_rules

        del how  # there is but one form
        return getattr(torch_rules, name)(parameters, *arguments)

    return make


def _jax(name: str, *arguments: float) -> Callable[[Any], Any]:
    """A rule of rules.py."""

    def make(_: Any) -> Any:
        from . import rules

        return getattr(rules, name)(*arguments)

    return make


_RATE = {"learning_rate": RATE}
_MOMENTUM = {"learning_rate": RATE, "momentum": 0.9}
_ADAM = _torch("Adam", RATE)
_RMS = {"learning_rate": RATE, "decay": 0.9, "momentum": 0.9, "epsilon": 1e-8}
_CENTERED = _torch("RMSprop", RATE, 0.9, 1e-8, momentum=0.9, centered=True)

RULES = {
    "SGD": Rule(_MOMENTUM, _torch("SGD", RATE, 0.9), lambda o: o.sgd(RATE, 0.9), variants=FUSED),
    "Momentum": Rule(_MOMENTUM, _torch("SGD", RATE, 0.9), lambda o: o.sgd(RATE, 0.9), variants=FUSED),
    "Adam": Rule(_RATE, _ADAM, lambda o: o.adam(RATE), variants=FUSED),
    "LazyAdam": Rule(_RATE, _ADAM, lambda o: o.adam(RATE), variants=FUSED),
    "AdamOffload": Rule(_RATE, _ADAM, lambda o: o.adam(RATE), variants=FUSED),
    "AdamWeightDecay": Rule(
        _RATE | {"weight_decay": DECAY},
        _started(_torch("AdamW", RATE, eps=1e-6, weight_decay=DECAY), LATE, exp_avg=0, exp_avg_sq=0),
        _jax("adam_weight_decay", RATE, 0.9, 0.999, 1e-6, DECAY),
        variants=FUSED,
    ),
    "Lamb": Rule(
        _RATE | {"weight_decay": DECAY},
        _own("Lamb", RATE, DECAY),
        lambda o: o.lamb(RATE, weight_decay=DECAY),
        variants=OWN,
    ),
    "LARS": Rule(
        {},
        _own("Lars", RATE),
        lambda o: o.lars(RATE, trust_coefficient=0.001, eps=1e-5, momentum=0.9),
        lambda nn, parameters: nn.LARS(nn.Momentum(parameters, RATE, 0.9)),
        OWN,
    ),
    "FTRL": Rule(
        _RATE | {"initial_accum": ACCUMULATED, "l1": 0.01, "l2": 0.01},
        _own("Ftrl", RATE, ACCUMULATED, 0.01, 0.01),
        _jax("ftrl", RATE, ACCUMULATED, 0.01, 0.01),
        variants=OWN,
    ),
    "RMSProp": Rule(
        _RMS,
        _started(_torch("RMSprop", RATE, 0.9, 1e-8, momentum=0.9), 0.0, square_avg=1, momentum_buffer=0),
        lambda o: o.rmsprop(RATE, 0.9, 1e-8, initial_scale=1.0, momentum=0.9),
    ),
    "RMSProp_centered": Rule(
        _RMS | {"centered": True},
        _started(_CENTERED, 0.0, square_avg=1, momentum_buffer=0, grad_avg=0),
        lambda o: o.rmsprop(RATE, 0.9, 1e-8, initial_scale=1.0, momentum=0.9, centered=True),
        lambda nn, parameters: nn.RMSProp(parameters, **_RMS, centered=True),
    ),
    "Adagrad": Rule(
        _RATE | {"accum": ACCUMULATED},
        _torch("Adagrad", RATE, initial_accumulator_value=ACCUMULATED),
        lambda o: o.adagrad(RATE, ACCUMULATED),
        variants=FUSED,
    ),
    "ProximalAdagrad": Rule(
        _RATE | {"accum": ACCUMULATED},
        _torch("Adagrad", RATE, initial_accumulator_value=ACCUMULATED),
        lambda o: o.adagrad(RATE, ACCUMULATED),
        variants=FUSED,
    ),
    "Adadelta": Rule({"learning_rate": 1.0}, _torch("Adadelta", 1.0), lambda o: o.adadelta(1.0)),
    "AdaMax": Rule(_RATE, _torch("Adamax", RATE), lambda o: o.adamax(RATE)),
    "AdaFactor": Rule(
        {"learning_rate": RATE, "relative_step": False, "beta1": None},
        _torch("Adafactor", RATE),
        lambda o: o.adafactor(RATE, min_dim_size_to_factor=1),
    ),
    "ASGD": Rule(_RATE, _torch("ASGD", RATE), _jax("asgd", RATE)),
    "Rprop": Rule(_RATE, _torch("Rprop", RATE), _jax("rprop", RATE)),
}


def arrays(sizes: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    shape, count = (sizes["rows"], sizes["columns"]), sizes["tensors"]
    found = {f"weight.{k}": rng.standard_normal(shape, np.float32) for k in range(count)}
    return found | {f"batch.{k}": rng.standard_normal((1, *shape), np.float32) for k in range(count)}


def in_torch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    rule = _there("torch.optim", "torch", sizes)
    parameters = list(kit.weights(arrays).values())
    optimizer = rule(parameters, **{"fused" if kit.variant == "fused" else "foreach": True})
    update = kit.compiled(optimizer.step)

    def step(*gradients: Any) -> Any:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        update()
        return parameters

    return step


def in_jax(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import optax

    rule = _there("optax", "jax", sizes)(optax)
    weights = list(kit.weights(arrays).values())

    def update(weights: Any, state: Any, *gradients: Any) -> Any:
        change, state = rule.update(list(gradients), state, weights)
        return optax.apply_updates(weights, change), state, ()

    return kit.stateful(update, weights, rule.init(weights), shows_first=True)


def in_mindspore(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    ms, name = kit.ms, sizes["optimizer"]
    parameters = [ms.Parameter(ms.Tensor(value), name=f"p{k}") for k, value in enumerate(arrays.values())]
    return kit.updating(RULES[name].mindspore(ms.nn, name, parameters), parameters)


def _there(library: str, framework: str, sizes: dict[str, Any]) -> Callable[..., Any]:
    """The rule of a framework.

    Errors: NotImplementedError when it has none.
    """
    rule: Callable[..., Any] | None = getattr(RULES[sizes["optimizer"]], framework)
    if rule is None:
        raise NotImplementedError(f"{library} has no {sizes['optimizer']}")
    return rule
