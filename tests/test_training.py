import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny, randomize
from example_scripts import script, write_image_folder

import keras_resadapt
from keras_resadapt import training

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class TestSGD:
    def reference(self, w, gradients, rate, momentum, decay, nesterov):
        velocity = np.zeros_like(w)
        for gradient in gradients:
            g = gradient + decay * w
            velocity = momentum * velocity + g
            w = w - rate * (g + momentum * velocity if nesterov else velocity)
        return w

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_weight_decay_is_coupled(self, nesterov):
        rng = np.random.default_rng(0)
        w, *gradients = rng.normal(size=(4, 5)).astype("float32")
        variable = keras.Variable(w)
        optimizer = training.SGD(0.1, 0.9, nesterov, weight_decay=0.3)
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient)], [variable])
        expected = self.reference(w, gradients, 0.1, 0.9, 0.3, nesterov)
        np.testing.assert_allclose(variable, expected, rtol=1e-5)

    def test_exclusion(self):
        decayed, free = keras.Variable([1.0]), keras.Variable([1.0])
        optimizer = training.SGD(0.1, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_list=[free])
        zero = tf.zeros(1)
        optimizer.apply([zero, zero], [decayed, free])
        np.testing.assert_allclose(decayed, [0.95])
        np.testing.assert_allclose(free, [1.0])

    def test_config(self):
        optimizer = training.SGD(0.2, 0.8, True, weight_decay=1e-3)
        copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert copy.get_config() == optimizer.get_config()
        with pytest.raises(ValueError, match="`weight_decay`.*-1"):
            training.SGD(weight_decay=-1)


class TestRecipe:
    def test_the_papers_recipes(self):
        recipe = training.RSNET_RESNET
        optimizer = recipe.optimizer(steps_per_epoch=10, batch_size=256)
        rate = optimizer._learning_rate
        np.testing.assert_allclose(rate(0), 0.1)
        np.testing.assert_allclose(rate(600), 0.05, rtol=1e-5)
        np.testing.assert_allclose(rate(1200), 0, atol=1e-7)
        assert (optimizer.momentum, optimizer.l2) == (0.9, 1e-4)
        mobile = training.RSNET_MOBILENET_V2
        assert (mobile.learning_rate, mobile.weight_decay) == (0.05, 4e-5)

    def test_scaling_warmup_and_accumulation(self):
        recipe = training.Recipe(10, 0.1, 0, warmup_epochs=2)
        rate = recipe.optimizer(20, 512)._learning_rate
        np.testing.assert_allclose(rate(20), 0.1)
        np.testing.assert_allclose(rate(40), 0.2)
        np.testing.assert_allclose(rate(200), 0, atol=1e-7)
        rate = recipe.optimizer(20, 64, gradient_accumulation_steps=4)._learning_rate
        np.testing.assert_allclose(rate(20), 0.05)
        np.testing.assert_allclose(rate(40), 0.1)
        np.testing.assert_allclose(rate(200), 0, atol=1e-7)

    def test_the_schedule_lasts_as_long_as_the_training(self):
        """With accumulation too: Keras counts steps there, not updates."""
        recipe = training.Recipe(4, 0.1, 0, batch_size=16, milestones=(0.5,))
        optimizer = recipe.optimizer(10, 8, gradient_accumulation_steps=2)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(optimizer, loss="mse")
        rates = []
        record = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: rates.append(
                float(optimizer.learning_rate)
            )
        )
        x = np.zeros((80, 1), "float32")
        model.fit(x, x, 8, epochs=4, verbose=0, callbacks=[record])
        np.testing.assert_allclose(rates, [0.1] * 20 + [0.01] * 20)

    def test_multi_step(self):
        recipe = training.RANET_CIFAR
        rate = recipe.optimizer(10, 128)._learning_rate
        rates = [float(rate(step)) for step in (0, 1499, 1500, 2249, 2250)]
        np.testing.assert_allclose(rates, [0.2, 0.2, 0.02, 0.02, 0.002])
        assert (recipe.epochs, recipe.batch_size) == (300, 64)
        again = keras.optimizers.schedules.deserialize(
            keras.optimizers.schedules.serialize(rate)
        )
        assert again.get_config() == rate.get_config()
        recipe = dataclasses.replace(training.MSNET, warmup_epochs=4)
        rate = recipe.optimizer(10, 256)._learning_rate
        rates = [float(rate(step)) for step in (0, 20, 299, 300, 600, 900)]
        np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.01, 1e-3, 1e-4], rtol=1e-5)
        imagenet = training.RANET_IMAGENET.optimizer(3, 256)._learning_rate
        assert imagenet.milestones == (90, 180)
        with pytest.raises(ValueError, match="fractions of the epochs"):
            training.Recipe(10, 0.1, 0, milestones=(30, 60))
        with pytest.raises(ValueError, match="increasing order"):
            training.MultiStepDecay(0.1, [20, 10])


