"""Records lstm.npz with MindSpore: python make_lstm.py, in a Python that has it. The cases are read by tests/test_rnn.py."""

from __future__ import annotations

import pathlib

import numpy as np

CASES: dict[str, tuple[dict[str, object], bool, bool]] = {
    "plain": ({}, False, False),
    "no_bias": ({"has_bias": False}, False, False),
    "given_state": ({}, True, False),
    "batch_first": ({"batch_first": True}, True, False),
    "two_layers_both_ways": ({"num_layers": 2, "bidirectional": True}, True, False),
    "lengths": ({}, True, True),
    "lengths_both_ways": ({"bidirectional": True}, True, True),
}
"""Arguments beside the sizes; whether hx and seq_length are given."""
TIME, BATCH, INPUTS, HIDDEN = 5, 3, 4, 6


def values(place: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers for a parameter or input."""
    return np.random.default_rng(place).uniform(-0.7, 0.7, shape).astype(np.float32)


def inputs(name: str) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None, np.ndarray | None]:
    """x, hx, seq_length of a case."""
    arguments, has_state, has_lengths = CASES[name]
    x = values(100, (BATCH, TIME, INPUTS) if "batch_first" in arguments else (TIME, BATCH, INPUTS))
    states = int(str(arguments.get("num_layers", 1))) * (2 if "bidirectional" in arguments else 1)
    hx = (values(101, (states, BATCH, HIDDEN)), values(102, (states, BATCH, HIDDEN))) if has_state else None
    return x, hx, np.array([5, 2, 3], np.int32) if has_lengths else None


def main() -> None:
    import mindspore as ms

    found: dict[str, np.ndarray] = {}
    for name, (arguments, _, _) in CASES.items():
        net = ms.nn.LSTM(INPUTS, HIDDEN, **arguments)
        parameters = list(net.trainable_params())
        for k, parameter in enumerate(parameters):
            parameter.set_data(ms.Tensor(values(k, parameter.shape)))
        x, hx, lengths = inputs(name)
        state = None if hx is None else tuple(ms.Tensor(part) for part in hx)
        length = None if lengths is None else ms.Tensor(lengths)

        def weighted(x, net=net, state=state, length=length):  # type: ignore[no-untyped-def]
            output, (h, c) = net(x, state, length)
            return (output * output).sum() + h.sum() + (c * c * c).sum()

        output, (h, c) = net(ms.Tensor(x), state, length)
        by_x, by_weights = ms.grad(weighted, 0, parameters)(ms.Tensor(x))
        for key, value in {"output": output, "h": h, "c": c, "by_x": by_x}.items():
            found[f"{name}/{key}"] = value.asnumpy()
        for parameter, gradient in zip(parameters, by_weights, strict=True):
            found[f"{name}/{parameter.name}"] = gradient.asnumpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("lstm.npz"), **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
