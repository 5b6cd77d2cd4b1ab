"""Functions that all workers of a training call together.

Without several workers, this process is the chief, and the functions return what
it alone contributes.
"""

import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_resadapt.layers.replicas import gather_from_replicas
from keras_resadapt.training.cluster import find_cluster
from keras_resadapt.training.rendezvous import meet

# The strategy of this process after it has joined a cluster, which it does once, and
# how long its gathers wait for the other workers, in seconds
_JOINED: list[tuple[Any, float]] = []

# Small enough that sending begins before the last gradient is known
_BYTES_PER_SUM = 4 * 1024**2


def join_cluster(timeout_seconds: float) -> Any:
    """Joins the cluster that the environment describes, and returns its strategy.

    A process joins once; later calls return the same strategy.

    Args:
        timeout_seconds: How long to wait for another worker, at the start and in
            `gather_from_workers`. `Watchdog` limits the time of the steps of `fit`.

    Raises:
        RuntimeError: If TensorFlow has run an operation in this process.
        ValueError, OSError, TimeoutError: If the cluster is not described, differs
            between the workers, has a port that is in use, or is not complete in time.
    """
    if _JOINED:
        return _JOINED[0][0]
    import tensorflow as tf

    if not timeout_seconds > 0:
        raise ValueError(
            "`timeout_seconds` must be positive. "
            f"Received: timeout_seconds={timeout_seconds}"
        )
    cluster = find_cluster()
    _check_not_initialized()
    meet(cluster, timeout_seconds)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(
        cluster_resolver=cluster.resolver(),
        # Not `timeout_seconds`, with which every operation starts threads that sleep
        # until the time limit: a step of a ResNet-18 would add 80 of them.
        communication_options=tf.distribute.experimental.CommunicationOptions(
            bytes_per_pack=_BYTES_PER_SUM
        ),
    )
    _JOINED.append((strategy, timeout_seconds))
    return strategy


def _check_not_initialized() -> None:
    """Raises a `RuntimeError` if TensorFlow has started in this process."""
    import tensorflow as tf

    threads = tf.config.threading.get_inter_op_parallelism_threads()
    try:  # only possible before the start
        tf.config.threading.set_inter_op_parallelism_threads(threads + 1)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        raise RuntimeError(
            "Several workers must be connected before TensorFlow runs an operation: "
            "call `strategy_scope('multi_worker')` at the start of the program."
        ) from None


# === This worker ===


def num_workers() -> int:
    """Returns the number of workers of the cluster that this process has joined."""
    if not _JOINED:
        return 1
    strategy, _ = _JOINED[0]
    return sum(map(len, strategy.cluster_resolver.cluster_spec().as_dict().values()))


def worker_index() -> int:
    """Returns the index of this process among the workers; 0 is the chief."""
    if not _JOINED:
        return 0
    resolver = _JOINED[0][0].cluster_resolver
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", ()))
    return resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)


def is_chief() -> bool:
    """Returns whether this process writes the files of a training.

    It is True for the first of several workers, and for a process that has joined
    no cluster.
    """
    return worker_index() == 0


# === All workers ===


def gather_from_workers(value: Any) -> list:
    """Returns the values of all workers, in every worker.

    All workers must call it. It returns when all of them have, and so also serves to
    wait for each other.

    Args:
        value: A value that JSON can represent.
    """
    text = json.dumps([worker_index(), value])
    if num_workers() == 1:
        return [json.loads(text)[1]]

    # Collective operations have no bytes.
    sent = np.frombuffer(text.encode() + b"\n", "uint8").astype("int32")
    received = _gather_function(*_JOINED[0])(sent).numpy().astype("uint8").tobytes()
    # Each replica of a worker sends a copy.
    by_worker = dict(json.loads(line) for line in received.splitlines())
    return [by_worker[index] for index in sorted(by_worker)]


@functools.cache
def _gather_function(strategy, timeout_seconds: float):
    """Returns a function that joins the vectors of all workers."""
    import tensorflow as tf

    options = tf.distribute.experimental.CommunicationOptions(
        timeout_seconds=timeout_seconds
    )

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int32)])
    def gather(vector):
        joined = strategy.run(gather_from_replicas, args=(vector, options))
        return strategy.experimental_local_results(joined)[0]

    return gather


