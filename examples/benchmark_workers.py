"""Measures training on several workers of this machine.

    python examples/benchmark_workers.py --measure=scaling
    python examples/benchmark_workers.py --measure=kills --kills=30

scaling: the time of a training step of `RSNet18` at one resolution, with the gradients
    of a whole ResNet-18, on 1 and 2 workers. Each worker has one core and the same
    number of images. The workers train in turn a network each, without a strategy, and
    one network together. The efficiency is the first time divided by the second, so
    that other programs and the memory that the cores share slow both.
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
flags.DEFINE_integer("images_per_worker", 64, "Images per step and worker.")
flags.DEFINE_integer("resolution", 224, "Resolution in pixels.")
flags.DEFINE_integer("rounds", 8, "How often the two are timed.", lower_bound=1)
flags.DEFINE_integer("kills", 30, "Trainings that are killed.", lower_bound=1)
flags.DEFINE_string("result", None, "Internal: where this process writes its result.")

NUM_CLASSES = 1000
STEPS = 3  # in each round
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


def measure_in_processes(workers: int) -> list[dict]:
    """Runs this script in workers with one core each, and returns their results."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            os.path.abspath(__file__),
            f"--images_per_worker={FLAGS.images_per_worker}",
            f"--resolution={FLAGS.resolution}",
            f"--rounds={FLAGS.rounds}",
            f"--result={folder}",
        ]
        codes = wait_for(start_workers(workers, command, use_one_core))
        if any(codes):
            sys.exit(f"The workers have failed with the codes {codes}.")
        paths = (os.path.join(folder, f"{index}.json") for index in range(workers))
        return [json.loads(open(path).read()) for path in paths]


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


def measure_steps() -> None:
    """Times the steps of this worker, alone and together with the others."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    training.strategy_scope("multi_worker")  # before other operations
    rng = np.random.default_rng(0)
    count = FLAGS.images_per_worker
    size = (count, FLAGS.resolution, FLAGS.resolution, 3)
    images = rng.uniform(0, 255, size).astype("float32")
    labels = rng.integers(0, NUM_CLASSES, count)

    def shard_of_batches(shard=None):
        return tf.data.Dataset.from_tensors((images, labels)).repeat()

    def compile_network():
        model = keras_resadapt.RSNet18(NUM_CLASSES, (FLAGS.resolution,))
        model.compile(training.SGD(0.01))
        return model

    def time_steps(model, batches):
        times = StepTimes()
        model.fit(batches, steps_per_epoch=STEPS, verbose=0, callbacks=[times])
        return statistics.median(times.times)

    alone = compile_network(), shard_of_batches()
    with training.strategy_scope("multi_worker"):
        together = (
            compile_network(),
            training.distribute(shard_of_batches, count * training.num_workers()),
        )
    times: list[tuple[float, float]] = []
    for _ in range(1 + FLAGS.rounds):  # the first one traces
        time_alone = time_steps(*alone)
        with training.strategy_scope("multi_worker"):
            times.append((time_alone, time_steps(*together)))
    path = os.path.join(FLAGS.result, f"{training.workers.worker_index()}.json")
    with open(path, "w") as file:
        json.dump({"times": times[1:], **reduced_bytes(together[0])}, file)


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
    rows = []
    for workers in (1, 2):
        results = measure_in_processes(workers)
        # Of shape (workers, rounds, 2); the slowest worker counts.
        times = np.max([result["times"] for result in results], axis=0)
        alone, together = 1000 * np.median(times, axis=0)
        efficiencies = times[:, 0] / times[:, 1]
        rows.append(
            (
                f"{workers} worker{'s' * (workers > 1)}",
                f"{alone:.0f}",
                f"{together:.0f}",
                f"{np.median(efficiencies):.2f}",
                f"{efficiencies.min():.2f} to {efficiencies.max():.2f}",
            )
        )
    print_table(
        ("", "ms per step, alone", "together", "efficiency", "of the rounds"), rows
    )
    print(
        f"Summed over the replicas per step: {results[0]['gradients'] / 1e6:.1f} MB of "
        f"gradients, {results[0]['normalization'] / 1e6:.3f} MB for "
        f"{results[0]['normalizations']} normalizations."
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
        measure_steps()
        return
    {"scaling": report_scaling, "kills": report_kills}[FLAGS.measure]()


if __name__ == "__main__":
    command_line.run(main)