def test_strategy_scope():
    with training.strategy_scope("none"):
        assert not tf.distribute.has_strategy()
    with training.strategy_scope("mirrored"):
        strategy = tf.distribute.get_strategy()
        assert strategy.num_replicas_in_sync == 2
    # A second one would collide with the first one's collective operations.
    with training.strategy_scope("mirrored"):
        assert tf.distribute.get_strategy() is strategy
    with pytest.raises(ValueError, match="`name`.*'many'"):
        training.strategy_scope("many")


@pytest.mark.slow
def test_two_replicas_train_as_one(batch):
    """Losses, metrics, weights and BN statistics of the whole batch."""
    images = tf.data.Dataset.from_tensors(batch).repeat(3).unbatch().batch(8)
    results = []
    for name in ("none", "mirrored"):
        with training.strategy_scope(name):
            keras.utils.set_random_seed(3)
            model = randomize(make_tiny(resolutions=(32, 16)))
            model.compile(
                # At larger rates, six steps on noise amplify rounding.
                training.SGD(0.01, weight_decay=1e-3),
                metrics=["accuracy"],
                run_eagerly=name == "none",  # takes less time than tracing
            )
        history = model.fit(images, epochs=2, verbose=0, shuffle=False)
        logs = model.evaluate(images, verbose=0, return_dict=True)
        results.append((history.history, logs, model.get_weights()))
    (history_1, logs_1, weights_1), (history_2, logs_2, weights_2) = results
    for key in history_1:
        np.testing.assert_allclose(
            history_1[key], history_2[key], rtol=1e-5, err_msg=key
        )
    for key in logs_1:
        np.testing.assert_allclose(logs_1[key], logs_2[key], rtol=1e-5)
    for a, b in zip(weights_1, weights_2):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_accumulation_over_replicas_is_refused():
    with training.strategy_scope("mirrored"):
        model = make_tiny()
        with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
            model.compile(training.SGD(0.1, gradient_accumulation_steps=2))


JAX_SCRIPT = """
import json, sys
sys.modules["tensorflow"] = None  # it must not be needed
import numpy as np
import keras_resadapt, keras
from keras_resadapt import training
from keras_resadapt.quantization import Int8, LearnedQuantization
from keras_resadapt.training import SGD
assert keras.backend.backend() == "jax"
folder = sys.argv[1]
data = np.load(folder + "/batch.npz")
model = keras_resadapt.RSNet18(5, (32, 16), depths=(1, 1),
                               filters=(8, 16), stem="small",
                               weights=folder + "/tiny.weights.h5")
model.compile(SGD(0.05, weight_decay=1e-3), metrics=["accuracy"])
history = model.fit(data["images"], data["labels"], epochs=2, verbose=0,
                    batch_size=8, shuffle=False).history
logs = model.evaluate(data["images"], data["labels"], verbose=0,
                      return_dict=True)
model.save(folder + "/jax.keras")


class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise InterruptedError


def fit_dense(checkpoints, *callbacks):
    state = training.load_last_checkpoint(folder + checkpoints)
    if state is None:
        keras.utils.set_random_seed(0)
        dense = keras.Sequential([
            keras.Input((32, 32, 3)), keras.layers.Flatten(),
            keras.layers.Dropout(0.5), keras.layers.Dense(5),
        ])
        dense.compile(SGD(1e-6), "mse", metrics=["mae"])
        state = training.TrainingState(dense)
    images = data["images"].repeat(2, axis=0)
    labels = np.eye(5)[data["labels"]].repeat(2, axis=0)
    first = 2 * state.data_position(4)[1]  # of 16, of which one epoch takes 8
    state.model.fit(
        images[first:], labels[first:], batch_size=2, steps_per_epoch=4, verbose=0,
        shuffle=False, validation_data=(images[:2], labels[:2]),
        callbacks=[training.Checkpoint(folder + checkpoints, 1, state), *callbacks],
    )
    return state.step, state.model


_, whole = fit_dense("/whole")
try:
    fit_dense("/parts", Kill())
except InterruptedError:
    pass
step, parts = fit_dense("/parts")
equal = [np.array_equal(a, b) for a, b in zip(whole.variables, parts.variables)]
equal.append(whole.history.history == parts.history.history)
small = dict(depths=(1,), filters=(8,), stem="small")
quantized = keras_resadapt.RSNet18(
    5, (32,), quantization=LearnedQuantization(2, 2), **small)
quantized.compile(SGD(0.01))
loss = float(quantized.train_on_batch(data["images"], data["labels"]))
try:
    keras_resadapt.RSNet18(5, (32,), quantization=Int8(), **small)
except RuntimeError as error:
    message = str(error)
json.dump([history, logs, [r.madds for r in model.profile()], step, equal,
           loss, message],
          open(folder + "/jax.json", "w"))
"""


