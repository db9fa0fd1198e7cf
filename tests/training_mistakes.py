"""Common mistakes with optimizers, Model, datasets, tracing, gradients and the context; see `mistakes.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from mistakes import Net, mistake, ones, step

import graphopt as ms
from graphopt import Parameter, ParameterTuple, Tensor, nn, ops

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
def jit_branches_of_two_shapes() -> None:
    @ms.jit
    def f(x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return x.sum()

    f(ones(2))


@mistake
def jit_int_of_a_tensor() -> None:
    ms.jit(lambda x: x * int(x[0]))(ones(2))


@mistake
def jit_range_of_a_tensor() -> None:
    ms.jit(lambda n: list(range(n)))(Tensor(3))


@mistake
def jit_asnumpy() -> None:
    ms.jit(lambda x: Tensor(x.asnumpy()))(ones(2))


@mistake
def jit_numpy_function() -> None:
    ms.jit(lambda x: np.sin(x) * 2)(ones(2))


@mistake
def jit_iteration_over_a_scalar() -> None:
    ms.jit(lambda x: [*x])(Tensor(1.0))


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
