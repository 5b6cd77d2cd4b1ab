"""Checkpoints: the same weights and logs after an interruption."""

import os
import signal
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny

import keras_resadapt
from keras_resadapt import training
from keras_resadapt.training import metric_state, preemption

STEPS = 3


class Killed(Exception):
    """Ends a training where SIGKILL would."""


class At(keras.callbacks.Callback):
    """Calls a function after a step of an epoch, or during its validation."""

    def __init__(self, epoch, step, function):
        super().__init__()
        self.at, self.function = (epoch, step), function

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch + 1) == self.at:
            self.function()

    def on_test_batch_begin(self, batch, logs=None):
        if (self.epoch, "validation") == self.at:
            self.function()


def kill():
    raise Killed


def preempt():
    os.kill(os.getpid(), signal.SIGTERM)


def make_dense(ema=True):
    """A model with dropout, whose random state is part of a checkpoint."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(5),
        ]
    )
    model.compile(
        training.SGD(0.001, use_ema=ema, ema_momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def make_mutualnet():
    keras.utils.set_random_seed(0)
    model = keras_resadapt.MutualMobileNetV1(
        5,
        resolutions=(8,),
        depths=(1,),
        filters=(8,),
        stem="small",
        num_random_widths=1,
    )
    model.compile(training.SGD(0.01), metrics=["accuracy"])
    return model


def fit(folder, build, *events, every=1, epochs=2, preemption=None, validate=True):
    """Trains or resumes, on batches that are a function of epoch and step."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (4 * STEPS, 8, 8, 3)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((images, rng.integers(0, 5, 12)))
    batches = batches.batch(4, drop_remainder=True)
    folder.mkdir(exist_ok=True)
    state = training.load_last_checkpoint(folder / "checkpoint")
    state = state or training.TrainingState(build())
    epoch, step = state.data_position(STEPS)
    log = str(folder / "log.csv")
    state.model.fit(
        batches.repeat().skip(epoch * STEPS + step),
        steps_per_epoch=STEPS,
        initial_epoch=state.epoch,
        epochs=epochs,
        validation_data=batches.take(2) if validate else None,
        verbose=0,
        callbacks=[
            keras.callbacks.CSVLogger(log, append=state.epoch > 0),
            training.Checkpoint(folder / "checkpoint", every, state, preemption),
            *events,
        ],
    )
    return state.model


