"""Functions that make lists of learning rates, one per step; pass the list as an optimizer's learning_rate."""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.common.checks import check_bool, check_int, check_number, check_positive, check_type


def piecewise_constant_lr(milestone: list[int], learning_rates: list[float]) -> list[float]:
    """learning_rates[j] for steps from milestone[j-1] to below milestone[j]; the list ends at the last milestone.

    Errors: TypeError for other types; ValueError when the lengths differ, a milestone is <= 0 or below the one
            before it.

    >>> import graphopt as ms
    >>> ms.nn.piecewise_constant_lr([2, 5], [0.1, 0.05])
    [0.1, 0.1, 0.05, 0.05, 0.05]
    """
    owner = "piecewise_constant_lr"
    check_type(owner, "milestone", milestone, list, tuple)
    check_type(owner, "learning_rates", learning_rates, list, tuple)
    if len(milestone) != len(learning_rates):
        raise ValueError(
            f"{owner}: milestone and learning_rates must be equally long, found {milestone} and {learning_rates}"
        )
    rates: list[float] = []
    for k, (step, rate) in enumerate(zip(milestone, learning_rates, strict=True)):
        check_int(owner, f"milestone[{k}]", step, low=1)
        if step < len(rates):
            raise ValueError(f"{owner}: milestone must not fall, found {milestone}")
        check_type(owner, f"learning_rates[{k}]", rate, float)
        rates.extend([rate] * (step - len(rates)))
    return rates


