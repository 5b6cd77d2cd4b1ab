"""Measures the input pipeline of one and of two workers.

    python examples/benchmark_data.py --dataset=cifar10 --resolution=32

Each worker is a process with one core and its own shard of every global batch. The
workers run at the same time and do not train. The table has one row per worker:

images per s       images that the worker delivers
decoded per batch  images that it reads and decodes for one global batch
CPU us per image   processor time divided by the images that it delivers
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time

import command_line  # first: it silences TensorFlow
import shared_flags
import tensorflow as tf
from absl import flags
from local_workers import start_workers, wait_for
from tables import print_table

from keras_resadapt import data

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "task",
    "classification",
    ["classification", "segmentation"],
    "Whether the images have class labels or masks.",
)
flags.DEFINE_integer("batch_size", 64, "Images per global batch.", lower_bound=2)
flags.DEFINE_integer("resolution", 48, "Size of the crops in pixels.", lower_bound=1)
flags.DEFINE_integer("batches", 20, "Global batches per round.", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "Timed rounds, whose median counts.", lower_bound=1)
flags.DEFINE_integer("workers", 1, "Internal: the number of workers.")
flags.DEFINE_string("result", None, "Internal: where a worker writes its result.")


def shard_of_batches(index: int, counter: tf.Variable) -> tf.data.Dataset:
    """Returns the training batches of a worker, which counts the images it reads."""
    source = shared_flags.load_source("train", task=FLAGS.task)
    read = source.read

    def counted(handle):
        with tf.control_dependencies([counter.assign_add(1)]):
            return tf.identity(read(handle))

    make_batches = {
        "classification": data.training_batches,
        "segmentation": data.segmentation_training_batches,
    }[FLAGS.task]
    return make_batches(
        dataclasses.replace(source, read=counted),
        FLAGS.batch_size,
        FLAGS.resolution,
        seed=0,
        shard=(index, FLAGS.workers),
    )


def measure(index: int) -> dict[str, float]:
    """Returns what one worker measures."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    counter = tf.Variable(0, dtype=tf.int64)
    iterator = iter(shard_of_batches(index, counter))
    next(iterator)
    rounds = []
    for _ in range(FLAGS.rounds):
        start = (time.perf_counter(), time.process_time(), int(counter))
        for _ in range(FLAGS.batches):
            next(iterator)
        end = (time.perf_counter(), time.process_time(), int(counter))
        rounds.append([after - before for before, after in zip(start, end)])
    wall, cpu, _ = (statistics.median(values) for values in zip(*rounds))
    images = FLAGS.batches * FLAGS.batch_size // FLAGS.workers
    return {
        "images_per_s": images / wall,
        "cpu_us": 1e6 * cpu / images,
        "decoded": statistics.mean(r[2] for r in rounds) / FLAGS.batches,
    }


def on_one_core(index: int) -> dict:
    """Returns options of `subprocess.Popen` for a process with a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    return {
        "preexec_fn": lambda: os.sched_setaffinity(0, {cores[index % len(cores)]}),
    }


def run_workers(count: int) -> list[dict[str, float]]:
    """Returns what each of several workers measures at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        command = [os.path.abspath(__file__), *sys.argv[1:]]
        command += [f"--workers={count}", f"--result={folder}"]
        codes = wait_for(start_workers(count, command, on_one_core))
        if any(codes):
            sys.exit(f"The workers have failed with the codes {codes}.")
        results = []
        for index in range(count):
            with open(os.path.join(folder, f"{index}.json")) as file:
                results.append(json.load(file))
        return results


def main() -> None:
    if FLAGS.result:
        index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        with open(os.path.join(FLAGS.result, f"{index}.json"), "w") as file:
            json.dump(measure(index), file)
        return
    print_table(
        ["workers", "worker", "images per s", "decoded per batch", "CPU us per image"],
        [
            [
                count,
                index,
                f"{result['images_per_s']:.0f}",
                f"{result['decoded']:.1f}",
                f"{result['cpu_us']:.0f}",
            ]
            for count in (1, 2)
            for index, result in enumerate(run_workers(count))
        ],
    )


if __name__ == "__main__":
    command_line.run(main)
