"""A small language model: pre-LN transformer layers with causal attention, AdamWeightDecay (no bias correction).

sizes: batch, length, width, heads, ffn, layers, vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np

BATCHES = 4
RATE, BETAS, EPS, DECAY = 1e-3, (0.9, 0.999), 1e-6, 0.01
NORM_EPS = 1e-5
LATE = 1e6  # a step count after which a bias correction corrects nothing


def arrays(sizes: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    width, ffn, vocabulary = sizes["width"], sizes["ffn"], sizes["vocabulary"]
    found: dict[str, np.ndarray] = {}

    def dense(name: str, inputs: int, outputs: int) -> None:
        found[f"weight.{name}"] = (rng.standard_normal((outputs, inputs)) * 0.5 / sqrt(inputs)).astype(np.float32)
        found[f"weight.{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name: str) -> None:
        found[f"weight.{name}.gamma"] = np.ones(width, np.float32)
        found[f"weight.{name}.beta"] = np.zeros(width, np.float32)

    found["weight.places"] = (rng.standard_normal((sizes["length"], width)) * 0.1).astype(np.float32)
    found["weight.tokens"] = (rng.standard_normal((vocabulary, width)) * 0.1).astype(np.float32)
    for k in range(sizes["layers"]):
        norm(f"{k}.norm1")
        dense(f"{k}.qkv", width, 3 * width)
        dense(f"{k}.out", width, width)
        norm(f"{k}.norm2")
        dense(f"{k}.up", width, ffn)
        dense(f"{k}.down", ffn, width)
    norm("norm")
    dense("head", width, vocabulary)
    text = rng.integers(0, vocabulary, (BATCHES, sizes["batch"], sizes["length"] + 1)).astype(np.int32)
    found["batch.text"] = np.ascontiguousarray(text[:, :, :-1])
    found["batch.next"] = np.ascontiguousarray(text[:, :, 1:])
    return found


def in_torch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import torch
    from torch.nn import functional as F

    w = kit.weights(arrays)
    batch, length, width, heads = (sizes[name] for name in ("batch", "length", "width", "heads"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (width,), w[f"{name}.gamma"], w[f"{name}.beta"], NORM_EPS)

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, w[name], w[f"{name}.bias"])

    def loss(text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        x = F.embedding(text, w["tokens"]) + w["places"]
        for k in range(sizes["layers"]):
            qkv = dense(norm(x, f"{k}.norm1"), f"{k}.qkv").view(batch, length, 3, heads, width // heads)
            q, key, v = qkv.permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, key, v, is_causal=True)
            x = x + dense(y.transpose(1, 2).reshape(batch, length, width), f"{k}.out")
            x = x + dense(F.gelu(dense(norm(x, f"{k}.norm2"), f"{k}.up"), approximate="tanh"), f"{k}.down")
        logits = dense(norm(x, "norm"), "head")
        return F.cross_entropy(logits.view(batch * length, -1), following.reshape(-1).long())

    optimizer = torch.optim.AdamW(w.values(), RATE, BETAS, EPS, DECAY, fused=True)
    for p in w.values():  # as if much trained: AdamW's corrections are then 1, and its rule is AdamWeightDecay's
        zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        optimizer.state[p] = {"step": torch.tensor(LATE), **zeros}
    return kit.training(loss, [optimizer])


def in_jax(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import jax
    import jax.numpy as jnp
    import optax

    from .rules import adam_weight_decay

    batch, length, width, heads = (sizes[name] for name in ("batch", "length", "width", "heads"))

    def norm(w: Any, x: Any, name: str) -> Any:
        x = x - x.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + NORM_EPS)
        return x * scale * w[f"{name}.gamma"] + w[f"{name}.beta"]

    def dense(w: Any, x: Any, name: str) -> Any:
        return x @ w[name].T + w[f"{name}.bias"]

    def loss(w: Any, text: Any, following: Any) -> Any:
        x = w["tokens"][text] + w["places"]
        mask = jnp.tril(jnp.ones((length, length), bool))
        for k in range(sizes["layers"]):
            qkv = dense(w, norm(w, x, f"{k}.norm1"), f"{k}.qkv").reshape(batch, length, 3, heads, width // heads)
            q, key, v = qkv.transpose(2, 0, 3, 1, 4)
            scores = jnp.einsum("bhik,bhjk->bhij", q, key) / sqrt(width // heads)
            y = jnp.einsum("bhij,bhjk->bhik", jax.nn.softmax(jnp.where(mask, scores, -1e9)), v)
            x = x + dense(w, y.transpose(0, 2, 1, 3).reshape(batch, length, width), f"{k}.out")
            x = x + dense(w, jax.nn.gelu(dense(w, norm(w, x, f"{k}.norm2"), f"{k}.up")), f"{k}.down")
        logits = dense(w, norm(w, x, "norm"), "head")
        return optax.softmax_cross_entropy_with_integer_labels(logits, following).mean()

    return kit.training(loss, kit.weights(arrays), adam_weight_decay(RATE, *BETAS, EPS, DECAY))


def in_mindspore(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    ms, nn, ops = kit.ms, kit.ms.nn, kit.ms.ops
    batch, length, width, heads = (sizes[name] for name in ("batch", "length", "width", "heads"))
    scale = 1 / sqrt(width // heads)
    mask = ms.Tensor(np.triu(np.full((length, length), -1e9, np.float32), 1))

    class Layer(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm((width,), epsilon=NORM_EPS)
            self.qkv = nn.Dense(width, 3 * width)
            self.out = nn.Dense(width, width)
            self.norm2 = nn.LayerNorm((width,), epsilon=NORM_EPS)
            self.up = nn.Dense(width, sizes["ffn"])
            self.down = nn.Dense(sizes["ffn"], width)
            self.gelu = nn.GELU()

        def construct(self, x: Any) -> Any:
            qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
            scores = ops.matmul(qkv[0], qkv[1].transpose(0, 1, 3, 2)) * scale + mask
            y = ops.matmul(ops.softmax(scores, -1), qkv[2])
            x = x + self.out(y.transpose(0, 2, 1, 3).reshape(batch, length, width))
            return x + self.down(self.gelu(self.up(self.norm2(x))))

    class Loss(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(sizes["vocabulary"], width)
            self.places = ms.Parameter(ms.Tensor(np.zeros((length, width), np.float32)), name="places")
            self.layers = nn.SequentialCell(*(Layer() for _ in range(sizes["layers"])))
            self.norm = nn.LayerNorm((width,), epsilon=NORM_EPS)
            self.head = nn.Dense(width, sizes["vocabulary"])
            self.loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")

        def construct(self, text: Any, following: Any) -> Any:
            x = self.layers(self.tokens(text) + self.places)
            logits = self.head(self.norm(x)).reshape(batch * length, -1)
            return self.loss(logits, following.reshape(-1))

    net = kit.load(Loss(), arrays)
    optimizer = nn.AdamWeightDecay(net.trainable_params(), RATE, *BETAS, EPS, DECAY)
    return kit.training(net, optimizer)