def exponential_decay_lr(
    learning_rate: float,
    decay_rate: float,
    total_step: int,
    step_per_epoch: int,
    decay_epoch: int,
    is_stair: bool = False,
) -> list[float]:
    """learning_rate · decay_rate^(e / decay_epoch) in epoch e = ⌊step / step_per_epoch⌋; is_stair floors the
    exponent.

    Errors: TypeError for other types (rates must be floats); ValueError for values <= 0.

    >>> import graphopt as ms
    >>> [round(v, 6) for v in ms.nn.exponential_decay_lr(0.1, 0.9, 4, 2, 1)]
    [0.1, 0.1, 0.09, 0.09]
    """
    _check_decay("exponential_decay_lr", learning_rate, decay_rate, decay_epoch, is_stair)
    return _each_step(
        "exponential_decay_lr",
        total_step,
        step_per_epoch,
        lambda e: learning_rate * decay_rate ** (e // decay_epoch if is_stair else e / decay_epoch),
    )


def natural_exp_decay_lr(
    learning_rate: float,
    decay_rate: float,
    total_step: int,
    step_per_epoch: int,
    decay_epoch: int,
    is_stair: bool = False,
) -> list[float]:
    """learning_rate · exp(-decay_rate·e) in epoch e; is_stair: e rounded down to a multiple of decay_epoch.

    Errors: as exponential_decay_lr.

    >>> import graphopt as ms
    >>> [round(v, 6) for v in ms.nn.natural_exp_decay_lr(0.1, 0.9, 4, 2, 1)]
    [0.1, 0.1, 0.040657, 0.040657]
    """
    _check_decay("natural_exp_decay_lr", learning_rate, decay_rate, decay_epoch, is_stair)
    return _each_step(
        "natural_exp_decay_lr",
        total_step,
        step_per_epoch,
        lambda e: learning_rate * math.exp(-decay_rate * (e // decay_epoch * decay_epoch if is_stair else e)),
    )


def inverse_decay_lr(
    learning_rate: float,
    decay_rate: float,
    total_step: int,
    step_per_epoch: int,
    decay_epoch: int,
    is_stair: bool = False,
) -> list[float]:
    """learning_rate / (1 + decay_rate·e/decay_epoch) in epoch e; is_stair floors e/decay_epoch.

    Errors: as exponential_decay_lr.

    >>> import graphopt as ms
    >>> [round(v, 6) for v in ms.nn.inverse_decay_lr(0.1, 0.5, 4, 2, 1)]
    [0.1, 0.1, 0.066667, 0.066667]
    """
    _check_decay("inverse_decay_lr", learning_rate, decay_rate, decay_epoch, is_stair)
    return _each_step(
        "inverse_decay_lr",
        total_step,
        step_per_epoch,
        lambda e: learning_rate / (1.0 + decay_rate * (e // decay_epoch if is_stair else e / decay_epoch)),
    )


def cosine_decay_lr(
    min_lr: float, max_lr: float, total_step: int, step_per_epoch: int, decay_epoch: int
) -> list[float]:
    """Half a cosine from max_lr down to min_lr over decay_epoch epochs, then min_lr.

    Errors: TypeError for other types; ValueError unless 0 <= min_lr < max_lr and the counts are > 0.

    >>> import graphopt as ms
    >>> [round(v, 6) for v in ms.nn.cosine_decay_lr(0.01, 0.1, 6, 2, 2)]
    [0.1, 0.1, 0.055, 0.055, 0.01, 0.01]
    """
    check_cosine("cosine_decay_lr", min_lr, max_lr)
    check_int("cosine_decay_lr", "decay_epoch", decay_epoch, low=1)
    half = 0.5 * (max_lr - min_lr)
    return _each_step(
        "cosine_decay_lr",
        total_step,
        step_per_epoch,
        lambda e: min_lr + half * (1.0 + math.cos(math.pi * min(e, decay_epoch) / decay_epoch)),
    )


def polynomial_decay_lr(
    learning_rate: float,
    end_learning_rate: float,
    total_step: int,
    step_per_epoch: int,
    decay_epoch: int,
    power: float,
    update_decay_epoch: bool = False,
) -> list[float]:
    """(learning_rate - end)·(1 - e/n)^power + end with n = decay_epoch, then end; with update_decay_epoch n grows to
    the next multiple instead, so the rate jumps up again after each.

    Errors: TypeError for other types; ValueError for a negative end or values <= 0 elsewhere.

    >>> import graphopt as ms
    >>> [round(v, 6) for v in ms.nn.polynomial_decay_lr(0.1, 0.01, 6, 2, 2, 0.5)]
    [0.1, 0.1, 0.07364, 0.07364, 0.01, 0.01]
    """
    owner = "polynomial_decay_lr"
    check_polynomial(owner, learning_rate, end_learning_rate, power)
    check_int(owner, "decay_epoch", decay_epoch, low=1)
    check_bool(owner, "update_decay_epoch", update_decay_epoch)

    def rate(e: int) -> float:
        epochs, at = (
            (decay_epoch * max(math.ceil(e / decay_epoch), 1), e)
            if update_decay_epoch
            else (decay_epoch, min(e, decay_epoch))
        )
        return (learning_rate - end_learning_rate) * (1.0 - at / epochs) ** power + end_learning_rate

    return _each_step(owner, total_step, step_per_epoch, rate)


def warmup_lr(learning_rate: float, total_step: int, step_per_epoch: int, warmup_epoch: int) -> list[float]:
    """learning_rate · min(e, warmup_epoch)/warmup_epoch in epoch e.

    Errors: TypeError for other types; ValueError for a negative learning_rate or counts <= 0.

    >>> import graphopt as ms
    >>> [round(v, 6) for v in ms.nn.warmup_lr(0.1, 6, 2, 2)]
    [0.0, 0.0, 0.05, 0.05, 0.1, 0.1]
    """
    check_number("warmup_lr", "learning_rate", learning_rate, low=0, ints=False)
    check_int("warmup_lr", "warmup_epoch", warmup_epoch, low=1)
    return _each_step(
        "warmup_lr", total_step, step_per_epoch, lambda e: learning_rate * min(e, warmup_epoch) / warmup_epoch
    )


def check_cosine(owner: str, min_lr: float, max_lr: float) -> None:
    """The ends of a cosine schedule: 0 <= min_lr < max_lr, both floats."""
    check_number(owner, "min_lr", min_lr, low=0, ints=False)
    check_positive(owner, "max_lr", max_lr, ints=False)
    if min_lr >= max_lr:
        raise ValueError(f"{owner}: min_lr must be below max_lr, found {min_lr} and {max_lr}")


def check_polynomial(owner: str, learning_rate: float, end_learning_rate: float, power: float) -> None:
    """The numbers of a polynomial schedule: floats, the end may be 0."""
    check_positive(owner, "learning_rate", learning_rate, ints=False)
    check_number(owner, "end_learning_rate", end_learning_rate, low=0, ints=False)
    check_positive(owner, "power", power, ints=False)


def _check_decay(owner: str, learning_rate: float, decay_rate: float, decay_epoch: int, is_stair: bool) -> None:
    check_positive(owner, "learning_rate", learning_rate, ints=False)
    check_positive(owner, "decay_rate", decay_rate, ints=False)
    check_int(owner, "decay_epoch", decay_epoch, low=1)
    check_bool(owner, "is_stair", is_stair)


def _each_step(owner: str, total_step: int, step_per_epoch: int, rate: Callable[[int], float]) -> list[float]:
    check_int(owner, "total_step", total_step, low=1)
    check_int(owner, "step_per_epoch", step_per_epoch, low=1)
    return [rate(i // step_per_epoch) for i in range(total_step)]
