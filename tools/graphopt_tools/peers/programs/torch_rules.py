"""Update rules that torch.optim does not have, each over all tensors at once by foreach operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch

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

    def __init__(self, parameters: Sequence[torch.Tensor], rate: float, decay: float) -> None:
        super().__init__(parameters, 0.0, 0.0)
        self.rate, self.decay = rate, decay
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
        torch._foreach_add_(change, weights, alpha=self.decay)
        ratios = torch._foreach_div(torch._foreach_norm(weights), torch._foreach_norm(change))
        torch._foreach_mul_(ratios, -self.rate)
        torch._foreach_mul_(change, ratios)
        torch._foreach_add_(weights, change)


class Lars(Rule):
    """Momentum, its gradients scaled per tensor by the ratio of norms."""

    def __init__(self, parameters: Sequence[torch.Tensor], rate: float) -> None:
        super().__init__(parameters, 0.0)
        self.rate = rate

    def update(self, weights: Tensors, gradients: Tensors, *states: Tensors) -> None:
        (moments,) = states
        norms = torch._foreach_norm(gradients)
        torch._foreach_add_(norms, 1e-5)
        ratios = torch._foreach_div(torch._foreach_norm(weights), norms)
        torch._foreach_mul_(ratios, 0.001)
        torch._foreach_mul_(moments, 0.9)
        torch._foreach_add_(moments, torch._foreach_mul(gradients, ratios))
        torch._foreach_add_(weights, moments, alpha=-self.rate)


class Ftrl(Rule):
    """Follow the regularized leader, with the power -0.5."""

    def __init__(self, parameters: Sequence[torch.Tensor], rate: float, start: float, l1: float, l2: float) -> None:
        super().__init__(parameters, start, 0.0)
        self.rate, self.l1, self.l2 = rate, l1, l2

    def update(self, weights: Tensors, gradients: Tensors, *states: Tensors) -> None:
        sums, linear = states
        before = torch._foreach_sqrt(sums)
        torch._foreach_addcmul_(sums, gradients, gradients)
        root = torch._foreach_sqrt(sums)
        torch._foreach_add_(linear, gradients)
        torch._foreach_sub_(before, root)
        torch._foreach_addcmul_(linear, before, weights, 1 / self.rate)
        torch._foreach_div_(root, self.rate)
        torch._foreach_add_(root, 2 * self.l2)
        cut = torch._foreach_clamp_max(torch._foreach_clamp_min(linear, -self.l1), self.l1)
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
                for target, value in zip((w, total, linear), self.rule(w.grad, w, total, linear), strict=True):
                    target.copy_(value)
                continue
            gradient = w.grad.coalesce()
            rows = gradient.indices()[0]
            found = self.rule(gradient.values(), *(t.index_select(0, rows) for t in (w, total, linear)))
            for target, value in zip((w, total, linear), found, strict=True):
                target.index_copy_(0, rows, value)

    def rule(self, g: torch.Tensor, w: torch.Tensor, total: torch.Tensor, linear: torch.Tensor) -> Tensors:
        grown = total + g * g
        linear = linear + g - (grown.sqrt() - total.sqrt()) / self.rate * w
        kept = (linear.clamp(-self.l1, self.l1) - linear) / (grown.sqrt() / self.rate + 2 * self.l2)
        return [kept, grown, linear]