@pytest.mark.slow
def test_jax_trains_the_same_without_tensorflow(batch, tmp_path):
    pytest.importorskip("jax", reason="jax is an optional extra")
    keras.utils.set_random_seed(1)
    tiny = randomize(make_tiny(resolutions=(32, 16)))
    np.savez(tmp_path / "batch.npz", images=batch[0], labels=batch[1])
    tiny.save_weights(tmp_path / "tiny.weights.h5")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles faster
        "PYTHONPATH": ROOT,
    }
    subprocess.run(
        [sys.executable, "-c", JAX_SCRIPT, str(tmp_path)],
        env=environment,
        check=True,
    )
    result = json.loads((tmp_path / "jax.json").read_text())
    history, logs, madds, step, equal_after_resuming, loss, message = result
    assert step == 2 and all(equal_after_resuming)
    assert np.isfinite(loss)  # of a network with learned levels
    assert "`Int8` needs the TensorFlow backend" in message
    tiny.compile(training.SGD(0.05, weight_decay=1e-3), metrics=["accuracy"])
    ours = tiny.fit(*batch, epochs=2, verbose=0, shuffle=False).history
    assert madds == [row.madds for row in tiny.profile()]
    assert set(history) == set(ours)
    for key in ours:
        np.testing.assert_allclose(history[key], ours[key], rtol=1e-3)
    copy = keras.saving.load_model(tmp_path / "jax.keras")
    # Two steps of rounding apart
    np.testing.assert_allclose(copy(batch[0]), tiny(batch[0]), atol=1e-2)
    theirs = copy.evaluate(*batch, verbose=0, return_dict=True)
    np.testing.assert_allclose(theirs["loss"], logs["loss"], rtol=1e-4)


def train_rsnet(output_dir, dataset, *arguments):
    """Starts the example as a user does, tiny and deterministic."""
    return subprocess.Popen(
        [
            sys.executable,
            os.path.join(ROOT, "examples", "train_rsnet.py"),
            f"--output_dir={output_dir}",
            f"--dataset={dataset}",
            "--resolutions=16",
            "--depths=1",
            "--filters=4",
            "--batch_size=12",
            "--epochs=6",
            "--deterministic",
            *arguments,
        ],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, code=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-3000:]
    return output


def wait_for_checkpoint(process, folder, first_name):
    """Waits until a folder has a checkpoint of this name or of a later one."""
    for _ in range(6000):  # five minutes, for a busy machine
        if folder.is_dir() and any(p.name >= first_name for p in folder.iterdir()):
            return
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    raise AssertionError(f"{first_name} did not appear in {folder}")


