"""Measures training on several workers of this machine.

    python examples/benchmark_workers.py --measure=scaling
    python examples/benchmark_workers.py --measure=kills --kills=30

scaling: the time of a training step of `RSNet18` at one resolution, with the gradients
    of a whole ResNet-18, in one process without a strategy, and on 1 and 2 workers.
    Each process has one core and the same number of images. The efficiency is the
    time of the single process divided by that of the workers.
kills: a training on two workers, of which one, the other or both are killed
    (SIGKILL) at a random moment, and which is then resumed. The final weights and the
    log must be those of a training that was not interrupted, bit by bit.
"""

import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time

import command_line  # first: it silences TensorFlow
import keras
import numpy as np
import tensorflow as tf
from absl import flags
from local_workers import start_workers, wait_for
from tables import print_table

import keras_resadapt
from keras_resadapt import training
from keras_resadapt.training.checkpoint_file import list_checkpoints

FLAGS = flags.FLAGS
flags.DEFINE_enum("measure", "scaling", ["scaling", "kills"], "What to measure.")
flags.DEFINE_integer("images_per_worker", 32, "Images per step and worker.")
flags.DEFINE_integer("resolution", 224, "Resolution in pixels.")
flags.DEFINE_integer("steps", 10, "Timed steps.", lower_bound=1)
flags.DEFINE_integer("kills", 30, "Trainings that are killed.", lower_bound=1)
flags.DEFINE_string("result", None, "Internal: where this process writes its result.")
flags.DEFINE_bool("alone", False, "Internal: measure without a strategy.")

NUM_CLASSES = 1000
WARM_UP = 3
# The training that is killed
STEPS_PER_EPOCH = 15  # of the demo set, at this batch size
EPOCHS = 2
TRAINING = (
    "--model=resnet18",
    "--stem=small",
    "--depths=1,1",
    "--filters=8,16",
    "--resolutions=32,16",
    "--batch_size=256",
    f"--epochs={EPOCHS}",
    "--checkpoint_every=2",
    "--deterministic",
    "--strategy=multi_worker",
    "--worker_timeout=120",
    "--resume",
)


# === Processes ===


def use_one_core(index: int) -> dict:
    """Returns options of `subprocess.Popen` for a process with a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    core = cores[index % len(cores)]
    return {"preexec_fn": lambda: os.sched_setaffinity(0, {core})}


def measure_in_processes(measure: str, workers: int, *arguments: str) -> list[dict]:
    """Runs this script in processes with one core each, and returns their results.

    Args:
        measure: What they measure.
        workers: The number of workers; 0 for one process without a cluster.
        *arguments: Further flags of the processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags_of_all = [
            f"--measure={measure}",
            f"--images_per_worker={FLAGS.images_per_worker}",
            f"--resolution={FLAGS.resolution}",
            f"--steps={FLAGS.steps}",
            f"--result={folder}",
            *arguments,
        ]
        command = [os.path.abspath(__file__), *flags_of_all]
        processes = start_workers(max(workers, 1), command, use_one_core)
        codes = wait_for(processes)
        if any(codes):
            sys.exit(f"The workers have failed with the codes {codes}.")
        paths = (os.path.join(folder, f"{i}.json") for i in range(max(workers, 1)))
        return [json.loads(open(path).read()) for path in paths]


def write_result(index: int, **result) -> None:
    """Writes the result of this process."""
    with open(os.path.join(FLAGS.result, f"{index}.json"), "w") as file:
        json.dump(result, file)


# === Scaling ===


class StepTimes(keras.callbacks.Callback):
    """The time of each step in seconds."""

    def __init__(self):
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # waits for the step
        self.times.append(time.perf_counter() - self.start)


