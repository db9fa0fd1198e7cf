"""Checkpoints: MindSpore's own files, continued runs bit by bit, damage, failed saves, loading rules, errors."""

from __future__ import annotations

import builtins
import io
import os
import pathlib
import sys
from typing import Any

import hypothesis
import numpy as np
import pytest
from golden_cases import in_mode
from hypothesis import strategies as st

import graphopt as ms
from graphopt import Parameter, Tensor, nn
from graphopt import dataset as ds
from graphopt.train import tensor_files, wait_for_saves, wire

GOLDENS = pathlib.Path(__file__).parent / "goldens"
MODES = [ms.PYNATIVE_MODE, ms.GRAPH_MODE]
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
APPENDED = {"epoch": 3, "rate": 0.25, "done": True, "name": "häß", "nothing": ""}
FORMATS = ["ckpt", "safetensors"]


def needs(format: str) -> None:
    if format == "safetensors":
        pytest.importorskip("safetensors")


def entries() -> dict[str, np.ndarray]:
    """What the recorded files hold."""
    made = {f"kind.{k}": np.arange(6).reshape(2, 3).astype(getattr(np, k)) for k in KINDS}
    made |= {"shape.scalar": np.array(1.5, np.float32), "shape.one": np.ones(1, np.int32)}
    made |= {"shape.long": np.arange(300, dtype=np.float32)}
    made |= {"shape.deep": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)}
    return made | {"kind.bfloat16": np.arange(4).astype(ms.bfloat16.numpy)}


def same(found: Any, expected: np.ndarray) -> bool:
    array = found.asnumpy()
    return (
        array.dtype == expected.dtype
        and array.shape == expected.shape
        and array.tobytes() == expected.tobytes()
    )


# MindSpore's files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["written.ckpt", "written_crc.ckpt", "written.safetensors"])
def test_files_that_mindspore_wrote_are_read(name: str) -> None:
    format = name.rpartition(".")[2]
    needs(format)
    loaded = ms.load_checkpoint(str(GOLDENS / name), format=format, crc_check=True)
    expected = entries()
    if format == "safetensors":
        del expected["kind.bfloat16"]
    else:
        assert (loaded.pop("name"), loaded.pop("nothing")) == ("häß", "")
    epoch, rate, done = loaded.pop("epoch"), loaded.pop("rate"), loaded.pop("done")
    assert same(epoch, np.array(3)) and same(rate, np.array(0.25, np.float32)) and same(done, np.array(True))
    assert set(loaded) == set(expected)
    assert all(p.name == n and same(p, expected[n]) for n, p in loaded.items())
    assert format == "safetensors" or list(loaded) == list(expected)


@pytest.mark.parametrize(("name", "crc"), [("written.ckpt", False), ("written_crc.ckpt", True)])
def test_files_have_the_bytes_mindspore_writes(name: str, crc: bool, tmp_path: pathlib.Path) -> None:
    """So a MindSpore reads them."""
    listed = [{"name": n, "data": Tensor(v)} for n, v in entries().items()]
    ms.save_checkpoint(listed, str(tmp_path / name), append_dict=APPENDED, crc_check=crc)
    assert (tmp_path / name).read_bytes() == (GOLDENS / name).read_bytes()


def test_safetensors_have_the_bytes_mindspore_writes(tmp_path: pathlib.Path) -> None:
    """The same tensors, metadata and sum: the header differs in the order of its keys at most."""
    needs("safetensors")
    values = {n: v for n, v in entries().items() if n != "kind.bfloat16"}
    numbers = {k: v for k, v in APPENDED.items() if not isinstance(v, str)}
    path = str(tmp_path / "written.safetensors")
    ms.save_checkpoint(values, path, append_dict=numbers, format="safetensors", crc_check=True)
    assert _parts(pathlib.Path(path).read_bytes()) == _parts((GOLDENS / "written.safetensors").read_bytes())


def _parts(data: bytes) -> tuple[Any, bytes]:
    size = 8 + int.from_bytes(data[:8], "little")
    return eval(data[8:size]), data[size:]


