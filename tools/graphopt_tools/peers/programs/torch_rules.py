"""Update rules that torch.optim does not have, each over all tensors at once by foreach operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .updates import ACCUMULATED, DECAY, RATE

Tensors = list[torch.Tensor]


class Rule:
    """Parameters and states of their shapes; step() reads the gradients that the parameters carry."""

    def __init__(self, parameters: Sequence[torch.Tensor], *starts: float) -> None:
        self.parameters = list(parameters)
        self.states = [[torch.full_like(p, start, requires_grad=False) for p in self.parameters] for start in starts]

    @torch.no_grad()
    def step(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.update(self.parameters, gradients, *self.states)

    def update(self, weights: Tensors, gradients: Tensors, *states: Tensors) -> None:
        raise NotImplementedError


class Lamb(Rule):
    """Adam with bias correction and weight decay, scaled per tensor by the ratio of norms."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__(parameters, 0.0, 0.0)
        self.count = torch.tensor(0.0)

    def update(self, weights: Tensors, gradients: Tensors, *states: Tensors) -> None:
        first, second = states
        self.count += 1
        torch._foreach_lerp_(first, gradients, 0.1)
        torch._foreach_mul_(second, 0.999)
        torch._foreach_addcmul_(second, gradients, gradients, 0.001)
        below = torch._foreach_div(second, 1 - 0.999**self.count)
        torch._foreach_sqrt_(below)
        torch._foreach_add_(below, 1e-6)
        change = torch._foreach_div(first, 1 - 0.9**self.count)
        torch._foreach_div_(change, below)
        torch._foreach_add_(change, weights, alpha=DECAY)
        ratios = torch._foreach_div(torch._foreach_norm(weights), torch._foreach_norm(change))
        torch._foreach_mul_(ratios, -RATE)
        torch._foreach_mul_(change, ratios)
        torch._foreach_add_(weights, change)


class Lars(Rule):
    """Momentum, its gradients scaled per tensor by the ratio of norms."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__(parameters, 0.0)

    def update(self, weights: Tensors, gradients: Tensors, *states: Tensors) -> None:
        (moments,) = states
        norms = torch._foreach_norm(gradients)
        torch._foreach_add_(norms, 1e-5)
        ratios = torch._foreach_div(torch._foreach_norm(weights), norms)
        torch._foreach_mul_(ratios, 0.001)
        torch._foreach_mul_(moments, 0.9)
        torch._foreach_add_(moments, torch._foreach_mul(gradients, ratios))
        torch._foreach_add_(weights, moments, alpha=-RATE)


class Ftrl(Rule):
    """Follow the regularized leader, with l1 = l2 = 0.01 and the power -0.5."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__(parameters, ACCUMULATED, 0.0)

    def update(self, weights: Tensors, gradients: Tensors, *states: Tensors) -> None:
        sums, linear = states
        before = torch._foreach_sqrt(sums)
        torch._foreach_addcmul_(sums, gradients, gradients)
        root = torch._foreach_sqrt(sums)
        torch._foreach_add_(linear, gradients)
        torch._foreach_sub_(before, root)
        torch._foreach_addcmul_(linear, before, weights, 1 / RATE)
        torch._foreach_div_(root, RATE)
        torch._foreach_add_(root, 0.02)
        cut = torch._foreach_clamp_max(torch._foreach_clamp_min(linear, -0.01), 0.01)
        torch._foreach_sub_(cut, linear)
        torch._foreach_copy_(weights, torch._foreach_div(cut, root))


class FtrlRows:
    """FTRL that touches only the rows of a sparse gradient; a dense gradient counts as all rows."""

    def __init__(self, parameters: Sequence[torch.Tensor], rate: float, start: float, l1: float, l2: float) -> None:
        self.parameters = list(parameters)
        self.rate, self.l1, self.l2 = rate, l1, l2
        self.sums = [torch.full_like(p, start, requires_grad=False) for p in self.parameters]
        self.linear = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]

    def zero_grad(self, set_to_none: bool = True) -> None:
        del set_to_none
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for w, total, linear in zip(self.parameters, self.sums, self.linear, strict=True):
            if w.grad is None:
                continue
            if not w.grad.is_sparse:
                for target, value in zip((w, total, linear), self.rule(w, total, linear, w.grad), strict=True):
                    target.copy_(value)
                continue
            gradient = w.grad.coalesce()
            rows = gradient.indices()[0]
            found = self.rule(*(t.index_select(0, rows) for t in (w, total, linear)), gradient.values())
            for target, value in zip((w, total, linear), found, strict=True):
                target.index_copy_(0, rows, value)

    def rule(self, w: torch.Tensor, total: torch.Tensor, linear: torch.Tensor, g: torch.Tensor) -> Tensors:
        grown = total + g * g
        linear = linear + g - (grown.sqrt() - total.sqrt()) / self.rate * w
        kept = (linear.clamp(-self.l1, self.l1) - linear) / (grown.sqrt() / self.rate + 2 * self.l2)
        return [kept, grown, linear]
