"""The cases of layers.npz: one expression each, read by both libraries, and the shapes it is called with.

name, expression (of `nn`, `ops`, `Tensor`, `np`), inputs, training. An input is a shape of floats, ("i", shape,
limit) for ints below limit, ("p", shape) for positive numbers in (0, 1), or ("r", shape) for rows of such numbers
that add up to 1.

Not here, because the derivatives that MindSpore's CPU build gives for them are wrong: SeLU (negative side), and the
softmax cross entropy of labels whose rows do not add up to 1.
"""

from __future__ import annotations

import numpy as np

IMAGE = (2, 4, 7, 6)

LAYERS = [
    ("dense", "nn.Dense(5, 3)", [(4, 5)], True),
    ("dense_3d_relu", "nn.Dense(5, 3, activation='relu')", [(2, 4, 5)], True),
    ("dense_no_bias", "nn.Dense(5, 3, has_bias=False)", [(4, 5)], True),
    ("conv_same", "nn.Conv2d(4, 6, 3, has_bias=True)", [IMAGE], True),
    ("conv_same_even", "nn.Conv2d(4, 6, 2, stride=2)", [IMAGE], True),
    ("conv_same_stride", "nn.Conv2d(4, 6, 3, stride=2)", [IMAGE], True),
    ("conv_valid", "nn.Conv2d(4, 6, (3, 2), stride=(2, 1), pad_mode='valid')", [IMAGE], True),
    ("conv_pad", "nn.Conv2d(4, 6, 3, pad_mode='pad', padding=1)", [IMAGE], True),
    ("conv_pad_tuple", "nn.Conv2d(4, 6, 3, pad_mode='pad', padding=(0, 1, 2, 1))", [IMAGE], True),
    ("conv_dilated", "nn.Conv2d(4, 6, 3, dilation=2)", [IMAGE], True),
    ("conv_grouped", "nn.Conv2d(4, 6, 3, group=2)", [IMAGE], True),
    ("conv_depthwise", "nn.Conv2d(4, 4, 3, group=4)", [IMAGE], True),
    ("conv1d_same", "nn.Conv1d(4, 6, 3, has_bias=True)", [(2, 4, 9)], True),
    ("conv1d_pad", "nn.Conv1d(4, 6, 3, stride=2, pad_mode='pad', padding=2)", [(2, 4, 9)], True),
    ("maxpool_valid", "nn.MaxPool2d(3, 2)", [IMAGE], True),
    ("maxpool_same", "nn.MaxPool2d(3, 2, pad_mode='same')", [IMAGE], True),
    ("maxpool_pad", "nn.MaxPool2d(3, 2, pad_mode='pad', padding=1)", [IMAGE], True),
    ("maxpool_pad_ceil", "nn.MaxPool2d(3, 2, pad_mode='pad', padding=1, ceil_mode=True)", [IMAGE], True),
    ("maxpool_pad_dilation", "nn.MaxPool2d(2, 1, pad_mode='pad', padding=1, dilation=2)", [IMAGE], True),
    ("maxpool1d", "nn.MaxPool1d(3, 2)", [(2, 4, 9)], True),
    ("avgpool_valid", "nn.AvgPool2d(3, 2)", [IMAGE], True),
    ("avgpool_same", "nn.AvgPool2d(3, 2, pad_mode='same')", [IMAGE], True),
    ("avgpool_pad", "nn.AvgPool2d(3, 2, pad_mode='pad', padding=1)", [IMAGE], True),
    ("avgpool_pad_exclude", "nn.AvgPool2d(3, 2, pad_mode='pad', padding=1, count_include_pad=False)", [IMAGE], True),
    ("avgpool_pad_ceil", "nn.AvgPool2d(3, 2, pad_mode='pad', padding=1, ceil_mode=True)", [IMAGE], True),
    ("avgpool_divisor", "nn.AvgPool2d(2, 2, pad_mode='valid', divisor_override=3)", [IMAGE], True),
    ("avgpool1d", "nn.AvgPool1d(3, 2)", [(2, 4, 9)], True),
    ("adaptive_avg", "nn.AdaptiveAvgPool2d((3, 2))", [IMAGE], True),
    ("adaptive_avg_uneven", "nn.AdaptiveAvgPool2d((3, 4))", [IMAGE], True),
    ("flatten", "nn.Flatten()", [IMAGE], True),
    ("bn1d_train", "nn.BatchNorm1d(4)", [(6, 4)], True),
    ("bn1d_eval", "nn.BatchNorm1d(4)", [(6, 4)], False),
    ("bn2d_train", "nn.BatchNorm2d(4, momentum=0.7, eps=1e-3)", [IMAGE], True),
    ("bn2d_eval", "nn.BatchNorm2d(4)", [IMAGE], False),
    ("bn2d_use_batch", "nn.BatchNorm2d(4, use_batch_statistics=True)", [IMAGE], False),
    ("bn2d_use_moving", "nn.BatchNorm2d(4, use_batch_statistics=False)", [IMAGE], True),
    ("bn3d_train", "nn.BatchNorm3d(4)", [(2, 4, 3, 2, 2)], True),
    ("layernorm", "nn.LayerNorm((6,))", [(4, 6)], True),
    ("layernorm_axes", "nn.LayerNorm((5, 6), begin_norm_axis=1, begin_params_axis=1)", [(4, 5, 6)], True),
    ("groupnorm", "nn.GroupNorm(2, 4)", [IMAGE], True),
    ("dropout_eval", "nn.Dropout(p=0.3)", [(4, 5)], False),
    ("embedding", "nn.Embedding(7, 3)", [("i", (2, 4), 7)], True),
    ("embedding_one_hot", "nn.Embedding(7, 3, use_one_hot=True)", [("i", (2, 4), 7)], True),
    ("prelu", "nn.PReLU(4)", [IMAGE], True),
] + [
    (name.lower().replace("(", "_").replace(")", ""), f"nn.{name if '(' in name else name + '()'}", [(3, 4)], True)
    for name in [
        "ReLU",
        "ReLU6",
        "LeakyReLU",
        "LeakyReLU(0.1)",
        "ELU",
        "GELU",
        "GELU(False)",
        "SiLU",
        "Sigmoid",
        "Tanh",
        "Softmax",
        "LogSoftmax",
        "LogSoftmax(0)",
        "HSwish",
        "HSigmoid",
        "LogSigmoid",
        "Softsign",
        "Mish",
        "Hardtanh",
        "FastGelu",
        "HShrink",
        "SoftShrink",
        "Tanhshrink",
        "CELU",
    ]
]

