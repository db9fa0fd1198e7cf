"""Common mistakes of users, each a small program that fails. `test_errors.py` runs them in both modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import graphopt as ms
from graphopt import Parameter, ParameterTuple, Tensor, nn, ops

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


# optimizers and training -------------------------------------------------------------------------------------


@mistake
def optimizer_without_parameters() -> None:
    nn.Adam([])


@mistake
def optimizer_of_the_net() -> None:
    nn.Adam(Net())


@mistake
def optimizer_negative_rate() -> None:
    nn.SGD(Net().trainable_params(), -0.1)


@mistake
def optimizer_rate_as_text() -> None:
    nn.SGD(Net().trainable_params(), "0.1")


@mistake
def momentum_missing() -> None:
    nn.Momentum(Net().trainable_params(), 0.1)


@mistake
def momentum_negative() -> None:
    nn.Momentum(Net().trainable_params(), 0.1, -0.9)


@mistake
def adam_beta() -> None:
    nn.Adam(Net().trainable_params(), beta1=1.0)


@mistake
def adam_torch_argument() -> None:
    nn.Adam(Net().trainable_params(), lr=0.1)


@mistake
def group_with_unknown_key() -> None:
    nn.SGD([{"params": Net().trainable_params(), "learning_rate": 0.1}], 0.1)


@mistake
def group_with_shared_parameter() -> None:
    params = Net().trainable_params()
    nn.SGD([{"params": params}, {"params": params[:1]}], 0.1)


@mistake
def optimizer_too_few_gradients() -> None:
    net = Net()
    nn.SGD(net.trainable_params(), 0.1)((ones(3, 4),))


@mistake
def optimizer_gradient_shape() -> None:
    nn.SGD([Parameter(ones(2, 3), name="w")], 0.1)((ones(3, 2),))


@mistake
def learning_rates_end() -> None:
    train = step(optimizer=nn.SGD((net := Net()).trainable_params(), [0.1, 0.1]))
    for _ in range(3):
        train(ones(2, 4), ones(2, 2))
    del net


@mistake
def train_cell_without_optimizer() -> None:
    nn.TrainOneStepCell(Net(), None)


@mistake
def train_cell_zero_sens() -> None:
    step(sens=0.0)


@mistake
def train_cell_too_many_columns() -> None:
    step()(ones(2, 4), ones(2, 2), ones(2))


@mistake
def train_cell_gradient_of_a_float64_net() -> None:
    step()(ones(2, 4, dtype=np.float64), ones(2, 2, dtype=np.float64))


@mistake
def train_cell_missing_label() -> None:
    step()(ones(2, 4))


@mistake
def with_loss_cell_of_a_function() -> None:
    nn.WithLossCell(lambda x: x, nn.MSELoss())


@mistake
def model_without_loss() -> None:
    net = Net()
    ms.Model(net, optimizer=nn.SGD(net.trainable_params(), 0.1)).train(1, rows())


@mistake
def model_without_optimizer() -> None:
    ms.Model(Net(), nn.MSELoss()).train(1, rows())


@mistake
def model_without_metrics() -> None:
    ms.Model(Net(), nn.MSELoss()).eval(rows())


@mistake
def model_unknown_metric() -> None:
    ms.Model(Net(), nn.MSELoss(), metrics={"accurracy"})


@mistake
def model_data_is_an_array() -> None:
    net = Net()
    ms.Model(net, nn.MSELoss(), nn.SGD(net.trainable_params(), 0.1)).train(1, 3)


@mistake
def model_three_columns() -> None:
    net = Net()
    data = ms.dataset.NumpySlicesDataset((np.ones((2, 4)), np.ones((2, 2)), np.ones(2))).batch(2)
    ms.Model(net, nn.MSELoss(), nn.SGD(net.trainable_params(), 0.1)).train(1, data)


@mistake
def model_epochs() -> None:
    net = Net()
    ms.Model(net, nn.MSELoss(), nn.SGD(net.trainable_params(), 0.1)).train(0, rows())


@mistake
def model_callback() -> None:
    net = Net()
    ms.Model(net, nn.MSELoss(), nn.SGD(net.trainable_params(), 0.1)).train(1, rows(), callbacks=[print])


@mistake
def model_wrong_labels() -> None:
    net = Net()
    model = ms.Model(net, nn.MSELoss(), nn.SGD(net.trainable_params(), 0.1))
    model.train(1, rows(labels=3))


# datasets ------------------------------------------------------------------------------------------------------


def rows(labels: int = 2) -> Any:
    return ms.dataset.NumpySlicesDataset((np.ones((4, 4), np.float32), np.ones((4, labels), np.float32))).batch(2)


@mistake
def dataset_lengths() -> None:
    ms.dataset.NumpySlicesDataset((np.ones(3), np.ones(4)))


@mistake
def dataset_names() -> None:
    ms.dataset.NumpySlicesDataset((np.ones(3), np.ones(3)), ["x"])


@mistake
def dataset_column() -> None:
    ms.dataset.NumpySlicesDataset({"x": np.ones(3)}).map(lambda v: v, "image")


@mistake
def dataset_generator_row() -> None:
    def source() -> Any:
        yield 1, 2
        yield 1, 2, 3

    for _ in ms.dataset.GeneratorDataset(source, ["x", "y"]):
        pass


@mistake
def dataset_ragged_batch() -> None:
    def source() -> Any:
        yield np.ones(2)
        yield np.ones(3)

    list(ms.dataset.GeneratorDataset(source, ["x"]).batch(2))


@mistake
def dataset_batch_size() -> None:
    ms.dataset.NumpySlicesDataset(np.ones(3)).batch(0)


@mistake
def dataset_unknown_argument() -> None:
    ms.dataset.NumpySlicesDataset(np.ones(3), batch_size=2)


# tracing -------------------------------------------------------------------------------------------------------


@mistake
def jit_branch_on_a_tensor() -> None:
    @ms.jit
    def f(x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x

    f(ones(2))


@mistake
def jit_int_of_a_tensor() -> None:
    ms.jit(lambda x: x * int(x[0]))(ones(2))


@mistake
def jit_range_of_a_tensor() -> None:
    ms.jit(lambda n: [k for k in range(n)])(Tensor(3))


@mistake
def jit_asnumpy() -> None:
    ms.jit(lambda x: Tensor(x.asnumpy()))(ones(2))


@mistake
def jit_numpy_function() -> None:
    ms.jit(lambda x: np.sin(x))(ones(2))


@mistake
def jit_iteration_over_a_scalar() -> None:
    ms.jit(lambda x: [v for v in x])(Tensor(1.0))


@mistake
def jit_of_no_function() -> None:
    ms.jit(3)


@mistake
def stored_tensor_of_a_trace() -> None:
    kept: list[Tensor] = []
    ms.jit(lambda x: kept.append(x * 2))(ones(2))
    print(kept[0] + 1)


# gradients ---------------------------------------------------------------------------------------------------


@mistake
def grad_of_no_function() -> None:
    ms.grad(3)(ones(2))


@mistake
def grad_flag() -> None:
    ops.GradOperation(get_all=1)


@mistake
def grad_position() -> None:
    ms.grad(lambda x: x * x, 1)(ones(2))


@mistake
def grad_weights() -> None:
    ms.grad(Net(), None, [1, 2])


@mistake
def grad_of_nothing() -> None:
    ms.grad(Net(), None, None)


@mistake
def grad_sens_shape() -> None:
    ops.GradOperation(sens_param=True)(Net())(ones(2, 4), ones(2, 3))


@mistake
def grad_sens_dtype() -> None:
    ops.GradOperation(sens_param=True)(Net())(ones(2, 4), ones(2, 2, dtype=np.float16))


@mistake
def grad_sens_number() -> None:
    ops.GradOperation(sens_param=True)(Net())(ones(2, 4), 1.0)


@mistake
def grad_sens_missing() -> None:
    ops.GradOperation(sens_param=True)(Net())()


@mistake
def grad_too_many_arguments() -> None:
    ops.GradOperation()(Net())(ones(2, 4), ones(2, 2))


@mistake
def grad_wrong_shape_inside() -> None:
    ops.GradOperation()(Net())(ones(2, 5))


@mistake
def grad_without_aux() -> None:
    ms.grad(lambda x: x * x, has_aux=True)(ones(2))


@mistake
def forward_value_and_grad_weights() -> None:
    nn.ForwardValueAndGrad(Net(), weights=3, get_by_list=True)


@mistake
def forward_value_and_grad_sens() -> None:
    net = Net()
    run = nn.ForwardValueAndGrad(net, ParameterTuple(net.trainable_params()), get_by_list=True, sens_param=True)
    run(ones(2, 4), ones(2, 5))


# context -----------------------------------------------------------------------------------------------------


@mistake
def context_mode() -> None:
    ms.set_context(mode=2)


@mistake
def context_mode_as_text() -> None:
    ms.set_context(mode="GRAPH_MODE")


@mistake
def context_device() -> None:
    ms.set_context(device_target="GPU")


@mistake
def context_keyword() -> None:
    ms.set_context(devcie_id=0)


@mistake
def seed_negative() -> None:
    ms.set_seed(-1)