def check_workers_agree(properties: Mapping[str, Any]) -> None:
    """Raises an error unless some properties are the same on all workers.

    All workers must call it.

    Args:
        properties: What must be the same, by name: values that JSON can represent.

    Raises:
        ValueError: If a property differs. The message names it, with its values.
    """
    of_workers = gather_from_workers(dict(properties))
    names = {name: None for worker in of_workers for name in worker}
    differing = []
    for name in names:
        values = [worker.get(name) for worker in of_workers]
        if any(value != values[0] for value in values):
            received = (f"{value} on worker {i}" for i, value in enumerate(values))
            differing.append(f"{name} is {', '.join(received)}")
    if differing:
        raise ValueError(
            f"All workers must have the same properties. Received: "
            f"{'; '.join(differing)}"
        )


def software_properties() -> dict[str, str]:
    """Returns what `check_workers_agree` compares about the software.

    These are the versions of Keras and TensorFlow, and a digest of the package's code.
    """
    import tensorflow as tf

    package = pathlib.Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return {
        "the version of Keras": keras.__version__,
        "the version of TensorFlow": tf.__version__,
        "the code of keras_resadapt (its digest)": digest.hexdigest()[:12],
    }


def check_shared_folder(folder: str | os.PathLike) -> None:
    """Raises an error unless all workers see the same folder.

    All workers must call it. The chief writes a file for a moment.

    Args:
        folder: The folder, which the chief must be able to write to.

    Raises:
        ValueError: If a worker does not see the file of the chief.
    """
    if num_workers() == 1:
        return
    name = f".shared_{uuid.uuid4().hex[:12]}"
    path = os.path.join(folder, name)
    run_on_chief(lambda: pathlib.Path(path).touch())
    name = gather_from_workers(name)[0]
    seen = gather_from_workers(name in _listdir(folder))
    if is_chief():
        os.remove(path)
    if not all(seen):
        blind = [str(index) for index, found in enumerate(seen) if not found]
        raise ValueError(
            "All workers must share the folder of the results, on one file system. "
            f"Received: {os.fspath(folder)!r}, in which worker {', '.join(blind)} "
            "does not see a file that worker 0 has written"
        )


def _listdir(folder) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def run_outside_scope(function: Callable[[], Any]) -> concurrent.futures.Future:
    """Runs a function in a thread of its own, which no strategy's scope includes.

    A variable that one worker alone creates within the scope, as Keras does while it
    saves a model, would wait for the other workers.

    Returns:
        The future of the function, which has ended.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function)


def run_on_chief(function: Callable[[], Any]) -> Any:
    """Runs a function on the chief while the others wait.

    All workers must call it. An error of the chief ends the others as well. With
    several workers, the function runs outside the scope of the strategy; see
    `run_outside_scope`.

    Args:
        function: Takes no arguments.

    Returns:
        The result of the function on the chief; None on the others.

    Raises:
        Exception: The error of the function, on the chief.
        ValueError: With the same message, on the others.
    """
    if num_workers() == 1:
        return function()
    error = result = None
    if is_chief():
        future = run_outside_scope(function)
        error = future.exception()
        result = None if error else future.result()
    _raise_in_all(error)
    return result


def run_on_all(function: Callable[[], Any]) -> Any:
    """Runs a function on every worker, and ends all of them if one fails.

    All workers must call it. The function must contain no operation of all workers: a
    worker that fails would leave the others waiting.

    Args:
        function: Takes no arguments.

    Returns:
        The result of the function on this worker.

    Raises:
        Exception: The error of the function, on each worker where it fails.
        ValueError: With the message of the first worker that fails, on the others.
    """
    error = result = None
    try:
        result = function()
    except Exception as raised:
        if num_workers() == 1:
            raise
        error = raised
    _raise_in_all(error)
    return result


def _raise_in_all(error: BaseException | None) -> None:
    """Raises an error in all workers if it is not None in one of them."""
    try:
        messages = gather_from_workers(error and (str(error) or repr(error)))
    except Exception:  # a worker that received the message may have ended already
        if error is None:
            raise
    if error is not None:
        raise error
    for index, message in enumerate(messages):
        if message is not None:
            raise ValueError(f"Worker {index} has failed: {message}")