LOSSES = [
    ("mse", "nn.MSELoss()", [(4, 3), (4, 3)], True),
    ("mse_sum", "nn.MSELoss('sum')", [(4, 3), (4, 3)], True),
    ("mse_none", "nn.MSELoss('none')", [(4, 3), (4, 3)], True),
    ("l1", "nn.L1Loss()", [(4, 3), (4, 3)], True),
    ("mae", "nn.MAELoss()", [(4, 3), (4, 3)], True),
    ("rmse", "nn.RMSELoss()", [(4, 3), (4, 3)], True),
    ("smooth_l1", "nn.SmoothL1Loss(beta=0.7)", [(4, 3), (4, 3)], True),
    ("smooth_l1_mean", "nn.SmoothL1Loss(beta=0.7, reduction='mean')", [(4, 3), (4, 3)], True),
    ("huber", "nn.HuberLoss(delta=0.8)", [(4, 3), (4, 3)], True),
    ("bce", "nn.BCELoss()", [("p", (4, 3)), ("p", (4, 3))], True),
    ("bce_sum", "nn.BCELoss(reduction='sum')", [("p", (4, 3)), ("p", (4, 3))], True),
    ("bce_logits", "nn.BCEWithLogitsLoss()", [(4, 3), ("p", (4, 3))], True),
    ("bce_logits_none", "nn.BCEWithLogitsLoss('none')", [(4, 3), ("p", (4, 3))], True),
    ("softmax_ce", "nn.SoftmaxCrossEntropyWithLogits()", [(4, 4), ("r", (4, 4))], True),
    ("softmax_ce_mean", "nn.SoftmaxCrossEntropyWithLogits(reduction='mean')", [(4, 4), ("r", (4, 4))], True),
    ("softmax_ce_sparse", "nn.SoftmaxCrossEntropyWithLogits(sparse=True)", [(4, 3), ("i", (4,), 3)], True),
    (
        "softmax_ce_sparse_mean",
        "nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction='mean')",
        [(4, 3), ("i", (4,), 3)],
        True,
    ),
    (
        "softmax_ce_sparse_sum",
        "nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction='sum')",
        [(4, 3), ("i", (4,), 3)],
        True,
    ),
    ("ce", "nn.CrossEntropyLoss()", [(4, 3), ("i", (4,), 3)], True),
    ("ce_sum", "nn.CrossEntropyLoss(reduction='sum')", [(4, 3), ("i", (4,), 3)], True),
    ("ce_none", "nn.CrossEntropyLoss(reduction='none')", [(4, 3), ("i", (4,), 3)], True),
    ("ce_ignore", "nn.CrossEntropyLoss(ignore_index=1)", [(6, 3), ("i", (6,), 3)], True),
    (
        "ce_weight",
        "nn.CrossEntropyLoss(weight=Tensor(np.array([0.5, 2.0, 1.0], np.float32)))",
        [(6, 3), ("i", (6,), 3)],
        True,
    ),
    ("ce_smooth", "nn.CrossEntropyLoss(label_smoothing=0.1)", [(6, 3), ("i", (6,), 3)], True),
    ("ce_probabilities", "nn.CrossEntropyLoss()", [(4, 3), ("p", (4, 3))], True),
    ("ce_image", "nn.CrossEntropyLoss()", [(2, 3, 2, 2), ("i", (2, 2, 2), 3)], True),
    ("nll", "nn.NLLLoss()", [(4, 3), ("i", (4,), 3)], True),
    (
        "nll_weight",
        "nn.NLLLoss(weight=Tensor(np.array([0.5, 2.0, 1.0], np.float32)), ignore_index=0)",
        [(6, 3), ("i", (6,), 3)],
        True,
    ),
    ("kl_mean", "nn.KLDivLoss()", [(4, 3), ("p", (4, 3))], True),
    ("kl_batchmean", "nn.KLDivLoss('batchmean')", [(4, 3), ("p", (4, 3))], True),
    ("kl_none", "nn.KLDivLoss('none')", [(4, 3), ("p", (4, 3))], True),
]

