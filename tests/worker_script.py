"""What each worker of `test_workers.py` runs, in one process for all checks.

`python worker_script.py FOLDER FAMILY...` trains the families on the cluster of
`TF_CONFIG` and writes what it has found to FOLDER/worker_INDEX.npz and .json. A last
argument makes the workers end in another way:

- `--killed`: worker 1 kills itself in the middle of a training.
- `--failed`: the last worker raises an error while the others wait for it.
- `--stuck`: the last worker sleeps while the others wait for it.
"""

import json
import os
import pathlib
import signal
import sys
import time
import zipfile
from typing import Any

import keras_resadapt  # first: it chooses TensorFlow's convolutions

# isort: split

import example_scripts
import keras
import numpy as np
import tensorflow as tf

from keras_resadapt import backbones, quantization, tasks, training

# Families that run eagerly, which takes less time than tracing
EAGER = ("learned", "msnet", "ranet", "segmentation")
CLASSES = 3
BATCH = 6
# Seconds that workers wait with `--stuck`
STUCK = 8
SMALL = dict(depths=(1,), filters=(8,), stem="small")


def segmentation(resolutions):
    task = tasks.Segmentation(
        CLASSES, decoder="light_weight_refinenet", channels=8, dropout=0.0
    )
    backbone = backbones.ResNet(**SMALL)
    return keras_resadapt.RSNet(backbone, task, resolutions)


# A network for the ways in which workers end
PLAIN = "plain"
FAMILIES = {
    PLAIN: lambda: keras_resadapt.RSNet18(CLASSES, (16,), **SMALL),
    "rsnet": lambda: keras_resadapt.RSNet18(CLASSES, (16, 8), **SMALL),
    "int8": lambda: keras_resadapt.RSNet18(
        CLASSES, (16,), quantization=quantization.Int8(), **SMALL
    ),
    "learned": lambda: keras_resadapt.RSNet18(
        CLASSES, (16,), quantization=quantization.LearnedQuantization(2, 2), **SMALL
    ),
    "mutualnet": lambda: keras_resadapt.MutualMobileNetV1(
        CLASSES,
        resolutions=(16, 8),
        depths=(1,),
        filters=(32,),
        stem="small",
        num_random_widths=1,
    ),
    "msnet": lambda: keras_resadapt.MSResNet18(CLASSES, (16, 8), **SMALL),
    # In double precision, a single process is unfused as well.
    "ranet": lambda: keras_resadapt.RANet(
        CLASSES,
        num_blocks=1,
        block_step=1,
        step=1,
        scale_list=(1, 2),
        channels=4,
        growth_rate=4,
        growth_factors=(2, 1),
        bottleneck_factors=(2, 1),
        dtype="float64",
    ),
    "segmentation": lambda: segmentation((16, 8)),
}