def assert_same_training(models, folders):
    for a, b in zip(*(model.variables for model in models)):
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    for a, b in zip(*(model.optimizer.variables for model in models)):
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    logs = [(folder / "log.csv").read_text() for folder in folders]
    assert logs[0] == logs[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The model and the folder of a training without interruptions."""
    folder = tmp_path_factory.mktemp("whole")
    return fit(folder, make_dense), folder


def test_killed_trainings_resume_at_a_step(whole, tmp_path):
    """Weights, moving averages, random state, metrics and logs."""
    for at in ((0, 2), (1, 1)):
        with pytest.raises(Killed):
            fit(tmp_path, make_dense, At(*at, kill))
    checkpoints = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    # A checkpoint is written when the next step begins.
    assert checkpoints == {"epoch_0001.keras", "epoch_0000_step_000002.keras"}
    state = training.load_last_checkpoint(tmp_path / "checkpoint")
    assert (state.epoch, state.step, len(state.metrics)) == (1, 0, 0)
    model = fit(tmp_path, make_dense)
    assert_same_training((whole[0], model), (whole[1], tmp_path))


def fit_twice(folder, build):
    """Trains for an epoch, and again from the checkpoint before its last step.

    Returns the models of both trainings, which must be equal.
    """
    last = At(0, STEPS, kill)
    with pytest.raises(Killed):
        fit(folder, build, last, epochs=1, validate=False)
    state = training.load_last_checkpoint(folder / "checkpoint")
    assert (state.epoch, state.step) == (0, STEPS - 1)
    resumed = fit(folder, build, epochs=1, validate=False)
    for a, b in zip(last.model.variables, resumed.variables):
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    results = last.model.get_metrics_result()
    for name, (value,) in resumed.history.history.items():
        assert value == float(results[name])
    return state


@pytest.mark.slow
def test_mutualnet_resumes_at_a_step(tmp_path):
    """Its sub-networks are drawn by the number of the step."""
    fit_twice(tmp_path, make_mutualnet)


@pytest.mark.parametrize("step", [1, 3, "validation"])
def test_a_signal_writes_a_checkpoint(whole, tmp_path, step, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as error, training.Preemption() as stop:
        fit(tmp_path, make_dense, At(0, step, preempt), every=None, preemption=stop)
    assert error.value.code == training.PREEMPTED == 75
    assert signal.getsignal(signal.SIGTERM) is before
    text = f"after step {1 if step == 1 else 3} of epoch 1"
    assert f"Stopped by SIGTERM. The training can be resumed {text}" in (
        capsys.readouterr().err
    )
    model = fit(tmp_path, make_dense)
    assert_same_training((whole[0], model), (whole[1], tmp_path))


def test_a_signal_outside_of_fit_ends_the_process_at_once():
    with pytest.raises(SystemExit) as error, training.Preemption() as stop:
        preempt()
    assert error.value.code == 75 and stop.received == signal.SIGTERM

    def in_a_thread():
        with training.Preemption([signal.SIGUSR1]):
            handlers.append(signal.getsignal(signal.SIGUSR1))

    handlers = [signal.getsignal(signal.SIGUSR1)]
    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert handlers[0] == handlers[1]


def test_workers_agree_about_once_per_second(monkeypatch):
    calls = []

    def gather(value):
        calls.append(value)
        return [[False, 0.1], [len(calls) == 3, 5.0]]  # the chief, another worker

    monkeypatch.setattr(preemption, "num_workers", lambda: 2)
    monkeypatch.setattr(preemption, "gather_from_workers", gather)
    stop = training.Preemption()
    results = [stop.is_due() for _ in range(25)]
    assert results.index(True) == 20 and len(calls) == 3
    assert not stop.is_due(agree_now=True) and len(calls) == 4


def test_two_replicas_resume_with_their_own_metrics(tmp_path):
    """On two replicas to the same bits; on one replica from the sum."""
    with training.strategy_scope("mirrored"):
        state = fit_twice(tmp_path, lambda: make_dense(ema=False))
    assert [len(values) for values in state.metrics] == [2] * len(state.metrics)

    one = make_dense()
    one.evaluate(np.zeros((2, 8, 8, 3)), np.zeros(2), verbose=0)
    metric_state.write_metric_state(one, state.metrics)
    for variable, values in zip(one.metrics_variables, state.metrics):
        np.testing.assert_array_equal(variable, values.sum(axis=0))
    with pytest.raises(ValueError, match="must have the metrics of the checkpoint"):
        metric_state.write_metric_state(one, state.metrics[1:])


# === Files ===


def test_checkpoints_are_keras_files(whole):
    names = {path.name for path in (whole[1] / "checkpoint").iterdir()}
    assert names == {"epoch_0001_step_000002.keras", "epoch_0002.keras"}
    path = whole[1] / "checkpoint" / "epoch_0001_step_000002.keras"
    model = keras.saving.load_model(path)
    assert int(model.optimizer.iterations) == STEPS + 2
    assert training.load_last_checkpoint(whole[1] / "none") is None


def test_a_plain_keras_file_is_the_checkpoint_of_an_epoch(whole, tmp_path):
    """Such files were the checkpoints of earlier versions."""
    whole[0].save(tmp_path / "epoch_0003.keras")
    state = training.load_last_checkpoint(tmp_path)
    assert (state.epoch, state.step, state.metrics) == (3, 0, [])


def save_at(model, folder, *positions):
    callback = training.Checkpoint(folder)
    callback.set_model(model)
    for callback.position in positions:
        callback._save()


def test_a_damaged_checkpoint_is_passed_over(whole, tmp_path):
    save_at(whole[0], tmp_path, (1, 0), (1, 7))
    newest = tmp_path / "epoch_0001_step_000007.keras"
    content = newest.read_bytes()
    newest.write_bytes(content[:-1000])
    with pytest.warns(UserWarning, match="step_000007.keras' is damaged"):
        state = training.load_last_checkpoint(tmp_path)
    assert (state.epoch, state.step) == (1, 0)
    place = content.index(b"\x93NUMPY") + 20  # in the values of a metric
    newest.write_bytes(content[:place] + b"x" + content[place + 1 :])
    with pytest.warns(UserWarning, match="checksum of training_state.npz is wrong"):
        training.load_last_checkpoint(tmp_path)
    whole[0].save(newest)
    with pytest.warns(UserWarning, match="it has no training_state.npz"):
        training.load_last_checkpoint(tmp_path)
    newest.unlink()
    (tmp_path / "epoch_0001.keras").write_bytes(b"")
    with pytest.raises(ValueError, match="All checkpoints in .* are damaged"):
        training.load_last_checkpoint(tmp_path)


def test_the_newest_two_are_kept(whole, tmp_path):
    # The last one is a training from the start in the folder of a longer one.
    save_at(whole[0], tmp_path, (0, 5), (1, 0), (1, 2), (12, 0), (1, 5))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"epoch_0001_step_000002.keras", "epoch_0001_step_000005.keras"}


def test_a_disk_that_cannot_be_written_stops_before_the_first_step(tmp_path):
    resource = pytest.importorskip("resource")
    callback = training.Checkpoint(tmp_path / "checkpoint")
    callback.set_model(make_tiny(resolutions=(16,)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="A checkpoint cannot be saved"):
            callback.on_train_begin()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "checkpoint").iterdir())
    # What a killed process leaves behind does no harm
    (tmp_path / "checkpoint" / ".0123456789ab.epoch_0001.keras").touch()
    callback.on_train_begin()
    assert not list((tmp_path / "checkpoint").iterdir())


def test_arguments_that_cannot_work(whole, tmp_path):
    with pytest.raises(ValueError, match="`every`.*every=0"):
        training.Checkpoint(tmp_path, 0)
    model = whole[0]
    state = training.TrainingState(model, 1, STEPS + 1, [np.zeros(1)])
    arrays = np.zeros((4, 8, 8, 3)), np.zeros(4)

    def run(initial_epoch):
        callback = training.Checkpoint(tmp_path, resumed=state)
        model.fit(*arrays, epochs=2, initial_epoch=initial_epoch, callbacks=[callback])

    with pytest.raises(ValueError, match="checkpoint, 1. Received: initial_epoch=0"):
        run(0)
    with pytest.raises(ValueError, match="checkpoint, 4. Received: steps_per_epoch=1"):
        run(1)
