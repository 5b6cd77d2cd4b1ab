"""`fit` from the middle of an epoch on."""

import keras

from keras_resadapt.training.checkpoint_file import TrainingState
from keras_resadapt.training.metric_state import write_metric_state


def skip_steps(
    model: keras.Model, state: TrainingState, steps_per_epoch: int | None
) -> None:
    """Makes `fit` count the finished steps of an epoch without running them.

    `fit` counts the steps of each epoch from 0. Until it has counted the finished
    steps, the train function of the model is replaced by one that runs nothing and
    reads no batches and returns the restored values of the metrics.

    It must be called when `fit` has reset the metrics and before the first step, as
    in `on_epoch_begin`.

    Args:
        model: The model that `fit` trains.
        state: The state from which the training continues.
        steps_per_epoch: The number of steps per epoch, if it is known.

    Raises:
        ValueError: If the finished steps are more than those of an epoch, or are not
            a multiple of `steps_per_execution`.
    """
    steps, execution = state.step, model.steps_per_execution
    if steps_per_epoch is not None and steps > steps_per_epoch:
        raise ValueError(
            "`steps_per_epoch` must be at least the number of finished steps of the "
            f"checkpoint, {steps}. Received: steps_per_epoch={steps_per_epoch}"
        )
    if steps % execution and steps != steps_per_epoch:
        raise ValueError(
            "`steps_per_execution` must divide the number of finished steps of the "
            f"checkpoint, {steps}. Received: steps_per_execution={execution}"
        )
    on_tensorflow = keras.backend.backend() == "tensorflow"
    run, left, logs = model.train_function, steps, None
    if not on_tensorflow:
        logs = _restored_logs(model, state)

    def skip(*arguments):
        nonlocal left, logs
        left -= execution
        if left <= 0:
            model.train_function = run
        *train_state, iterator = arguments
        if logs is None:
            # Without a strategy, Keras creates the metrics when it traces the train
            # function.
            if model.distribute_strategy.num_replicas_in_sync == 1:
                model._symbolic_build(data_batch=iterator.element_spec)
            logs = _restored_logs(model, state)
        return logs if on_tensorflow else (logs, *train_state)

    model.train_function = skip


def _restored_logs(model: keras.Model, state: TrainingState) -> dict:
    write_metric_state(model, state.metrics)
    return model.get_metrics_result()
