"""`graphopt demo`: LeNet-5 learns real handwritten digits. The network below is an ordinary MindSpore program."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

import graphopt as ms
from graphopt import Tensor, nn
from graphopt.common.sized import AtRows
from graphopt.compile import Compiled
from graphopt.dataset.digits import load_digits, load_mnist5k
from graphopt_tools.mistakes import Mistake
from graphopt_tools.picture import Curve, Panel, check_picture, smooth, write_picture
from graphopt_tools.report import megabytes

BATCH = 64
TEST_SHARE = 0.2
LEARNING_RATE = 2e-3
SHIFT = 2
"""Training images move by up to so many pixels, at random: with 1,400 of them that is worth one percent of accuracy."""
EPOCHS = {"digits": 40, "mnist5k": 15}


class LeNet5(nn.Cell):
    """Two convolutions, three dense layers: 1x32x32 images to 10 scores (LeCun and others, 1998)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, pad_mode="valid", has_bias=True)
        self.conv2 = nn.Conv2d(6, 16, 5, pad_mode="valid", has_bias=True)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Dense(16 * 5 * 5, 120)
        self.fc2 = nn.Dense(120, 84)
        self.fc3 = nn.Dense(84, 10)

    def construct(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.relu(self.fc1(self.flatten(x)))
        scores: Tensor = self.fc3(self.relu(self.fc2(x)))
        return scores


def new_step(net: nn.Cell, learning_rate: float | list[float] = LEARNING_RATE) -> nn.Cell:
    """The whole training step of a classifier: loss, gradients, Adam."""
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    optimizer = nn.Adam(net.trainable_params(), learning_rate)
    step = nn.TrainOneStepCell(nn.WithLossCell(net, loss), optimizer)
    step.set_train()
    return step


def train_step() -> tuple[nn.Cell, Tensor, Tensor]:
    """The demo's step with inputs of the demo's shapes: `graphopt show graphopt_tools.demo:train_step`."""
    images, labels = load_digits(32)
    return new_step(LeNet5()), Tensor(images[:BATCH]), Tensor(labels[:BATCH])


@dataclass(slots=True)
class History:
    """What happened while training: a loss and a duration per step, an accuracy per epoch."""

    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Digits:
    """Images (n, 1, 32, 32) and labels, apart for training and testing."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load(data: str, rng: np.random.Generator) -> Digits:
    """The digits at 32x32, split at random.

    Errors: Mistake saying how to install what is missing.
    """
    try:
        images, labels = load_digits(32) if data == "digits" else load_mnist5k()
    except ModuleNotFoundError as error:
        raise Mistake(str(error)) from None
    border = (32 - images.shape[-1]) // 2
    images = np.pad(images, ((0, 0), (0, 0), (border, border), (border, border)))
    order = rng.permutation(len(images))
    test, train = np.split(order, [round(len(order) * TEST_SHARE)])
    return Digits(images[train], labels[train], images[test], labels[test])


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by its own random offset of at most SHIFT pixels; zeros move in."""
    n, _, h, w = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w), (2, 3))
    y, x = rng.integers(0, 2 * SHIFT + 1, (2, n))
    return np.ascontiguousarray(windows[np.arange(n), :, y, x])


def accuracy(net: nn.Cell, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that the network names rightly."""
    net.set_train(False)
    scores = net(Tensor(images)).asnumpy()
    net.set_train(True)
    return float((scores.argmax(1) == labels).mean())


def train(
    net: nn.Cell, step: nn.Cell, digits: Digits, epochs: int, rng: np.random.Generator, progress: Progress, task: TaskID
) -> History:
    """Train in whole batches, a new order and new shifts every epoch; accuracy is on the test images."""
    history = History()
    batches = len(digits.train_labels) // BATCH
    start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(digits.train_labels))[: batches * BATCH].reshape(batches, BATCH)
        for rows in order:
            images = Tensor(shifted(digits.train_images[rows], rng))
            labels = Tensor(digits.train_labels[rows])
            before = time.perf_counter()
            loss = float(step(images, labels).asnumpy())
            history.step_seconds.append(time.perf_counter() - before)
            history.losses.append(loss)
            rate = len(history.losses) * BATCH / (time.perf_counter() - start)
            progress.update(task, advance=1, epoch=f"epoch {epoch}/{epochs}", loss=loss, rate=rate)
        history.accuracies.append(accuracy(net, digits.test_images, digits.test_labels))
    return history


def run_demo(data: str, epochs: int | None, out: Path | None, seed: int) -> None:
    """The command `graphopt demo`.

    Errors: Mistake for a missing package or a picture that cannot be written.
    """
    path = out or Path("graphopt-demo.svg")
    check_picture(path)
    console = Console()
    rng = np.random.default_rng(seed)
    digits = load(data, rng)
    epochs = epochs or EPOCHS[data]
    steps = epochs * (len(digits.train_labels) // BATCH)
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(seed)
    net = LeNet5()
    step = new_step(net, [LEARNING_RATE * (1 + cos(pi * k / steps)) / 2 for k in range(steps)])
    console.print(f"LeNet-5, {len(digits.train_labels)} images to learn from, {len(digits.test_labels)} to test with")
    columns = (
        TextColumn("{task.fields[epoch]}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[rate]:,.0f} images/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("train", total=steps, epoch="compiling", loss=float("nan"), rate=0.0)
        history = train(net, step, digits, epochs, rng, progress, task)
    draw(path, history, steps // epochs)
    example = (Tensor(digits.train_images[:BATCH]), Tensor(digits.train_labels[:BATCH]))
    compiled = step.compile_cache.entry(example, {})[0].compiled
    console.print(summary(compiled, history, len(digits.test_labels), path))


def draw(path: Path, history: History, batches: int) -> None:
    """The picture of loss and accuracy over epochs."""
    x = [k / batches for k in range(1, len(history.losses) + 1)]
    ends = list(range(1, len(history.accuracies) + 1))
    percent = [100 * a for a in history.accuracies]
    loss = (Curve("each step", x, history.losses, "#2563a8", faint=True), Curve("average", x, smooth(history.losses), "#2563a8"))
    right = Curve("test images", ends, percent, "#b4501e")
    write_picture(path, "LeNet-5 on handwritten digits", (
        Panel("Loss", "epoch", "cross entropy", loss, low=0.0),
        Panel("Accuracy", "epoch", "% right", (right,), high=100.0),
    ))  # fmt: skip


def summary(compiled: Compiled | AtRows, history: History, tested: int, path: Path) -> Table:
    """The numbers at the end."""
    table = Table.grid(padding=(0, 3))
    right = history.accuracies[-1]
    table.add_row("test accuracy", f"{right * 100:.2f} % ({round(right * tested)} of {tested} images)")
    source = "loaded from the disk cache" if compiled.cached else "compiled"
    table.add_row("compile time", f"{compiled.seconds:.2f} s ({source})")
    seconds = median(history.step_seconds[1:] or history.step_seconds)
    table.add_row("time per step", f"{seconds * 1e3:.2f} ms (median of {len(history.losses)}, {BATCH / seconds:,.0f} images/s)")
    table.add_row("arena", megabytes(compiled.arena_bytes))
    table.add_row("picture", str(path.resolve()))
    return table
