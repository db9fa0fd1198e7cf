"""Records files written by MindSpore: `python make_checkpoints.py` in an environment that has it. With file names,
reads those, which graphopt wrote, and prints what MindSpore finds in them.

written.ckpt holds all dtypes, shapes and kinds of appended values; written_crc.ckpt is the same with its sum;
written.safetensors the same without strs; trained.ckpt is a training step with its Adam after three steps, and
trained.npz the input and the parameters after two more.
"""

import os
import pathlib
import sys

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

HERE = pathlib.Path(__file__).parent
KINDS = [
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bool_",
]


def entries():
    """One entry per dtype, then other shapes, then bfloat16."""
    made = [(f"kind.{k}", Tensor(np.arange(6).reshape(2, 3).astype(getattr(np, k)))) for k in KINDS]
    made += [("shape.scalar", Tensor(np.float32(1.5))), ("shape.one", Tensor(np.ones(1, np.int32)))]
    made += [("shape.long", Tensor(np.arange(300, dtype=np.float32)))]
    made += [("shape.deep", Tensor(np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)))]
    return made


APPENDED = {"epoch": 3, "rate": 0.25, "done": True, "name": "häß", "nothing": ""}


def trained():
    """A training step after three steps."""
    net = nn.Dense(
        3, 2, weight_init=Tensor(np.arange(6).reshape(2, 3).astype(np.float32) / 10), bias_init="zeros"
    )
    return nn.TrainOneStepCell(
        nn.WithLossCell(net, nn.MSELoss()), nn.Adam(net.trainable_params(), 0.1, use_amsgrad=True)
    )


def record():
    half = Parameter(Tensor(np.arange(4, dtype=np.float32), ms.bfloat16), name="kind.bfloat16")
    listed = [{"name": n, "data": v} for n, v in entries()] + [{"name": "kind.bfloat16", "data": half}]
    names = ["written.ckpt", "written_crc.ckpt", "written.safetensors", "trained.ckpt"]
    for name in names:
        (HERE / name).unlink(missing_ok=True)
    ms.save_checkpoint(list(listed), str(HERE / names[0]), append_dict=dict(APPENDED))
    ms.save_checkpoint(list(listed), str(HERE / names[1]), append_dict=dict(APPENDED), crc_check=True)
    numbers = {k: v for k, v in APPENDED.items() if not isinstance(v, str)}
    ms.save_checkpoint(
        list(listed[:-1]), str(HERE / names[2]), append_dict=numbers, format="safetensors", crc_check=True
    )
    step = trained()
    x, y = np.array([[1, 2, 3], [4, 5, 6]], np.float32) / 4, np.array([[1, 0], [0, 1]], np.float32)
    for _ in range(3):
        step(Tensor(x), Tensor(y))
    ms.save_checkpoint(step, str(HERE / names[3]))
    for _ in range(2):
        step(Tensor(x), Tensor(y))
    np.savez(HERE / "trained.npz", x=x, y=y, **{p.name: p.asnumpy() for p in step.get_parameters()})
    for name in names:
        os.chmod(HERE / name, 0o644)


def read(path):
    kind = "safetensors" if path.endswith("safetensors") else "ckpt"
    for name, value in ms.load_checkpoint(path, format=kind, crc_check=True).items():
        print(
            name,
            value
            if isinstance(value, str)
            else (value.shape, str(value.dtype), value.asnumpy().astype(float).sum()),
        )
    if "trained" in path:
        print("not loaded:", ms.load_param_into_net(trained(), ms.load_checkpoint(path)))


if __name__ == "__main__":
    for given in sys.argv[1:]:
        read(given)
    if len(sys.argv) == 1:
        record()