def make_data(family: str, count: int = 2 * BATCH):
    """Images, and labels or masks of which the first half has more void pixels."""
    rng = np.random.default_rng(0)
    size = 32 if family == "ranet" else 16
    images = rng.uniform(0, 255, (count, size, size, 3)).astype("float32")
    if family != "segmentation":
        return images, rng.integers(0, CLASSES, count)
    masks = rng.integers(0, CLASSES, (count, size, size)).astype("uint8")
    masks[: count // 2, :10] = 255
    return images, masks


def batches(family: str, count: int = 2 * BATCH) -> tf.data.Dataset:
    """Batches of which each worker takes its share."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    data = tf.data.Dataset.from_tensor_slices(make_data(family, count))
    return data.batch(BATCH).with_options(options)


def make(family: str) -> keras.Model:
    """A compiled network with weights that depend on nothing but the family."""
    keras.utils.set_random_seed(0)
    model = FAMILIES[family]()
    model.compile(
        training.SGD(0.01, weight_decay=1e-3),
        metrics=None if family == "segmentation" else ["accuracy"],
        run_eagerly=family in EAGER,
    )
    return model


def train(model: keras.Model, family: str, epochs: int = 2) -> dict[str, np.ndarray]:
    """Losses, scores, and all variables by number after a training."""
    history = model.fit(batches(family), epochs=epochs, verbose=0).history
    found = {f"fit/{name}": np.array(value) for name, value in history.items()}
    # 2 images in the last batch: of three workers, one has none.
    logs = model.evaluate(batches(family, 8), verbose=0, return_dict=True)
    found |= {f"evaluate/{name}": np.array(value) for name, value in logs.items()}
    # Paths hold the numbers that Keras gives to layers without a name.
    return found | {
        f"variable/{number}_{v.name}": np.array(v)
        for number, v in enumerate(model.variables)
    }


def training_command(images, output_dir, *arguments) -> list:
    """A training script and its flags."""
    return [
        "train_rsnet",
        *("--model=resnet18", "--stem=small", "--depths=1", "--filters=8"),
        *("--resolutions=16", "--batch_size=12", "--epochs=1", "--flip=false"),
        f"--dataset={images}",
        f"--output_dir={output_dir}",
        *arguments,
    ]


def message_of(function) -> str:
    """Returns the message of a function's error, empty without an error."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Die(keras.callbacks.Callback):
    """Kills the process of worker 1 after a step, and keeps the others waiting."""

    def on_train_batch_end(self, batch, logs=None):
        if training.workers.worker_index() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class Sleep(keras.callbacks.Callback):
    """Makes the last worker sleep after a step, while the others begin the next one."""

    def on_train_batch_end(self, batch, logs=None):
        if training.workers.worker_index() == training.num_workers() - 1:
            print("sleeps", flush=True)
            time.sleep(100)


def train_all(families: list[str], folder: pathlib.Path) -> tuple[dict, dict]:
    """Trains families, and returns arrays and messages for the tests."""
    found, notes = {}, {}
    for family in families:
        start = time.time()
        model = make(family)
        found |= {f"{family}/{k}": v for k, v in train(model, family).items()}
        print(family, f"{time.time() - start:.1f} s", flush=True)
    if "rsnet" in families:
        model = make("rsnet")
        x, _ = make_data("rsnet", 8)
        found["predicted"] = model.predict(x, batch_size=BATCH, verbose=0)
        found["called"] = np.array(model(x))
        if training.is_chief():  # alone, within the scope
            model.save(folder / "chief.keras")
        notes["jit_compile"] = message_of(lambda: model.compile(jit_compile=True))
        notes["steps_per_execution"] = message_of(
            lambda: model.compile(steps_per_execution=2)
        )
        model.compile()
        notes["batch_size"] = message_of(
            lambda: model.fit(*make_data("rsnet", 5), batch_size=5)
        )
        backup = keras.callbacks.BackupAndRestore(folder / "backup")
        notes["backup"] = message_of(
            lambda: model.fit(*make_data("rsnet", 6), callbacks=[backup])
        )
        checkpoint = keras.callbacks.ModelCheckpoint(folder / "every.keras")
        notes["model_checkpoint"] = message_of(
            lambda: model.fit(*make_data("rsnet", 6), callbacks=[checkpoint])
        )
    return found, notes


def check_together(folder: pathlib.Path, index: int) -> dict[str, Any]:
    """Calls the functions of all workers, and returns their messages."""
    own = folder / f"own_{index}"
    own.mkdir()
    if index == 1:
        with zipfile.ZipFile(own / "epoch_0002.keras", "w"):
            pass  # a checkpoint that the other workers do not see
    functions = {
        "same": lambda: training.check_workers_agree(training.software_properties()),
        "flags": lambda: training.check_workers_agree({"--seed": index, "--flip": 1}),
        "shared": lambda: training.check_shared_folder(folder),
        "not_shared": lambda: training.check_shared_folder(own),
        "failed": lambda: training.run_on_chief(lambda: 1 // 0),
        "failed_alone": lambda: training.run_on_all(lambda: 1 // (1 - index)),
        "checkpoints": lambda: training.load_last_checkpoint(own),
    }
    notes = {name: message_of(function) for name, function in functions.items()}
    return {**notes, "gathered": training.gather_from_workers("x" * (index + 1))}


def run_scripts(folder: pathlib.Path, index: int) -> dict[str, Any]:
    """Runs a training script in this process, and returns its results."""
    notes = {}
    os.chdir(folder if index == 0 else folder / f"own_{index}")
    for name, images, flags in (
        ("script_flags", folder / "images", [f"--learning_rate={(index + 1) / 10}"]),
        ("script_sources", "images", []),  # which only the chief has
        ("script", folder / "images", []),
    ):
        command = training_command(images, folder / "run", *flags)
        result = example_scripts.run_script(*command, "--strategy=multi_worker")
        notes[name] = [result.code, result.output, result.error]
    return notes


def fit_for_long(family: str, *callbacks: keras.callbacks.Callback) -> None:
    """Trains until a callback ends the process."""
    with training.strategy_scope("multi_worker"):
        model = make(family)
        model.fit(batches(family), epochs=99, verbose=0, callbacks=callbacks)


def end(how: str) -> None:
    """Ends the workers as a training script does, each in its own way."""
    last = training.workers.worker_index() == training.num_workers() - 1
    with (
        example_scripts.script("worker_exits") as script,
        script.exiting_alone(),
        script.failing_alone(),
    ):
        if how == "--killed":
            fit_for_long(PLAIN, Die())
        elif how == "--failed" and last:
            raise ZeroDivisionError
        elif how == "--stuck":
            with script.exiting_when_stuck(STUCK) as watchdog:
                fit_for_long("msnet", Sleep(), *watchdog)
        training.gather_from_workers("waits")


def main(folder: pathlib.Path, families: list[str], how: str) -> None:
    scope = training.strategy_scope("multi_worker", timeout_seconds=60)
    index = training.workers.worker_index()
    with scope:
        found, notes = train_all(families, folder)
    if how == "--killed":
        notes |= check_together(folder, index) | run_scripts(folder, index)
    np.savez(folder / f"worker_{index}.npz", **found)
    (folder / f"worker_{index}.json").write_text(json.dumps(notes))
    training.gather_from_workers("written")
    end(how)


if __name__ == "__main__":
    *arguments, how = sys.argv[2:]
    main(pathlib.Path(sys.argv[1]), arguments, how)