def measure_step() -> None:
    """Measures the step of this worker."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    scope = training.strategy_scope("none" if FLAGS.alone else "multi_worker")
    rng = np.random.default_rng(0)
    size = (FLAGS.images_per_worker, FLAGS.resolution, FLAGS.resolution, 3)
    images = rng.uniform(0, 255, size).astype("float32")
    labels = rng.integers(0, NUM_CLASSES, FLAGS.images_per_worker)

    def shard_of_batches(shard):
        return tf.data.Dataset.from_tensors((images, labels)).repeat()

    with scope:
        model = keras_resadapt.RSNet18(NUM_CLASSES, (FLAGS.resolution,))
        model.compile(training.SGD(0.01))
        batches = training.distribute(
            shard_of_batches, FLAGS.images_per_worker * training.num_workers()
        )
    times = StepTimes()
    model.fit(
        batches,
        steps_per_epoch=WARM_UP + FLAGS.steps,
        epochs=1,
        verbose=0,
        callbacks=[times],
    )
    index = training.workers.worker_index()
    write_result(
        index, step=statistics.median(times.times[WARM_UP:]), **reduced_bytes(model)
    )


def reduced_bytes(model: keras.Model) -> dict[str, int]:
    """Returns the bytes that a step sums over the replicas, without the metrics."""
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras_resadapt.layers.BatchNormalization)
    ]
    channels = [layer.gamma.shape[-1] for layer in norms]
    return {
        "gradients": 4 * sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        # Sums, sums of squares and the count, forwards and backwards
        "normalization": 4 * 2 * sum(2 * count + 1 for count in channels),
        "normalizations": len(norms),
    }


def report_scaling() -> None:
    """Prints step times and efficiencies."""
    alone = measure_in_processes("scaling", 0, "--alone")[0]
    rows = [("one process", 1, f"{1000 * alone['step']:.0f}", "1.00")]
    for workers in (1, 2):
        results = measure_in_processes("scaling", workers)
        step = max(result["step"] for result in results)
        rows.append(
            (
                f"{workers} worker{'s' * (workers > 1)}",
                workers,
                f"{1000 * step:.0f}",
                f"{alone['step'] / step:.2f}",
            )
        )
    print_table(("", "cores", "ms per step", "efficiency"), rows)
    print(
        f"Summed over the replicas per step: {alone['gradients'] / 1e6:.1f} MB of "
        f"gradients, {alone['normalization'] / 1e6:.3f} MB for "
        f"{alone['normalizations']} normalizations."
    )


# === Kills ===


def run_training(folder: str, log: str) -> list:
    """Starts a training on two workers."""

    def options_of(index):
        file = open(f"{log}_{index}.txt", "w")
        return {**use_one_core(index), "stdout": file, "stderr": file}

    script = os.path.join(command_line.EXAMPLES, "train_rsnet.py")
    command = [script, f"--output_dir={folder}", *TRAINING]
    return start_workers(2, command, options_of)


def result_of(folder: str) -> tuple:
    """Returns the weights and the log of a finished training."""
    model = keras.saving.load_model(os.path.join(folder, "model.keras"))
    with open(os.path.join(folder, "log.csv")) as file:
        return model.get_weights(), file.read()


def finished_steps(folder: str) -> int:
    """Returns the steps of a training until its last checkpoint."""
    checkpoints = list_checkpoints(os.path.join(folder, "checkpoint"))
    return max(
        (epoch * STEPS_PER_EPOCH + step for epoch, step in checkpoints), default=0
    )


def report_kills() -> None:
    """Kills and resumes trainings, and prints whether their results are the same."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        whole = os.path.join(folder, "whole")
        start = time.monotonic()
        codes = wait_for(run_training(whole, whole))
        duration = time.monotonic() - start
        if any(codes):
            sys.exit(f"The training has failed with the codes {codes}.")
        expected = result_of(whole)
        rows = []
        for number in range(FLAGS.kills):
            victims = [(0,), (1,), (0, 1)][number % 3]
            # At the start, or some time after the checkpoint of a random step
            step = draw.randrange(STEPS_PER_EPOCH * EPOCHS)
            delay = draw.random() * (duration / 2 if step < 2 else 1.0)
            run = os.path.join(folder, str(number))
            rows.append(kill_once(run, victims, step, delay, expected))
            print(*rows[-1], flush=True)
    print_table(
        ("killed", "after step", "and s", "codes", "ended after s", "resumed", "equal"),
        rows,
    )
    equal = sum(row[-1] == "yes" for row in rows)
    print(f"{equal} of {len(rows)} trainings are bit-equal after a kill.")


def kill_once(folder: str, victims, step: int, delay: float, expected) -> tuple:
    """Kills workers of a training, resumes it, and returns a row.

    Args:
        folder: The folder of the training.
        victims: The indices of the workers to kill.
        step: The checkpoint of this step must have been written.
        delay: Seconds to wait after the checkpoint.
        expected: The result of the training that was not killed.
    """
    processes = run_training(folder, folder)
    while finished_steps(folder) < step and all(p.poll() is None for p in processes):
        time.sleep(0.05)
    time.sleep(delay)
    for victim in victims:
        processes[victim].kill()
    start = time.monotonic()
    codes = wait_for(processes, 300)
    ended = time.monotonic() - start
    resumed = finished_steps(folder)
    again = wait_for(run_training(folder, folder), 600)
    weights, log = result_of(folder) if not any(again) else ([], "")
    equal = (
        log == expected[1]
        and len(weights) == len(expected[0])
        and all(map(np.array_equal, weights, expected[0]))
    )
    shutil.rmtree(folder)
    return (
        " and ".join(map(str, victims)),
        step,
        f"{delay:.1f}",
        ", ".join(map(str, codes)),
        f"{ended:.1f}",
        f"after step {resumed}" if resumed else "from the start",
        "yes" if equal else f"NO ({again})",
    )


def main() -> None:
    if FLAGS.result:
        measure_step()
        return
    {"scaling": report_scaling, "kills": report_kills}[FLAGS.measure]()


if __name__ == "__main__":
    command_line.run(main)
