"""Training on several workers: processes on this machine, and their cluster."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import worker_script
from example_scripts import check_script, run_script, script, write_image_folder
from local_workers import free_addresses, start_workers, wait_for
from test_data_service import running_service

from keras_resadapt import training
from keras_resadapt.training import lost_workers, rendezvous
from keras_resadapt.training.cluster import Cluster, find_cluster
from keras_resadapt.training.rendezvous import meet

HERE = pathlib.Path(__file__).parent


# === The description of the cluster ===


def tf_config(jobs, job="worker", index=0):
    config = {"cluster": jobs, "task": {"type": job, "index": index}}
    return {"TF_CONFIG": json.dumps(config)}


@pytest.mark.parametrize(
    "jobs, job, index, place",
    [
        ({"worker": ["a:1", "b:2"]}, "worker", 1, 1),
        ({"chief": ["a:1"], "worker": ["b:2", "c:3"]}, "worker", 1, 2),
        ({"worker": ["b:2"], "chief": ["a:1"]}, "chief", 0, 0),
    ],
)
def test_cluster_of_tf_config(jobs, job, index, place):
    cluster = find_cluster(tf_config(jobs, job, index))
    assert cluster.index == place
    assert cluster.addresses[0] == "a:1"
    assert cluster.resolver().task_type == job


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "TF_CONFIG must be valid JSON. Received: TF_CONFIG={"),
        ("[]", "must be an object with the objects `cluster` and `task`"),
        ('{"cluster": {"worker": ["a:1"]}}', "the objects `cluster` and `task`"),
        (tf_config({"ps": ["a:1"]}, "ps"), "the jobs `chief` and `worker` alone"),
        (tf_config({"worker": ["a"]}), "addresses of the form `host:port`"),
        (tf_config({"worker": ["a:99999"]}), "addresses of the form `host:port`"),
        (tf_config({"worker": "a:1"}), "list addresses"),
        (tf_config({"worker": ["a:1", "a:1"]}), "name each worker once"),
        (tf_config({"worker": []}), "name each worker once"),
        (
            tf_config({"chief": ["a:1", "b:1"], "worker": ["c:1"]}),
            "at most one `chief`",
        ),
        (tf_config({"worker": ["a:1"]}, "chief"), "as the `type` of its `task`"),
        (tf_config({"worker": ["a:1"]}, index=1), "counts from 0 to the number"),
        (tf_config({"worker": ["a:1"]}, index="0"), "counts from 0 to the number"),
        ({"TF_CONFIG": " "}, "needs a description of the cluster"),
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n1"},
            "The environment variables of the SLURM step do not describe",
        ),
    ],
)
def test_descriptions_that_are_wrong(text, message):
    environment = text if isinstance(text, dict) else {"TF_CONFIG": text}
    with pytest.raises(ValueError, match=message):
        find_cluster(environment)


SLURM = {
    "SLURM_JOB_ID": "4007",
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def test_cluster_of_slurm(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    cluster = find_cluster({**SLURM, "SLURMD_NODENAME": "node02"})
    assert cluster.addresses == [
        *("node01:20070", "node01:20071", "node02:20070", "node02:20071")
    ]
    assert cluster.index == 2
    with pytest.raises(ValueError, match="task 2 on node01, where TensorFlow expects"):
        find_cluster({**SLURM, "SLURMD_NODENAME": "node01"})


# === The meeting ===


def meet_all(clusters, timeout_seconds=5.0):
    """Lets workers meet, each in a thread, and returns their errors."""
    errors = [None] * len(clusters)

    def run(place):
        try:
            meet(clusters[place], timeout_seconds)
        except Exception as error:
            errors[place] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(clusters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return errors


def cluster_of(addresses, index):
    return Cluster({"worker": addresses}, "worker", index, "TF_CONFIG")


def test_workers_meet_twice():
    """The ports are free again at once."""
    addresses = free_addresses(3)
    for _ in range(2):
        assert meet_all([cluster_of(addresses, i) for i in range(3)]) == [None] * 3


def test_a_cluster_that_differs_between_workers():
    addresses = free_addresses(2)
    other = [addresses[0], addresses[1].replace("127.0.0.1", "localhost")]
    errors = meet_all([cluster_of(addresses, 0), cluster_of(other, 1)])
    for error in errors:
        assert isinstance(error, ValueError)
        assert "must have the same cluster in TF_CONFIG" in str(error)
        assert "localhost" in str(error) and "on worker 1" in str(error)


def test_two_workers_of_one_index():
    addresses = free_addresses(3)
    clusters = [cluster_of(addresses, i) for i in (0, 1, 1)]
    errors = meet_all(clusters, 1.5)
    # The second one may find the port of the first one in use.
    assert all(errors)


def test_a_worker_that_is_started_again():
    """The connection of its first process is closed."""
    addresses = free_addresses(3)
    clusters = [cluster_of(addresses, i) for i in range(3)]
    report = {"index": 1, "jobs": clusters[1].jobs, "problem": None}
    host, port = addresses[0].split(":")

    def die():
        for _ in range(500):  # until the chief listens
            try:
                with socket.create_connection((host, int(port))) as first:
                    first.sendall(json.dumps(report).encode() + b"\n")
                return
            except OSError:
                time.sleep(0.01)

    chief: list = []
    thread = threading.Thread(target=lambda: chief.append(meet(clusters[0], 10)))
    thread.start()
    die()
    assert meet_all(clusters[1:], 10) == [None, None]
    thread.join(10)
    assert chief == [None]


@pytest.mark.parametrize("taken", [0, 1])
def test_a_port_in_use(taken, monkeypatch):
    monkeypatch.setattr(rendezvous, "_PATIENCE", 0.1)
    addresses = free_addresses(2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(addresses[taken].split(":")[1])))
        other.listen()
        start = time.monotonic()
        errors = meet_all([cluster_of(addresses, i) for i in range(2)], 1.0)
        assert time.monotonic() - start < 20
    assert isinstance(errors[taken], OSError)
    message = f"Worker {taken} must be able to listen at {addresses[taken]}"
    assert message in str(errors[taken])
    if taken:
        assert message in str(errors[0])  # the chief passes it on
    assert all(errors)


def test_a_worker_that_does_not_come():
    addresses = free_addresses(3)
    errors = meet_all([cluster_of(addresses, i) for i in range(2)], 0.5)
    for error in errors:
        assert isinstance(error, TimeoutError)
        assert str(error).endswith(f"Missing: worker 2 at {addresses[2]}")


def test_a_chief_that_does_not_come():
    (error,) = meet_all([cluster_of(free_addresses(2), 1)], 0.3)
    assert isinstance(error, TimeoutError)
    assert "Worker 0, the chief, must answer at" in str(error)


def test_strangers_are_ignored():
    """A port is open to all."""
    addresses = free_addresses(2)
    port = int(addresses[0].split(":")[1])
    chief = threading.Thread(target=meet, args=(cluster_of(addresses, 0), 20))
    chief.start()
    for content in (
        b"GET / HTTP/1.0\r\n\r\n\n",
        b'{"index": []}\n',
        b"[" * 2000 + b"\n",
    ):
        for _ in range(500):  # until the chief listens
            try:
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(content)
                break
            except OSError:
                time.sleep(0.01)
        else:
            pytest.fail("The chief does not listen.")
    meet(cluster_of(addresses, 1), 20)
    chief.join(20)
    assert not chief.is_alive()


# === One process ===


def test_one_process_is_the_chief(tmp_path):
    assert training.is_chief()
    assert training.num_workers() == 1
    assert training.gather_from_workers({"a": [1]}) == [{"a": [1]}]
    assert training.run_on_chief(lambda: 3) == 3
    assert training.run_on_all(lambda: 4) == 4
    with pytest.raises(ZeroDivisionError):
        training.run_on_all(lambda: 1 // 0)
    training.check_workers_agree({"--seed": 1})
    training.check_shared_folder(tmp_path)


def test_workers_are_connected_first(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config({"worker": ["a:1", "b:1"]})["TF_CONFIG"])
    worker_script.tf.constant(0)
    with pytest.raises(RuntimeError, match="before TensorFlow runs an operation"):
        training.strategy_scope("multi_worker")
    with pytest.raises(ValueError, match="`timeout_seconds` must be positive"):
        training.strategy_scope("multi_worker", timeout_seconds=0)


def test_checkpoints_are_compared_before_they_are_loaded(monkeypatch, tmp_path):
    """Loading is an operation of all workers."""
    with zipfile.ZipFile(tmp_path / "epoch_0003.keras", "w"):
        pass
    gather = training.workers.gather_from_workers
    other = {"the last checkpoint": "epoch_0002.keras"}
    monkeypatch.setattr(
        training.workers,
        "gather_from_workers",
        lambda value: [*gather(value), other if isinstance(value, dict) else None],
    )
    with pytest.raises(
        ValueError, match="is epoch_0003.keras on worker 0, epoch_0002.keras on worker"
    ):
        training.load_last_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="must have the name of a checkpoint"):
        training.load_checkpoint(tmp_path / "model.keras")


ERRORS = tf.errors


@pytest.mark.parametrize(
    "kind, message, lost",
    [
        (ERRORS.UnavailableError, "Socket closed", True),
        (ERRORS.DeadlineExceededError, "Collective has timed out", True),
        (ERRORS.InternalError, "Collective ops is aborted by: Socket closed", True),
        (ERRORS.FailedPreconditionError, "a different device incarnation: 7", True),
        (ERRORS.UnknownError, "stopped sending heartbeats", True),
        (
            ERRORS.InternalError,
            "Collective ops is aborted by: Collective instance 3 expected type 1 and "
            "data_type 1 but got type 1 and data_type 3",
            False,
        ),
        (ERRORS.UnavailableError, "Shape mismatch in the collective instance", False),
        (ERRORS.InvalidArgumentError, "Collective ops is aborted by: label 7", False),
        (ERRORS.ResourceExhaustedError, "OOM in CollectiveReduceV2", False),
    ],
)
def test_errors_about_other_workers(kind, message, lost):
    error = kind(None, None, f"Graph execution error:\n\nat node x\n{message}")
    assert lost_workers.is_about_workers(error) == lost


def test_the_message_about_a_lost_worker(monkeypatch):
    monkeypatch.setattr(lost_workers, "num_workers", lambda: 2)
    message = "Graph execution error:\n\nCollective has timed out.\n [[x]]"
    with (
        pytest.raises(training.WorkerLostError, match="error: Collective has timed"),
        training.reporting_lost_workers(),
    ):
        raise ERRORS.DeadlineExceededError(None, None, message)


def test_a_watchdog():
    calls = []
    with training.Watchdog(0.2, lambda: calls.append(1)) as watchdog:
        for step in range(6):
            time.sleep(0.05)
            watchdog.on_train_batch_end(step)
        assert not calls
        time.sleep(0.4)
    assert calls == [1]
    with training.Watchdog(0.05, lambda: calls.append(2)):
        pass
    time.sleep(0.1)
    assert calls == [1]
    with pytest.raises(ValueError, match="`timeout_seconds` must be positive"):
        training.Watchdog(0, calls.clear)


def test_a_data_service_is_watched_without_other_workers(monkeypatch, capfd):
    """TensorFlow waits for a lost service without end, and ignores signals."""
    with script("worker_exits") as exits:
        with exits.exiting_when_stuck(60) as callbacks:
            assert not callbacks
        ended = threading.Event()
        monkeypatch.setattr(exits, "_exit", lambda code: ended.set())
        with exits.exiting_when_stuck(0.05, "grpc://service:1") as callbacks:
            assert len(callbacks) == 1 and ended.wait(10)
    assert "waits for the data service grpc://service:1;" in capfd.readouterr().err


def test_an_error_survives_the_end_of_another_worker(monkeypatch):
    """The other worker may end before this one has received its answer."""

    def lose(value):
        raise ConnectionError("Socket closed")

    monkeypatch.setattr(training.workers, "num_workers", lambda: 2)
    monkeypatch.setattr(training.workers, "gather_from_workers", lose)
    with pytest.raises(ZeroDivisionError):
        training.run_on_chief(lambda: 1 // 0)
    with pytest.raises(ConnectionError):
        training.run_on_chief(lambda: 1)


def test_a_worker_that_is_missing_at_the_start():
    def scope():
        raise TimeoutError("Missing: worker 2")

    with script("worker_exits") as exits, pytest.raises(SystemExit) as error:
        exits.connect(scope)
    assert error.value.code == exits.WORKER_LOST == 69


def test_a_signal_after_the_workers_are_connected(monkeypatch, tmp_path):
    """TensorFlow replaces the handler of SIGTERM when it connects them."""
    before = signal.getsignal(signal.SIGTERM)

    def connect(scope):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def load_sources(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        with script("training_script") as module:
            monkeypatch.setattr(module, "connect", connect)
            monkeypatch.setattr(module, "load_sources", load_sources)
            result = run_script("train_rsnet", f"--output_dir={tmp_path / 'run'}")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.code == training.PREEMPTED, result.error


# === Several processes ===


def start(count, folder, *arguments):
    """Starts workers; the output of worker i is in log_i.txt."""

    def options_of(index):
        log = open(folder / f"log_{index}.txt", "w")
        return {"stdout": log, "stderr": subprocess.STDOUT}

    command = [HERE / "worker_script.py", folder, *arguments]
    return start_workers(count, command, options_of)


def log_of(folder, index):
    return (folder / f"log_{index}.txt").read_text()


def check_equal(family, one, several, tolerance=1e-5):
    """Compares what a single process and workers have found for one family."""
    mine = {name: value for name, value in one.items()}
    prefix = f"{family}/"
    theirs = {
        name.removeprefix(prefix): value
        for name, value in several.items()
        if name.startswith(prefix)
    }
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_allclose(
            theirs[name], value, rtol=tolerance, atol=tolerance, err_msg=name
        )


FAMILIES = [name for name in worker_script.FAMILIES if name != worker_script.PLAIN]


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """The folder of two workers that train all families, and their exit codes."""
    folder = tmp_path_factory.mktemp("two_workers")
    write_image_folder(folder / "images")
    codes = wait_for(start(2, folder, *FAMILIES, "--killed"), 400)
    return folder, codes


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_two_workers_train_as_one_process(family, two_workers):
    folder, _ = two_workers
    one = worker_script.train(worker_script.make(family), family)
    for index in range(2):
        assert (folder / f"worker_{index}.npz").exists(), log_of(folder, index)[-2000:]
        check_equal(family, one, np.load(folder / f"worker_{index}.npz"))


@pytest.mark.slow
def test_prediction_on_two_workers(two_workers):
    """Every worker has the logits of all images, in their order."""
    for index in range(2):
        found = np.load(two_workers[0] / f"worker_{index}.npz")
        np.testing.assert_allclose(found["predicted"], found["called"], atol=1e-5)


@pytest.mark.slow
def test_errors_on_two_workers(two_workers):
    folder, _ = two_workers
    for index in range(2):
        notes = json.loads((folder / f"worker_{index}.json").read_text())
        assert notes["gathered"] == ["x", "xx"]
        assert notes["same"] == notes["shared"] == ""
        assert notes["flags"].endswith("--seed is 0 on worker 0, 1 on worker 1")
        assert "in which worker 1 does not see a file" in notes["not_shared"]
        assert "division" in notes["failed"]
        failed = "ValueError: Worker 1 has failed" if index == 0 else "ZeroDivision"
        assert notes["failed_alone"].startswith(failed)
        assert (
            "last checkpoint is None on worker 0, epoch_0002.keras on worker 1"
            in (notes["checkpoints"])
        )
        assert "`jit_compile` must be False" in notes["jit_compile"]
        assert "`steps_per_execution` must be 1" in notes["steps_per_execution"]
        assert "batch_size=5 for 2 replicas" in notes["batch_size"]
        assert "must not have `BackupAndRestore`" in notes["backup"]
        assert "`ModelCheckpoint` on the chief alone" in notes["model_checkpoint"]


@pytest.mark.slow
def test_the_chief_saves_alone_within_the_scope(two_workers):
    folder, _ = two_workers
    saved = keras.saving.load_model(folder / "chief.keras", compile=False)
    images, _ = worker_script.make_data("rsnet", 8)
    found = np.load(folder / "worker_0.npz")
    np.testing.assert_allclose(saved.predict(images), found["predicted"], atol=1e-5)


@pytest.mark.slow
def test_the_training_script_on_two_workers(two_workers, tmp_path):
    """It is resumed in one process, with the batches of a tf.data service."""
    folder, _ = two_workers
    notes = [
        json.loads((folder / f"worker_{index}.json").read_text()) for index in range(2)
    ]
    for code, _, error in (worker["script_flags"] for worker in notes):
        assert code == 1
        assert "--learning_rate is 0.1 on worker 0, 0.2 on worker 1" in error
    for index, worker in enumerate(notes):
        code, _, error = worker["script_sources"]
        assert code == 1 and "`dataset` must be 'demo', an existing folder" in error
        assert error.startswith("error: Worker 1 has failed" if index == 0 else "error")
    assert [worker["script"][0] for worker in notes] == [0, 0], notes
    assert "All results are in" in notes[0]["script"][1]
    assert notes[1]["script"][1] == ""  # only the chief reports
    files = {path.name for path in (folder / "run").iterdir()}
    assert {"model.keras", "log.csv", "flags.json", "checkpoint"} <= files
    resumed = worker_script.training_command(
        folder / "images", folder / "run", "--resume", "--epochs=2"
    )
    with running_service() as address:
        output = check_script(*resumed, f"--data_service={address}")
    assert "The number of workers of the run changes from 2 to 1." in output
    one = worker_script.training_command(folder / "images", tmp_path / "run")
    check_script(*one)
    mine, theirs = (
        (path / "run" / "log.csv").read_text().splitlines()[1].split(",")
        for path in (tmp_path, folder)
    )
    np.testing.assert_allclose(
        [float(x) for x in theirs], [float(x) for x in mine], rtol=1e-4
    )


@pytest.mark.slow
def test_a_killed_worker_ends_the_others(two_workers):
    folder, codes = two_workers
    assert codes == [69, -9]
    log = log_of(folder, 0)
    assert "error: Worker 0 of 2 has lost another worker" in log
    assert "the same command and --resume to continue after" in log


@pytest.mark.slow
def test_three_workers_train_as_one_process(tmp_path):
    """The last batch leaves one of them without images. Later, one of them fails."""
    family = worker_script.PLAIN
    codes = wait_for(start(3, tmp_path, family, "--failed"), 300)
    one = worker_script.train(worker_script.make(family), family)
    check_equal(family, one, np.load(tmp_path / "worker_2.npz"))
    assert codes == [69, 69, 78]
    assert "ZeroDivisionError" in log_of(tmp_path, 2)
    assert "If another worker has ended with an error of its own" in (
        log_of(tmp_path, 0)
    )


@pytest.mark.slow
def test_a_stuck_worker_ends_with_the_others(tmp_path):
    assert wait_for(start(2, tmp_path, "--stuck"), 100) == [69, 69]
    assert "sleeps" in log_of(tmp_path, 1)
    for index in range(2):
        message = f"Worker {index} has made no progress for 8 s"
        assert message in log_of(tmp_path, index)
