"""Every call whose outcome was recorded: it raises that error, or none, and the message names what was wrong."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import in_mode

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops

ROWS = json.loads((Path(__file__).parent / "goldens" / "errors.json").read_text())
MODES = [ms.PYNATIVE_MODE, ms.GRAPH_MODE]


class WD(nn.Cell):
    def construct(self, step: Tensor) -> Any:
        return Tensor(0.1)


class Net(nn.Cell):
    """x * x * y * z, with a second parameter that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.z, self.unused = Parameter(Tensor([2.0]), name="z"), Parameter(Tensor([3.0]), name="unused")

    def construct(self, x: Tensor, y: Tensor) -> Any:
        return x * x * y * self.z


class ThorNet(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Dense(3, 2)

    def construct(self, x: Tensor) -> Any:
        return self.fc(x)


def scope() -> dict[str, Any]:
    shapes = {"conv.weight": (4, 3, 3, 3), "fc.weight": (5, 3), "fc.bias": (5,)}
    p = [Parameter(Tensor(np.ones(s, np.float32)), name=n) for n, s in shapes.items()]
    return {
        "ms": ms, "nn": nn, "ops": ops, "np": np, "Tensor": Tensor, "Parameter": Parameter,
        "p": p, "conv": [p[0]], "rest": p[1:], "bias": [p[2]], "WD": WD, "net": Net(), "tnet": ThorNet,
        "x": Tensor([1.0, 2.0]), "y": Tensor([3.0, 4.0]), "sens": Tensor([1.0, 10.0]), "xi": Tensor([1, 2], ms.int32),
        "lr": Tensor([0.1, 0.2, 0.3, 0.4]),
        "f_mul": lambda a, b: a * b, "f_two": lambda a, b: (a * b, a + b), "f_aux": lambda a, b: (a * b, a + b, b),
    }  # fmt: skip


OTHERWISE: dict[str, Any] = {  # where the specification wants something else than the recording
    "nn.Adam(p,'a')": TypeError,
    "nn.Adam(p,{'a':1})": TypeError,
    "nn.Adam([{'params':conv,'lr':'a'},{'params':rest}],0.1)": TypeError,
    "nn.Adam([{'params':conv},{'params':rest},{'order_params':['conv.weight','fc.weight','fc.bias']}],0.1)": TypeError,
    "nn.Adam([{'params':rest,'grad_centralization':True},{'params':conv}],0.1)": ValueError,
    "nn.AdaFactor(p,beta1=1.5)": ValueError,
    "nn.AdaFactor(p,warmup_init=1)": TypeError,
    "nn.AdaFactor(p,learning_rate='a',relative_step=False)": TypeError,
    "nn.LARS(3)": TypeError,
    "nn.thor(tnet(),lr,0.1,0.9)": TypeError,
    "ops.GradOperation(get_all=True,sens_param=True)(f_two)(x,y,sens)": TypeError,
    "ms.grad(net,2)(x,y)": IndexError,
}


SAYS = (
    "found|expected|must|missing|unexpected|__init__|not among|override|cannot be set|lacks|excludes|is set twice|"
    "two parameters are named|too many positional arguments|both None|holds a position twice|beyond|no gradient of"
)
UNNAMED = ("get_all", "sens_param", "return_ids", "scale_sense")  # given rightly; something else is wrong in the call


@pytest.mark.filterwarnings("ignore:.*one value only")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", ROWS, ids=[r["call"] for r in ROWS])
def test_row(row: dict[str, Any], mode: int) -> None:
    call = row["call"]
    wanted = re.match(r"ms\.(vjp|jvp|jacrev)\(", call)
    if wanted and not hasattr(ms, wanted[1]):
        pytest.skip(f"ms.{wanted[1]} is not offered")
    expected = OTHERWISE.get(call, row["raises"])
    with in_mode(mode):
        if expected is None:
            eval(call, scope())
            return
        error = expected if isinstance(expected, type) else getattr(builtins, expected)
        with pytest.raises(error) as caught:
            eval(call, scope())
    message = str(caught.value)
    assert re.search(SAYS, message), message
    named = re.findall(r"[,(](\w+)=", call.rpartition("(Tensor(")[0] or call)
    assert len(named) != 1 or call.startswith("setattr") or named[0] in message or named[0] in UNNAMED, message


def test_no_row_was_left_out() -> None:
    assert len({r["call"] for r in ROWS}) == len(ROWS) == 399