FUNCTIONS = [
    ("fn_" + name, f"lambda x: ops.{call}", [shape], True)
    for name, call, shape in [
        ("softmax_axis", "softmax(x, 0)", (3, 4)),
        ("log_softmax", "log_softmax(x)", (3, 4)),
        ("gelu_tanh", "gelu(x, approximate='tanh')", (3, 4)),
        ("gelu_erf", "gelu(x)", (3, 4)),
        ("softplus", "softplus(x)", (3, 4)),
        ("std", "std(x, 1, 1)", (3, 4)),
        ("var", "var(x, 1)", (3, 4)),
        ("mean_keep", "mean(x, 1, True)", (3, 4)),
        ("prod", "prod(x, 1)", (3, 4)),
        ("max_axis", "max(x, 1)[0]", (3, 4)),
        ("logsumexp", "logsumexp(x, 1)", (3, 4)),
        ("norm", "norm(x)", (3, 4)),
        ("cumsum", "cumsum(x, 1)", (3, 4)),
        ("tril", "tril(x, 1)", (3, 4)),
        ("triu", "triu(x, -1)", (3, 4)),
        ("clip_by_value", "clip_by_value(x, -0.5, 0.7)", (3, 4)),
        ("strided_slice", "strided_slice(x, (0, 1), (3, 4), (2, 2))", (3, 4)),
        ("slice", "slice(x, (1, 0), (2, 3))", (3, 4)),
        ("tile", "tile(x, (2, 3))", (3, 4)),
        ("pad", "pad(x, (1, 2), value=0.5)", (3, 4)),
        ("split", "split(x, 2, 1)[1]", (3, 4)),
        ("stack", "stack((x, x * 2.0), 1)", (3, 4)),
        ("swapaxes", "swapaxes(x, 0, 2)", (2, 3, 4)),
        ("repeat_elements", "repeat_elements(x, 2, 1)", (3, 4)),
        ("floor_div", "floor_div(x, 0.3)", (3, 4)),
        ("l2_normalize", "L2Normalize(1)(x)", (3, 4)),
        ("reduce_sum", "ReduceSum(keep_dims=True)(x, 1)", (3, 4)),
        ("expm1", "expm1(x)", (3, 4)),
        ("log1p", "log1p(x * x)", (3, 4)),
        ("erf", "erf(x)", (3, 4)),
        ("atan", "tan(x)", (3, 4)),
        ("sinh", "sinh(x)", (3, 4)),
        ("cosh", "cosh(x)", (3, 4)),
        ("rsqrt", "rsqrt(x * x + 1.0)", (3, 4)),
        ("adaptive_avg", "adaptive_avg_pool2d(x, (2, 3))", IMAGE),
    ]
]

CASES = LAYERS + LOSSES + FUNCTIONS


def make_inputs(number: int, specs: list) -> list[np.ndarray]:
    """The inputs of case `number`: multiples of 1/64, so that files stay small and both libraries read the same."""
    rng = np.random.default_rng(1000 + number)
    made = []
    for spec in specs:
        if spec[0] == "i":
            made.append(rng.integers(0, spec[2], spec[1]).astype(np.int32))
        elif spec[0] == "p":
            made.append((rng.integers(1, 64, spec[1]) / 64).astype(np.float32))
        elif spec[0] == "r":
            rows = np.sort(rng.integers(1, 64, (*spec[1][:-1], spec[1][-1] - 1)), axis=-1)
            ends = np.concatenate([np.zeros_like(rows[..., :1]), rows, np.full_like(rows[..., :1], 64)], axis=-1)
            made.append((np.diff(ends, axis=-1) / 64).astype(np.float32))
        else:
            made.append((rng.integers(-128, 129, spec) / 64).astype(np.float32))
    return made


def make_parameter(number: int, position: int, shape: tuple[int, ...]) -> np.ndarray:
    """The value of the parameter at `position` (in get_parameters order); positive, so that it may be a variance."""
    rng = np.random.default_rng([number, position])
    return (rng.integers(8, 129, shape) / 64).astype(np.float32)
