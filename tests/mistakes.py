"""Common mistakes with layers, Cells, ops and losses, each a small program that fails; `test_errors.py` runs them in both
modes. Those of training, data, tracing and gradients are in `training_mistakes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops

MISTAKES: dict[str, Callable[[], Any]] = {}


def mistake(program: Callable[[], Any]) -> Callable[[], Any]:
    """List a program under its own name."""
    MISTAKES[program.__name__] = program
    return program


def ones(*shape: int, dtype: Any = np.float32) -> Tensor:
    return Tensor(np.ones(shape, dtype))


class Net(nn.Cell):
    """Two layers and what stands between them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Dense(4, 3)
        self.head = nn.SequentialCell(nn.ReLU(), nn.Dense(3, 2))

    def construct(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        return self.head(hidden)


class Doing(nn.Cell):
    """Runs one function."""

    def __init__(self, work: Callable[..., Any]) -> None:
        super().__init__()
        self.work = work

    def construct(self, x: Tensor) -> Any:
        return self.work(x)


def step(loss: Any = None, optimizer: Any = None, **flags: Any) -> nn.TrainOneStepCell:
    net = Net()
    made = optimizer or nn.Momentum(net.trainable_params(), 0.1, 0.9)
    return nn.TrainOneStepCell(nn.WithLossCell(net, loss or nn.MSELoss()), made, **flags).set_train()


# layers -------------------------------------------------------------------------------------------------------


@mistake
def dense_input_too_wide() -> None:
    Net()(ones(2, 5))


@mistake
def dense_inside_sequential() -> None:
    nn.SequentialCell(nn.Dense(4, 3), nn.Dense(4, 3))(ones(2, 4))


@mistake
def dense_scalar_input() -> None:
    nn.Dense(4, 3)(Tensor(1.0))


@mistake
def dense_integer_input() -> None:
    nn.Dense(4, 3)(ones(2, 4, dtype=np.int32))


@mistake
def dense_float64_input() -> None:
    nn.Dense(4, 3)(ones(2, 4, dtype=np.float64))


@mistake
def conv_without_batch_axis() -> None:
    nn.Conv2d(3, 8, 3)(ones(3, 9, 9))


@mistake
def conv_wrong_channels() -> None:
    nn.Conv2d(3, 8, 3)(ones(1, 1, 9, 9))


@mistake
def conv_kernel_larger_than_image() -> None:
    nn.Conv2d(1, 1, 5, pad_mode="valid")(ones(1, 1, 3, 3))


@mistake
def pool_larger_than_image() -> None:
    nn.MaxPool2d(5, 1)(ones(1, 1, 3, 3))


@mistake
def batch_norm_wrong_channels() -> None:
    nn.BatchNorm2d(4)(ones(2, 3, 5, 5))


@mistake
def batch_norm_wrong_rank() -> None:
    nn.BatchNorm1d(4)(ones(2, 4, 5, 5))


@mistake
def layer_norm_wrong_shape() -> None:
    nn.LayerNorm((5,))(ones(2, 4))


@mistake
def embedding_of_floats() -> None:
    nn.Embedding(10, 4)(ones(2, 3))


@mistake
def flatten_out_of_range() -> None:
    nn.Flatten(start_dim=3)(ones(2, 3))


@mistake
def dropout_probability() -> None:
    nn.Dropout(p=1.5)


@mistake
def conv_channels_as_float() -> None:
    nn.Conv2d(3, 8.0, 3)


@mistake
def conv_padding_without_pad_mode() -> None:
    nn.Conv2d(3, 8, 3, padding=1)


@mistake
def dense_unknown_activation() -> None:
    nn.Dense(3, 4, activation="rely")


@mistake
def dense_missing_argument() -> None:
    nn.Dense(3)


@mistake
def dense_torch_argument() -> None:
    nn.Dense(3, 4, bias=False)


# calling a Cell ----------------------------------------------------------------------------------------------


@mistake
def cell_missing_argument() -> None:
    Net()()


@mistake
def cell_too_many_arguments() -> None:
    Net()(ones(2, 4), ones(2, 4))


@mistake
def cell_unknown_argument() -> None:
    Net()(ones(2, 4), training=True)


@mistake
def cell_numpy_array() -> None:
    Net()(np.ones((2, 4), np.float32))


@mistake
def cell_list() -> None:
    Net()([[1.0, 2.0, 3.0, 4.0]])


@mistake
def cell_none() -> None:
    Net()(None)


@mistake
def cell_string() -> None:
    Net()("data")


@mistake
def cell_returns_an_array() -> None:
    Doing(lambda x: np.ones(3))(ones(2))


@mistake
def cell_without_super() -> None:
    class Forgot(nn.Cell):
        def __init__(self) -> None:
            self.fc = nn.Dense(2, 2)

    Forgot()


@mistake
def cell_without_construct() -> None:
    class Empty(nn.Cell):
        def forward(self, x: Tensor) -> Tensor:
            return x

    Empty()(ones(2))


@mistake
def cell_list_called() -> None:
    nn.CellList([nn.ReLU()])(ones(2))


@mistake
def sequential_of_functions() -> None:
    nn.SequentialCell(nn.Dense(2, 2), ops.relu)


@mistake
def attribute_that_is_not_there() -> None:
    net = Net()
    net.fc3(ones(2, 4))


@mistake
def parameter_name_clash() -> None:
    class Twins(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.a = Parameter(ones(2), name="w")
            self.b = Parameter(ones(2), name="w")

    Twins().check_names()


@mistake
def parameter_name_clash_in_optimizer() -> None:
    nn.Adam([Parameter(ones(2), name="w"), Parameter(ones(2), name="w")])


@mistake
def parameter_over_attribute() -> None:
    net = Net()
    net.insert_child_to_cell("fc1.weight", nn.ReLU())


@mistake
def parameter_of_another_shape() -> None:
    Net().fc1.weight.set_data(ones(3, 3))


# ops -----------------------------------------------------------------------------------------------------------


@mistake
def add_shapes() -> None:
    ones(2, 3) + ones(4)


@mistake
def add_in_a_cell() -> None:
    Doing(lambda x: x + ones(4))(ones(2, 3))


@mistake
def add_a_string() -> None:
    ones(2) + "a"


@mistake
def add_an_array() -> None:
    ones(2) + np.ones(2)


@mistake
def matmul_inner_sizes() -> None:
    ops.matmul(ones(2, 3), ones(2, 3))


@mistake
def matmul_operator() -> None:
    ones(2, 3) @ ones(4, 3)


@mistake
def matmul_of_numbers() -> None:
    ops.matmul(ones(2, 3), 3.0)


@mistake
def bmm_batches() -> None:
    ops.bmm(ones(2, 3, 4), ones(3, 4, 5))


@mistake
def concat_shapes() -> None:
    ops.concat((ones(2, 3), ones(3, 4)), axis=1)


@mistake
def concat_one_tensor() -> None:
    ops.concat(ones(2, 3))


@mistake
def stack_shapes() -> None:
    ops.stack([ones(2), ones(3)])


@mistake
def reshape_elements() -> None:
    ones(2, 3).reshape(4, -1)


@mistake
def reshape_function() -> None:
    ops.reshape(ones(2, 3), (7,))


@mistake
def transpose_axes() -> None:
    ops.transpose(ones(2, 3), (0, 2))


@mistake
def sum_axis() -> None:
    ops.sum(ones(2, 3), 2)


@mistake
def squeeze_axis() -> None:
    ones(2, 3).squeeze(1)


@mistake
def relu_of_a_list() -> None:
    ops.relu([1.0, 2.0])


@mistake
def relu_without_arguments() -> None:
    ops.relu()


@mistake
def cast_to_nonsense() -> None:
    ops.cast(ones(2), "float31")


@mistake
def index_out_of_range() -> None:
    ones(2, 3)[5]


@mistake
def index_too_many_axes() -> None:
    ones(2, 3)[0, 0, 0]


@mistake
def tensor_of_ragged_lists() -> None:
    Tensor([[1.0, 2.0], [3.0]])


@mistake
def tensor_of_text() -> None:
    Tensor("abc")


@mistake
def tensor_of_complex_numbers() -> None:
    Tensor(np.ones(2, np.complex64))


# losses --------------------------------------------------------------------------------------------------------


@mistake
def loss_shapes() -> None:
    nn.MSELoss()(ones(2, 3), ones(2, 4))


@mistake
def loss_of_array() -> None:
    nn.MSELoss()(ones(2, 3), np.ones((2, 3), np.float32))


@mistake
def loss_in_training() -> None:
    step()(ones(2, 4), ones(2, 3))


@mistake
def sparse_loss_with_float_labels() -> None:
    nn.SoftmaxCrossEntropyWithLogits(sparse=True)(ones(2, 3), ones(2))


@mistake
def sparse_loss_with_one_hot_labels() -> None:
    nn.SoftmaxCrossEntropyWithLogits(sparse=True)(ones(2, 3), ones(2, 3, dtype=np.int32))


@mistake
def dense_loss_with_classes() -> None:
    nn.SoftmaxCrossEntropyWithLogits()(ones(2, 3), ones(2, dtype=np.int32))


@mistake
def cross_entropy_lengths() -> None:
    nn.CrossEntropyLoss()(ones(2, 3), ones(5, dtype=np.int32))


@mistake
def label_out_of_range() -> None:
    nn.SoftmaxCrossEntropyWithLogits(sparse=True)(ones(2, 3), Tensor([1, 3], ms.int32))


@mistake
def label_out_of_range_in_training() -> None:
    train = step(nn.CrossEntropyLoss())
    train(ones(2, 4), Tensor([1, 0], ms.int32))
    train(ones(2, 4), Tensor([1, -1], ms.int32))


@mistake
def embedding_id_out_of_range() -> None:
    nn.Embedding(3, 2)(Tensor([[0, 1], [5, 2]], ms.int32))


@mistake
def bce_shapes() -> None:
    nn.BCELoss()(ones(2, 1), ones(2))


@mistake
def loss_reduction() -> None:
    nn.MSELoss("average")