def adam_step() -> nn.TrainOneStepCell:
    net = nn.Dense(
        3, 2, weight_init=Tensor(np.arange(6).reshape(2, 3).astype(np.float32) / 10), bias_init="zeros"
    )
    return nn.TrainOneStepCell(
        nn.WithLossCell(net, nn.MSELoss()), nn.Adam(net.trainable_params(), 0.1, use_amsgrad=True)
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_training_that_mindspore_began_goes_on(mode: int) -> None:
    step, recorded = adam_step(), np.load(GOLDENS / "trained.npz")
    loaded = ms.load_checkpoint(str(GOLDENS / "trained.ckpt"))
    assert ms.load_param_into_net(step, loaded, strict_load=True) == ([], [])
    with in_mode(mode):
        for _ in range(2):
            step(Tensor(recorded["x"]), Tensor(recorded["y"]))
    for p in step.get_parameters():
        assert np.allclose(p.asnumpy(), recorded[p.name], rtol=2e-5, atol=2e-6), p.name


def test_a_training_has_mindspores_names_in_its_order(tmp_path: pathlib.Path) -> None:
    step = adam_step()
    ms.load_checkpoint(str(GOLDENS / "trained.ckpt"), step)
    ms.save_checkpoint(step, str(tmp_path / "again.ckpt"))
    assert (tmp_path / "again.ckpt").read_bytes() == (GOLDENS / "trained.ckpt").read_bytes()


# runs that go on --------------------------------------------------------------------------------------------


class Net(nn.Cell):
    """With everything that has state: normalization, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Dense(6, 8), nn.BatchNorm1d(8)
        self.drop, self.out = nn.Dropout(p=0.3), nn.Dense(8, 3)

    def construct(self, x: Tensor) -> Any:
        return self.out(self.drop(self.bn(self.fc(x))))


OPTIMIZERS = {
    "sgd": lambda p: nn.SGD(p, 0.05, 0.9, weight_decay=0.01),
    "momentum": lambda p: nn.Momentum(p, nn.CosineDecayLR(0.01, 0.1, 15), 0.9, use_nesterov=True),
    "momentum_list": lambda p: nn.Momentum(p, [0.1 / (k + 1) for k in range(20)], 0.9),
    "adam": lambda p: nn.Adam(p, 0.01, weight_decay=0.01),
    "amsgrad": lambda p: nn.Adam(p, 0.01, use_amsgrad=True),
    "groups": lambda p: nn.Adam([{"params": p[:2], "lr": 0.1}, {"params": p[2:], "weight_decay": 0.1}], 0.01),
}


def training(name: str, scaled: bool) -> nn.Cell:
    net = Net()
    loss_net = nn.WithLossCell(net, nn.CrossEntropyLoss())
    optimizer = OPTIMIZERS[name](net.trainable_params())
    if scaled:
        update = nn.DynamicLossScaleUpdateCell(2.0**10, 2, 3)
        return nn.TrainOneStepWithLossScaleCell(loss_net, optimizer, update).set_train()
    return nn.TrainOneStepCell(loss_net, optimizer).set_train()


def run(step: nn.Cell, first: int, last: int) -> list[bytes]:
    losses = []
    for k in range(first, last):
        rng = np.random.default_rng(k)
        x = rng.normal(size=(16, 6)).astype(np.float32)
        if isinstance(step, nn.TrainOneStepWithLossScaleCell) and k % 6 == 5:
            step.set_sense_scale(Tensor(np.float32(3e38)))
        out = step(Tensor(x), Tensor(rng.integers(0, 3, 16).astype(np.int32)))
        losses.append((out[0] if isinstance(out, tuple) else out).asnumpy().tobytes())
    return losses


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_run_continues_bit_by_bit(
    name: str, scaled: bool, mode: int, format: str, tmp_path: pathlib.Path
) -> None:
    """10 steps, save, 10 more; or load into fresh objects that had other values, and 10 more."""
    needs(format)
    path = str(tmp_path / f"run.{format}")
    with in_mode(mode):
        ms.set_seed(1)
        step = training(name, scaled)
        run(step, 0, 10)
        ms.save_checkpoint(step, path, append_dict={"rng": ms.get_rng_state()}, format=format)
        losses = run(step, 10, 20)
        ms.set_seed(2)
        other = training(name, scaled)
        run(other, 0, 1)
        loaded = ms.load_checkpoint(path, other, strict_load=True, format=format)
        ms.set_rng_state(loaded["rng"])
        assert run(other, 10, 20) == losses
        compiles = other.compile_cache.compiles
    assert compiles == (1 if mode == ms.GRAPH_MODE else 0)
    for p, q in zip(step.get_parameters(), other.get_parameters(), strict=True):
        assert p.name == q.name and p.asnumpy().tobytes() == q.asnumpy().tobytes(), p.name


# round trips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("asynchronous", [False, True, "thread", "process"])
def test_round_trip(format: str, asynchronous: Any, tmp_path: pathlib.Path) -> None:
    needs(format)
    values = entries()
    values["empty"], values["flat"] = np.zeros((0, 3), np.float32), np.zeros(0, np.int32)
    parameters = [Parameter(Tensor(v), name=n) for n, v in values.items()]
    path = str(tmp_path / "all")
    ms.save_checkpoint(
        parameters, path, async_save=asynchronous, format=format, choice_func=lambda n: n != "shape.one"
    )
    for p in parameters:  # what is written in the background is what was there
        p.set_data(Tensor(np.zeros(p.shape, p.dtype.numpy)))
    del values["shape.one"]
    assert set(map(repr, ms.mstype.all_types)) == {repr(p.dtype) for p in parameters}
    loaded = ms.load_checkpoint(f"{path}.{format}", format=format)
    assert set(loaded) == set(values) and all(same(loaded[n], v) for n, v in values.items())
    assert os.listdir(tmp_path) == [f"all.{format}"]


def test_saving_what_was_loaded(tmp_path: pathlib.Path) -> None:
    loaded = ms.load_checkpoint(str(GOLDENS / "written.ckpt"))
    ms.save_checkpoint(loaded, str(tmp_path / "b.ckpt"))
    assert (tmp_path / "b.ckpt").read_bytes() == (GOLDENS / "written.ckpt").read_bytes()


def test_safetensors_from_memory() -> None:
    needs("safetensors")
    data = io.BytesIO((GOLDENS / "written.safetensors").read_bytes())
    assert same(
        ms.load_checkpoint(data, format="safetensors")["shape.long"], np.arange(300, dtype=np.float32)
    )


@pytest.mark.parametrize("chunk_bytes", [1, 7, 16, 1 << 20])
@pytest.mark.parametrize("crc", [False, True])
def test_large_tensors_stand_in_parts(chunk_bytes: int, crc: bool) -> None:
    file = io.BytesIO()
    written = [
        wire.Entry(t, (4, 4), "UInt8", memoryview(bytes(range(k, k + 16)))) for k, t in enumerate("abc")
    ]
    wire.write(file, written, crc, chunk_bytes)
    assert wire.read(file.getvalue()) == written


NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@hypothesis.given(
    st.dictionaries(
        NAMES, st.tuples(st.lists(st.integers(0, 2**40), max_size=5), st.binary(max_size=300)), max_size=5
    ),
    st.booleans(),
)
def test_any_entries_round_trip(given: dict[str, tuple[list[int], bytes]], crc: bool) -> None:
    file = io.BytesIO()
    written = [
        wire.Entry(t, tuple(dims), "Int8", memoryview(content)) for t, (dims, content) in given.items()
    ]
    wire.write(file, written, crc)
    assert wire.read(file.getvalue()) == written


def test_older_files_write_a_scalar_as_zero_elements(tmp_path: pathlib.Path) -> None:
    with open(tmp_path / "old.ckpt", "wb") as file:
        wire.write(file, [wire.Entry("s", (0,), "Float32", memoryview(np.float32(2).tobytes()))])
    assert same(ms.load_checkpoint(str(tmp_path / "old.ckpt"))["s"], np.array(2, np.float32))


# damage -----------------------------------------------------------------------------------------------------


def damaged() -> list[tuple[str, bytes, str]]:
    """(what, bytes, what the message says)."""
    good = (GOLDENS / "written.ckpt").read_bytes()
    summed = (GOLDENS / "written_crc.ckpt").read_bytes()
    flipped = bytearray(summed)
    flipped[1000] ^= 4

    def one(
        tag: str = "a", dims: tuple[int, ...] = (2,), kind: str = "Int8", content: bytes = b"ab"
    ) -> bytes:
        file = io.BytesIO()
        wire.write(file, [wire.Entry(tag, dims, kind, memoryview(content))])
        return file.getvalue()

    return [
        ("empty", b"", "nothing to load"),
        ("cut", good[:-1], "ends early"),
        ("cut in a tensor", good[:1500], "ends early"),
        ("text", b"this is no checkpoint", "found field"),
        ("zip", b"PK\x03\x04" + bytes(100), "found field"),
        ("zeros", bytes(64), "found field"),
        ("a bit", bytes(flipped), "CRC32"),
        ("dtype", one(kind="Int5"), "unknown dtype 'Int5'"),
        ("size", one(content=b"abc"), "Int8 of shape (2,) has 2 bytes, found 3"),
        ("parts", one() + one(content=b"c"), "found 3"),
        ("huge", one(dims=(2**62, 2**62)), "bytes, found 2"),
        ("twice", one() + one("b") + one(), "'a' stands in it twice"),
        ("name", one().replace(b"a\x12", b"\xff\x12"), "UTF-8"),
        ("no content", b"\x0a\x07\x0a\x01a\x12\x02\x08\x01", "lacks"),
        ("no tensor", b"\x0a\x03\x0a\x01a", "lacks its name, type or content"),
        ("map", b"\x0a\x05\x0a\x01a\x1a\x00", "field 3"),
        ("number", b"\x0a" + b"\xff" * 11, "number"),
        ("utf-32", one(kind="str", dims=(0,), content=b"abc"), "UTF-32"),
    ]


@pytest.mark.parametrize(("what", "data", "text"), damaged(), ids=[d[0] for d in damaged()])
def test_damaged_files(what: str, data: bytes, text: str, tmp_path: pathlib.Path) -> None:
    path, net = tmp_path / "broken.ckpt", nn.Dense(2, 2)
    path.write_bytes(data)
    before = net.weight.asnumpy()
    with pytest.raises(ValueError) as caught:
        ms.load_checkpoint(str(path), net)
    assert str(path) in str(caught.value) and text in str(caught.value)
    assert np.array_equal(before, net.weight.asnumpy())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("crc", [False, True])
def test_every_cut_and_flip_is_refused_or_harmless(format: str, crc: bool, tmp_path: pathlib.Path) -> None:
    """No cut or flipped byte gives anything but ValueError or entries; with a sum no flip goes unseen."""
    needs(format)
    path = tmp_path / f"x.{format}"
    values = {"a": np.arange(3, dtype=np.float32), "b": np.ones((), np.int16)}
    ms.save_checkpoint(values, str(path), format=format, crc_check=crc)
    data = path.read_bytes()
    spoilt = [data[:k] for k in range(len(data))] + [
        data[:k] + bytes([data[k] ^ 16]) + data[k + 1 :] for k in range(len(data))
    ]
    seen = 0
    for k, wrong in enumerate(spoilt):
        path.write_bytes(wrong)
        try:
            ms.load_checkpoint(str(path), format=format, crc_check=True)
        except ValueError as error:
            assert str(path) in str(error)
            seen += k >= len(data)
    assert seen > len(data) // 4
    if crc and format == "ckpt":
        mark = len(data) - 17
        for k in range(mark):
            path.write_bytes(spoilt[len(data) + k])
            with pytest.raises(ValueError, match="CRC32"):
                ms.load_checkpoint(str(path))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failed_save_leaves_the_old_file(
    format: str, asynchronous: bool, tmp_path: pathlib.Path, monkeypatch: Any
) -> None:
    needs(format)
    path = tmp_path / f"net.{format}"
    ms.save_checkpoint({"a": np.ones(3, np.float32)}, str(path), format=format)
    before = path.read_bytes()

    def full(file: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tensor_files, "_settle", full)
        with pytest.raises(OSError, match="No space"):
            ms.save_checkpoint(
                {"a": np.zeros(9, np.float32)}, str(path), async_save=asynchronous, format=format
            )
            wait_for_saves()
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    ms.save_checkpoint({"a": np.zeros(9, np.float32)}, str(path), format=format)
    assert path.read_bytes() != before and os.listdir(tmp_path) == [path.name]


def test_a_save_that_is_killed_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    """The process ends in the middle of writing."""
    import subprocess

    path = tmp_path / "net.ckpt"
    ms.save_checkpoint({"a": np.ones(3, np.float32)}, str(path))
    before = path.read_bytes()
    code = (
        "import os, sys, numpy as np, graphopt as ms\n"
        "from graphopt.train import tensor_files\n"
        "tensor_files._settle = lambda file: os._exit(9)\n"
        "ms.save_checkpoint({'a': np.zeros(99, np.float32)}, sys.argv[1])\n"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], env={**os.environ, "PYTHONPATH": paths}, check=False
    )
    assert done.returncode == 9 and path.read_bytes() == before


# loading into a network -------------------------------------------------------------------------------------


class Two(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Dense(3, 2), nn.Dense(2, 1)


def like(net: nn.Cell, prefix: str = "", **changed: Any) -> dict[str, Parameter]:
    """Parameters as net's, all ones, some of them changed or (None) left out."""
    values = {p.name: np.ones(p.shape, p.dtype.numpy) for p in net.get_parameters()}
    values |= {k.replace("__", "."): v for k, v in changed.items()}
    return {prefix + n: Parameter(Tensor(v), name=n) for n, v in values.items() if v is not None}


def ones(net: nn.Cell) -> list[str]:
    return [p.name for p in net.get_parameters() if (p.asnumpy() == 1).all()]


ALL = ["a.weight", "a.bias", "b.weight", "b.bias"]
ONE = np.ones(1, np.float32)
LOADS = [  # (parameters, strict, not found in the file, not used of the file)
    ({}, False, [], []),
    ({}, True, [], []),
    ({"a__bias": None}, True, ["a.bias"], []),
    ({"c__bias": ONE}, True, [], ["c.bias"]),
    ({"a__bias": np.ones(2, np.float16)}, False, [], []),
    ({"a__bias": np.ones(2, np.float64)}, False, [], []),
    ({"a__bias": np.ones((2, 1, 1), np.float32)}, True, [], []),
    ({"prefix": "net."}, True, ALL, ["net." + n for n in ALL]),
    ({"prefix": "net."}, False, [], []),
    ({"prefix": "net.", "b__bias": None}, False, ["b.bias"], []),
    ({"prefix": "net.", "moment__a": ONE}, False, [], ["net.moment.a"]),
]


@pytest.mark.parametrize(("changed", "strict", "missing", "unused"), LOADS)
def test_what_is_loaded(changed: dict[str, Any], strict: bool, missing: list[str], unused: list[str]) -> None:
    net = Two()
    assert ms.load_param_into_net(net, like(net, **changed), strict) == (missing, unused)
    assert ones(net) == [n for n in ALL if n not in missing]
    assert net.a.bias.dtype is ms.float32 and net.a.bias.shape == (2,)


def test_a_str_is_left_alone() -> None:
    net = Two()
    assert ms.load_param_into_net(net, {**like(net, a__bias=None), "a.bias": "text"}) == ([], ["a.bias"])


def test_integers_convert_among_themselves() -> None:
    net = nn.Cell()
    net.step = Parameter(Tensor(np.int32(0)), name="step")
    ms.load_param_into_net(net, {"step": Parameter(Tensor(np.int64(7)))})
    assert same(net.step, np.array(7, np.int32))


MISFITS = [
    ({"b__bias": np.ones(2, np.float32)}, False, r"b\.bias has shape \(1,\), b\.bias has \(2,\)"),
    ({"a__weight": np.ones((3, 2), np.float32)}, False, r"a\.weight has shape \(2, 3\)"),
    ({"a__weight": np.ones((1, 2, 3), np.float32)}, False, "shape"),
    ({"b__bias": np.ones((), np.float32)}, False, "shape"),
    ({"b__bias": np.ones(1, np.float16)}, True, "Float32, b.bias is Float16; strict_load=False would"),
    ({"b__bias": np.ones(1, np.int32)}, False, "is Int32\n"),
    ({"b__bias": np.ones(1, np.bool_)}, False, "is Bool\n"),
    ({"prefix": "net.", "b__bias": np.ones(2, np.float32)}, False, r"net\.b\.bias has \(2,\)"),
]


@pytest.mark.parametrize(("changed", "strict", "text"), MISFITS)
def test_what_does_not_fit_loads_nothing(changed: dict[str, Any], strict: bool, text: str) -> None:
    net = Two()
    before = [p.asnumpy() for p in net.get_parameters()]
    with pytest.raises(RuntimeError, match=text) as caught:
        ms.load_param_into_net(net, like(net, **changed), strict)
    assert type(caught.value) is RuntimeError
    assert all(np.array_equal(a, p.asnumpy()) for a, p in zip(before, net.get_parameters(), strict=True))


def test_loading_compiles_nothing_anew() -> None:
    net = nn.Dense(3, 2)
    with in_mode(ms.GRAPH_MODE):
        net(Tensor(np.ones((1, 3), np.float32)))
        ms.load_param_into_net(net, like(net))
        assert net(Tensor(np.ones((1, 3), np.float32))).asnumpy().tolist() == [[4, 4]]
    assert net.compile_cache.compiles == 1


# arguments --------------------------------------------------------------------------------------------------

W = Parameter(Tensor([1.0]), name="w")
NET = Two()
SAVE, LOAD, INTO = "ms.save_checkpoint(NET, F", "ms.load_checkpoint(N", "ms.load_param_into_net(NET, "
ERRORS: list[tuple[str, str, str]] = [
    ("ms.save_checkpoint(3, F)", "TypeError", "save_obj"),
    ("ms.save_checkpoint(NET, 3)", "TypeError", "ckpt_file_name"),
    ("ms.save_checkpoint(NET, D)", "IsADirectoryError", "folder"),
    ("ms.save_checkpoint(NET, D + '/no/such.ckpt')", "FileNotFoundError", "such"),
    (SAVE + ", format='onnx')", "ValueError", "format"),
    (SAVE + ", integrated_save=1)", "TypeError", "integrated_save"),
    (SAVE + ", async_save=1)", "TypeError", "async_save"),
    (SAVE + ", async_save='fork')", "ValueError", "async_save"),
    (SAVE + ", append_dict=1)", "TypeError", "append_dict"),
    (SAVE + ", append_dict={1: 1})", "TypeError", "append_dict"),
    (SAVE + ", append_dict={'a': [1]})", "TypeError", "append_dict"),
    (SAVE + ", enc_key='a')", "ValueError", "enc_key"),
    (SAVE + ", enc_key=b'0123456789abcdef')", "NotImplementedError", "encrypted"),
    (SAVE + ", enc_mode=1)", "ValueError", "enc_mode"),
    (SAVE + ", enc_key=b'0', format='safetensors')", "ValueError", "enc_key"),
    (SAVE + ", crc_check=1)", "ValueError", "crc_check"),
    ("ms.save_checkpoint([1], F)", "TypeError", "element of save_obj"),
    ("ms.save_checkpoint([{'name': 'a'}], F)", "TypeError", "name and data"),
    ("ms.save_checkpoint([{'name': 1, 'data': W}], F)", "TypeError", "found 1"),
    ("ms.save_checkpoint([{'name': 'a', 'data': 1}], F)", "TypeError", "save_obj must hold"),
    ("ms.save_checkpoint({1: W}, F)", "TypeError", "save_obj must hold"),
    ("ms.save_checkpoint({'a': 1}, F)", "TypeError", "save_obj must hold"),
    ("ms.save_checkpoint([W, W], F)", "ValueError", "two entries"),
    ("ms.save_checkpoint(nn.SequentialCell(NET.a, TWIN), F)", "ValueError", "two different Parameters"),
    ("ms.load_checkpoint(3)", "TypeError", "ckpt_file_name"),
    ("ms.load_checkpoint(D + '/none.ckpt')", "ValueError", "no file"),
    ("ms.load_checkpoint(D + '/none.txt')", "ValueError", "end"),
    (LOAD + ", format='safetensors')", "ValueError", "end"),
    (LOAD + ", format='onnx')", "ValueError", "format"),
    ("ms.load_checkpoint(io.BytesIO(b''))", "TypeError", "ckpt_file_name"),
    (LOAD + ", 3)", "TypeError", "net"),
    (LOAD + ", NET, strict_load=1)", "TypeError", "strict_load"),
    (LOAD + ", filter_prefix=3)", "TypeError", "filter_prefix"),
    (LOAD + ", filter_prefix=[])", "ValueError", "filter_prefix"),
    (LOAD + ", filter_prefix=[3])", "TypeError", "filter_prefix"),
    (LOAD + ", filter_prefix='')", "ValueError", "filter_prefix"),
    (LOAD + ", specify_prefix=['a', ''])", "ValueError", "specify_prefix"),
    (LOAD + ", filter_prefix=['a', 'b'])", "ValueError", "nothing to load"),
    (LOAD + ", specify_prefix='c')", "ValueError", "nothing to load"),
    (LOAD + ", choice_func=lambda name: False)", "ValueError", "nothing to load"),
    (LOAD + ", choice_func=3)", "ValueError", "choice_func"),
    (LOAD + ", dec_key='a')", "ValueError", "dec_key"),
    (LOAD + ", dec_key=b'0123456789abcdef')", "NotImplementedError", "encrypted"),
    (LOAD + ", dec_mode=3)", "ValueError", "dec_mode"),
    (LOAD + ", crc_check=1)", "ValueError", "crc_check"),
    (LOAD + ", remove_redundancy=1)", "ValueError", "remove_redundancy"),
    ("ms.load_param_into_net(3, {})", "TypeError", "net"),
    (INTO + "3)", "TypeError", "parameter_dict"),
    (INTO + "{1: W})", "TypeError", "parameter_dict"),
    (INTO + "{'a': np.ones(1)})", "TypeError", "parameter_dict"),
    (INTO + "{'a': ms.Tensor([1.0])})", "TypeError", "parameter_dict"),
    (INTO + "{}, strict_load=1)", "TypeError", "strict_load"),
    (INTO + "{}, remove_redundancy=1)", "TypeError", "remove_redundancy"),
    (INTO + "{}, remove_redundancy=True)", "TypeError", "several devices"),
    ("Config(0, 0, 0, 0)", "ValueError", "must be > 0"),
    ("Config(None, None, None, None)", "ValueError", "must be > 0"),
    ("Config(-1)", "ValueError", "save_checkpoint_steps"),
    ("Config('a')", "TypeError", "save_checkpoint_steps"),
    ("Config(1, 1.5)", "TypeError", "save_checkpoint_seconds"),
    ("Config(keep_checkpoint_max=-1)", "ValueError", "keep_checkpoint_max"),
    ("Config(keep_checkpoint_per_n_minutes='a')", "TypeError", "keep_checkpoint_per_n_minutes"),
    ("Config(saved_network=3)", "TypeError", "saved_network"),
    ("Config(append_info=3)", "TypeError", "append_info"),
    ("Config(append_info=['a'])", "ValueError", "append_info"),
    ("Config(append_info=[3])", "TypeError", "append_info"),
    ("Config(append_info=[{'a': 1}, {'b': 2}])", "TypeError", "append_info"),
    ("Config(append_info=[{'a': [1]}])", "TypeError", "append_dict"),
    ("Config(append_info=[{1: 1}])", "TypeError", "append_dict"),
    ("Config(integrated_save=3)", "TypeError", "integrated_save"),
    ("Config(async_save=3)", "TypeError", "async_save"),
    ("Config(async_save='x')", "ValueError", "async_save"),
    ("Config(exception_save=3)", "TypeError", "exception_save"),
    ("Config(enc_key=3)", "ValueError", "enc_key"),
    ("Config(crc_check=3)", "ValueError", "crc_check"),
    ("Config(format=3)", "ValueError", "format"),
    ("Config(remove_redundancy=3)", "ValueError", "remove_redundancy"),
    ("Config(format='safetensors', crc_check=True)", "ValueError", "crc_check"),
    ("Config(format='safetensors', exception_save=True)", "ValueError", "exception_save"),
    ("ms.ModelCheckpoint('a/b')", "ValueError", "prefix"),
    ("ms.ModelCheckpoint(3)", "ValueError", "prefix"),
    ("ms.ModelCheckpoint('a', 3)", "TypeError", "directory"),
    ("ms.ModelCheckpoint('a', '')", "ValueError", "directory"),
    ("ms.ModelCheckpoint(config=3)", "TypeError", "config"),
    ("ms.set_rng_state(3)", "TypeError", "state"),
    ("ms.set_rng_state(ms.Tensor([1, 2]))", "ValueError", "state"),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS, ids=[e[0] for e in ERRORS])
def test_errors(call: str, error: str, text: str, tmp_path: pathlib.Path) -> None:
    before = [p.asnumpy() for p in NET.get_parameters()]
    ms.save_checkpoint(NET, str(tmp_path / "net.ckpt"))
    twin = nn.Dense(3, 2)
    for p in twin.get_parameters():
        p.name = f"a.{p.name}"
    scope = {
        "ms": ms,
        "nn": nn,
        "np": np,
        "io": io,
        "NET": NET,
        "W": W,
        "TWIN": twin,
        "Config": ms.CheckpointConfig,
    }
    scope |= {"D": str(tmp_path), "F": str(tmp_path / "x.ckpt"), "N": str(tmp_path / "net.ckpt")}
    if "TWIN" in call:  # a container names its children, this one is to keep the names
        scope["TWIN"] = twin
        scope["nn"] = _Keeping
    with pytest.raises(getattr(builtins, error), match=text) as caught:
        eval(call, scope)
    assert type(caught.value).__name__ == error
    assert sorted(os.listdir(tmp_path)) == ["net.ckpt"]
    assert all(np.array_equal(a, p.asnumpy()) for a, p in zip(before, NET.get_parameters(), strict=True))


class _Keeping:
    """nn.SequentialCell without renaming."""

    class SequentialCell(nn.Cell):
        def __init__(self, first: nn.Cell, second: nn.Cell) -> None:
            super().__init__(auto_prefix=False)
            self.first, self.second = first, second


def test_prefixes_and_choice(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "net.ckpt")
    ms.save_checkpoint(NET, path)
    for chosen, names in (
        ({"specify_prefix": "a"}, ALL[:2]),
        ({"specify_prefix": ("a.b", "b.b")}, ["a.bias", "b.bias"]),
        ({"filter_prefix": ["a", "b.w"]}, ["b.bias"]),
        ({"specify_prefix": "a", "filter_prefix": "a.w", "choice_func": lambda n: False}, ["a.bias"]),
        ({"choice_func": lambda n: n.endswith("weight")}, ["a.weight", "b.weight"]),
    ):
        assert list(ms.load_checkpoint(path, **chosen)) == names


def test_safetensors_without_the_package(tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install 'graphopt\[safetensors\]'"):
        ms.save_checkpoint(NET, str(tmp_path / "x"), format="safetensors")
    with pytest.raises(ImportError, match="safetensors"):
        ms.load_checkpoint(str(GOLDENS / "written.safetensors"), format="safetensors")
    assert not os.listdir(tmp_path)


def test_safetensors_hold_no_strs(tmp_path: pathlib.Path) -> None:
    needs("safetensors")
    with pytest.raises(ValueError, match="no str"):
        ms.save_checkpoint(NET, str(tmp_path / "x"), append_dict={"a": "b"}, format="safetensors")
    assert not os.listdir(tmp_path)


# the callback -----------------------------------------------------------------------------------------------


def model(optimizer: Any = nn.Adam) -> ms.Model:
    net = nn.Dense(3, 2)
    return ms.Model(net, nn.MSELoss(), optimizer(net.trainable_params(), 0.01), metrics={"mse"})


def data(rows: int = 12) -> ds.Dataset:
    x = np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32)
    return ds.NumpySlicesDataset({"x": x[:, :3], "y": x[:, 3:]}, shuffle=False).batch(4)


CALLBACKS: list[tuple[dict[str, Any], list[str]]] = [  # 2 epochs of 3 steps
    ({}, ["net-1_2", "net-1_3", "net-2_1", "net-2_2", "net-2_3"]),
    ({"keep_checkpoint_max": 2}, ["net-2_2", "net-2_3"]),
    ({"keep_checkpoint_max": 1, "async_save": True}, ["net-2_3"]),
    ({"keep_checkpoint_max": 2, "async_save": True}, ["net-2_2", "net-2_3"]),
    ({"save_checkpoint_steps": 4}, ["net-2_1", "net-2_3"]),
    ({"save_checkpoint_steps": 3}, ["net-1_3", "net-2_3"]),
    ({"save_checkpoint_steps": 0, "save_checkpoint_seconds": 1000}, ["net-2_3"]),
    ({"keep_checkpoint_max": 0}, ["net-2_3"]),
    ({"keep_checkpoint_max": 0, "keep_checkpoint_per_n_minutes": 60}, ["net-1_1", "net-2_3"]),
    ({"save_checkpoint_steps": 0}, []),
]


@pytest.mark.parametrize(("config", "names"), CALLBACKS)
def test_model_checkpoint(config: dict[str, Any], names: list[str], tmp_path: pathlib.Path) -> None:
    saving = ms.ModelCheckpoint("net", str(tmp_path / "made"), ms.CheckpointConfig(**config))
    trained = model()
    trained.fit(2, data(), data(), callbacks=[saving])
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == [f"{n}.ckpt" for n in names]
    assert saving.latest_ckpt_file_name == (str(tmp_path / "made" / f"{names[-1]}.ckpt") if names else "")
    if names:
        loaded = ms.load_checkpoint(saving.latest_ckpt_file_name)
        assert {p.name: p.asnumpy().tobytes() for p in trained.train_network.get_parameters()} == {
            n: p.asnumpy().tobytes() for n, p in loaded.items()
        }


def test_model_checkpoint_appends_and_restores(tmp_path: pathlib.Path) -> None:
    config = ms.CheckpointConfig(
        append_info=["epoch_num", "step_num", {"seed": 5, "who": "me"}], crc_check=True
    )
    assert config.append_dict == {"epoch_num": 0, "step_num": 0, "seed": 5, "who": "me"}
    whole, half = model(), model()
    half_network = half.train_network
    ms.load_param_into_net(half_network, {p.name: p for p in whole.train_network.get_parameters()})
    whole.train(4, data())
    saving = ms.ModelCheckpoint("net", str(tmp_path), config)
    half.train(2, data(), callbacks=saving)
    again = model()
    loaded = ms.load_checkpoint(saving.latest_ckpt_file_name, again.train_network)
    assert int(loaded["epoch_num"]) == 2 and int(loaded["step_num"]) == 6 and loaded["who"] == "me"
    again.train(4, data(), initial_epoch=int(loaded["epoch_num"]))
    for p, q in zip(whole.train_network.get_parameters(), again.train_network.get_parameters(), strict=True):
        assert p.asnumpy().tobytes() == q.asnumpy().tobytes(), p.name


def test_model_checkpoint_takes_an_unused_name(tmp_path: pathlib.Path) -> None:
    config = ms.CheckpointConfig(100)
    for _ in range(3):
        model().train(1, data(), callbacks=ms.ModelCheckpoint("net", str(tmp_path), config))
    model().train(1, data(), callbacks=ms.ModelCheckpoint("ne", str(tmp_path), config))
    assert sorted(os.listdir(tmp_path)) == ["ne-1_3.ckpt", "net-1_3.ckpt", "net_1-1_3.ckpt", "net_2-1_3.ckpt"]


def test_model_checkpoint_with_functions(tmp_path: pathlib.Path) -> None:
    saving = ms.ModelCheckpoint(
        lambda facts: f"step{facts.cur_step_num}",
        lambda facts: str(tmp_path / f"epoch{facts.cur_epoch_num}"),
        ms.CheckpointConfig(2, format="safetensors")
        if "safetensors" in sys.modules
        else ms.CheckpointConfig(2),
    )
    model().train(2, data(), callbacks=saving)
    found = sorted(str(p.relative_to(tmp_path).with_suffix("")) for p in tmp_path.rglob("*.*"))
    assert found == ["epoch1/step2", "epoch2/step4", "epoch2/step6"]
    with pytest.raises(ValueError, match="prefix"):
        model().train(1, data(), callbacks=ms.ModelCheckpoint(lambda facts: "a/b", str(tmp_path)))


@pytest.mark.parametrize("saves", [False, True])
def test_model_checkpoint_when_training_fails(saves: bool, tmp_path: pathlib.Path) -> None:
    def fail(context: Any) -> None:
        if context.original_args().cur_step_num == 5:
            raise KeyError("stop")

    saving = ms.ModelCheckpoint("net", str(tmp_path), ms.CheckpointConfig(100, exception_save=saves))
    trained = model()
    with pytest.raises(KeyError):
        trained.train(2, data(), callbacks=[saving, ms.train.LambdaCallback(on_train_step_end=fail)])
    assert os.listdir(tmp_path) == (["net-2_2_breakpoint.ckpt"] if saves else [])
    if saves:
        assert (
            int(ms.load_checkpoint(str(tmp_path / "net-2_2_breakpoint.ckpt"))["global_step"].asnumpy()[0])
            == 5
        )


def test_saved_network_and_policy(tmp_path: pathlib.Path) -> None:
    net = nn.Dense(3, 2)
    saving = ms.ModelCheckpoint("net", str(tmp_path), ms.CheckpointConfig(100, saved_network=net))
    ms.Model(net, nn.MSELoss(), nn.SGD(net.trainable_params(), 0.1)).train(1, data(), callbacks=saving)
    assert list(ms.load_checkpoint(saving.latest_ckpt_file_name)) == ["weight", "bias"]
    policies = [
        ((5, 7, 3, 2), (5, None, 3, None)),
        ((0, 7, 0, 2), (0, 7, 0, 2)),
        ((0, 7, 0, 0), (0, 7, 1, 0)),
    ]
    for given, expected in policies:
        assert tuple(ms.CheckpointConfig(*given).get_checkpoint_policy().values()) == (*expected, None)