@pytest.mark.slow
def test_preempted_and_killed_runs_resume_to_the_same_weights(tmp_path):
    images = write_image_folder(tmp_path / "images")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    checkpoints = parts / "checkpoint"
    uninterrupted = train_rsnet(whole, images)

    preempted = train_rsnet(parts, images, "--checkpoint_every=1")
    wait_for_checkpoint(preempted, checkpoints, "epoch_0000_step_000001.keras")
    preempted.send_signal(signal.SIGTERM)
    output = finish(preempted, training.PREEMPTED)
    assert "Stopped by SIGTERM. The training can be resumed after" in output

    killed = train_rsnet(parts, images, "--resume", "--checkpoint_every=1")
    latest = max(path.name for path in checkpoints.iterdir())
    wait_for_checkpoint(killed, checkpoints, latest + "~")
    killed.kill()
    killed.communicate()

    output = finish(train_rsnet(parts, images, "--resume"))
    assert "Resuming after" in output
    finish(uninterrupted)
    weights = [
        keras.saving.load_model(folder / "model.keras").get_weights()
        for folder in (whole, parts)
    ]
    for a, b in zip(*weights):
        np.testing.assert_array_equal(a, b)
    logs = [(folder / "log.csv").read_text() for folder in (whole, parts)]
    assert logs[0] == logs[1]
    assert len(logs[0].splitlines()) == 7


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], ["RANet", 48, "imagenet", False, 300, (0.5, 0.75), 64, "pad"]),
        (
            [
                "--model=tiny_msdnet",
                "--resolution=32",
                "--preprocessing=unit",
                "--gradient_equilibrium",
                "--epochs=5",
                "--schedule=cosine",
            ],
            ["MSDNet", 32, "unit", True, 5, None, 64, "pad"],
        ),
    ],
)
def test_train_ranet_flags(arguments, expected):
    with script("train_ranet") as train_ranet:
        flags = train_ranet.FLAGS
        flags(["train_ranet", "--output_dir=none", *arguments])
        model = train_ranet.build_model(8)
        recipe = train_ranet.training_script.change(training.RANET_CIFAR)
        assert expected == [
            *(type(model).__name__, model.resolution, model.preprocessing.mode),
            *(model.gradient_equilibrium, recipe.epochs, recipe.milestones),
            *(flags.batch_size, flags.crop),
        ]


def test_a_folder_is_locked_by_one_process(tmp_path):
    (tmp_path / "lock.json").write_text("{}")  # of a process that was killed
    with training.lock_folder(tmp_path):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on host"):
            with training.lock_folder(tmp_path):
                pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, value",
    [("learning_rate", -1), ("learning_rate", float("nan")), ("epochs", 0)],
)
def test_recipes_check_their_numbers(name, value):
    arguments = {"epochs": 1, "learning_rate": 0.1, "weight_decay": 0, name: value}
    with pytest.raises(ValueError, match=f"`{name}`.*{value}"):
        training.Recipe(**arguments)


def test_a_schedule_cannot_be_set_by_a_callback():
    optimizer = training.RSNET_RESNET.optimizer(1, 1)
    with pytest.raises(TypeError, match="float `learning_rate`"):
        optimizer.learning_rate = 0.1
    training.SGD(0.1).learning_rate = 0.2


def test_latency_and_plot(tiny, tmp_path):
    from keras_resadapt import analysis, inference

    latency = inference.measure_latency(tiny, repeats=3)
    assert list(latency) == ["r32", "r24", "r16"]
    assert all(0 < ms < 1e4 for ms in latency.values())
    with pytest.raises(ValueError, match="batch_size=0"):
        inference.measure_latency(tiny, batch_size=0)
    path = tmp_path / "plot.png"
    rows = [(r.point.name, r.madds, 0.5) for r in tiny.profile()]
    analysis.plot_accuracy_cost({"tiny": rows, "other": rows[:1]}, str(path))
    assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="`curves`"):
        analysis.plot_accuracy_cost({"tiny": []}, str(path))


def test_version():
    assert keras_resadapt.__version__ in open(os.path.join(ROOT, "setup.py")).read()


def test_xla_over_replicas_is_refused():
    with training.strategy_scope("mirrored"):
        model = make_tiny(resolutions=(16,))
        with pytest.raises(ValueError, match="`jit_compile` must be False.*2 replicas"):
            model.compile(jit_compile=True)
        model.compile(jit_compile="auto")
        assert not model.jit_compile


def test_recipes_of_the_scripts_warm_up():
    with script("train_segmentation") as segmentation:
        flags = segmentation.FLAGS
        flags(["train_segmentation", "--output_dir=none"])
        recipe = segmentation.training_script.change(segmentation.RECIPE)
        assert recipe == segmentation.RECIPE
        assert recipe.warmup_epochs == 1
        flags(["train_segmentation", "--output_dir=none", "--warmup_epochs=0"])
        recipe = segmentation.training_script.change(segmentation.RECIPE)
        assert recipe.warmup_epochs == 0


def test_a_diverged_training_stops():
    model = make_tiny(resolutions=(16,))
    with script("train_rsnet") as train_rsnet:
        stop = train_rsnet.training_script.StopAtDivergence()
    stop.set_model(model)
    stop.on_epoch_end(0, {"loss": float("nan")})  # a step that was left out
    weight = model.trainable_variables[1]
    weight.assign(weight * float("nan"))
    stop.on_epoch_end(0, {"loss": 1.0})
    with pytest.raises(ValueError, match=f"diverged in epoch 3: {weight.path}.*=nan"):
        stop.on_epoch_end(2, {"loss": float("nan")})
