"""thor and Momentum race to a loss on the digits: `python -m graphopt_tools.thor_race [FILE]` draws the picture."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import graphopt as ms
from graphopt import Tensor, nn
from graphopt.dataset.digits import load_digits
from graphopt_tools.picture import Curve, Panel, write_picture

TARGET = 0.05
BATCH = 128
EVERY = 5
"""The loss over all digits is looked at every so many steps."""
RATES = (0.1, 0.2, 0.3, 0.4, 0.6)
PICTURE = Path("docs/thor.svg")


def new_net() -> nn.Cell:
    """64-64-32-10 with tanh, from a fixed seed."""
    ms.set_seed(3)
    return nn.SequentialCell(nn.Dense(64, 64), nn.Tanh(), nn.Dense(64, 32), nn.Tanh(), nn.Dense(32, 10))


def losses(make: Callable[[nn.Cell], nn.Optimizer], steps: int, target: float | None = None) -> list[float]:
    """The loss over all digits before training and after every EVERY-th step of BATCH random digits; up to `target`."""
    images, labels = load_digits()
    images = images.reshape(len(images), -1)
    net = new_net()
    loss_net = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
    step = nn.TrainOneStepCell(loss_net, make(net)).set_train()
    whole = Tensor(images), Tensor(labels)
    rng = np.random.default_rng(0)
    found = [float(loss_net(*whole).asnumpy())]
    for t in range(1, steps + 1):
        k = rng.integers(0, len(images), BATCH)
        step(Tensor(images[k]), Tensor(labels[k]))
        if t % EVERY == 0:
            found.append(float(loss_net(*whole).asnumpy()))
            if target is not None and found[-1] <= target:
                break
    return found


def steps_to(found: Sequence[float], target: float = TARGET) -> int | None:
    """After how many steps the loss was first at most `target`; None: it never was."""
    return next((EVERY * k for k, loss in enumerate(found) if loss <= target), None)


def with_thor(net: nn.Cell) -> nn.Optimizer:
    """thor with its factors renewed in every tenth step."""
    return nn.thor(net, Tensor(0.1), Tensor(0.1), momentum=0.9, batch_size=BATCH, frequency=10)


def with_momentum(rate: float) -> Callable[[nn.Cell], nn.Optimizer]:
    """Momentum at this rate."""
    return lambda net: nn.Momentum(net.trainable_params(), rate, 0.9)


def race(steps: int = 150) -> tuple[list[float], dict[float, list[float]]]:
    """The losses with thor, and with Momentum at each rate."""
    return losses(with_thor, steps), {rate: losses(with_momentum(rate), steps) for rate in RATES}


def panels(thor: Sequence[float], momentum: dict[float, list[float]]) -> list[Panel]:
    """The race, and its end magnified."""
    best = min(momentum, key=lambda rate: steps_to(momentum[rate]) or sys.maxsize)
    x = [float(EVERY * k) for k in range(len(thor))]
    curves = [
        Curve("thor", x, thor, "#c2410c"),
        Curve(f"Momentum, rate {best:g} (the best)", x, momentum[best], "#1d4ed8"),
        *(Curve("", x, m, "#1d4ed8", faint=True) for rate, m in momentum.items() if rate != best),
    ]
    line = Curve(f"{TARGET:g}", [0.0, x[-1]], [TARGET, TARGET], "#888")
    where = "loss over 1,797 digits"
    return [
        Panel("Faint: Momentum at other rates", "step", where, tuple(curves), low=0.0, high=2.5),
        Panel("The end, magnified", "step", where, (*curves[:2], line), low=0.0, high=0.2),
    ]


def main(path: Path) -> None:
    """Run the race, draw it and say who won."""
    ms.set_context(mode=ms.GRAPH_MODE)
    thor, momentum = race()
    write_picture(path, "thor and Momentum on the digits", panels(thor, momentum))
    found = {f"Momentum {rate:g}": steps_to(m) for rate, m in momentum.items()}
    for name, count in {"thor": steps_to(thor), **found}.items():
        print(f"{name:14} {'more' if count is None else count} steps to a loss of {TARGET:g}")
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
