"""Detection over replicas and workers, against one process."""

import pathlib

import example_scripts  # noqa: F401, first: it adds the folder of the examples

# isort: split

import detection_worker_script
import keras
import numpy as np
import pytest
import tensorflow as tf
from local_workers import start_workers, wait_for

from keras_resadapt import tasks, training
from keras_resadapt.heads.random_order import random_order
from keras_resadapt.models import network, whole_images

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def strategy():
    with training.strategy_scope("mirrored"):
        return tf.distribute.get_strategy()


def halves(strategy, values):
    """The first half of each tensor in one replica, the rest in the other."""

    def of_replica(context):
        place = context.replica_id_in_sync_group
        return {name: np.split(x, 2)[place] for name, x in values.items()}

    return strategy.experimental_distribute_values_from_function(of_replica)


def test_samples_depend_on_the_row_of_the_global_batch(strategy):
    """And not on the number of boxes, which differs between replicas."""
    seeds = []
    for scope in (None, strategy):
        with scope.scope() if scope else tf.init_scope():
            seeds.append(keras.random.SeedGenerator(3))
    draw = random_order(seeds[0])
    whole, again = draw((4, 7)), draw((4, 7))
    assert len(np.unique(np.stack([whole, again]))) == 2 * 4 * 7

    @tf.function
    def run():
        draw = random_order(seeds[1])
        first = draw((2, 7))
        return first, draw((2, 5))

    first, second = map(strategy.experimental_local_results, strategy.run(run))
    np.testing.assert_array_equal(np.concatenate(first), whole)
    np.testing.assert_array_equal(np.concatenate(second), np.array(again)[:, :5])


def test_losses_are_divided_by_the_samples_of_all_replicas(strategy):
    """One replica has hardly any samples, and no mask."""
    rng = np.random.default_rng(0)
    used = np.float32([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    values = {
        "objectness": rng.normal(size=(4, 3)),
        "anchor_deltas": rng.normal(size=(4, 3, 4)),
        "anchor_labels": rng.integers(0, 2, (4, 3)),
        "anchor_targets": rng.normal(size=(4, 3, 4)),
        "anchor_weights": used,
        "class_logits": rng.normal(size=(4, 3, 3)),
        "box_deltas": rng.normal(size=(4, 3, 4)),
        "box_classes": np.int32([[2, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]),
        "box_targets": rng.normal(size=(4, 3, 4)),
        "box_weights": used,
        "mask_logits": rng.normal(size=(4, 1, 4, 4)),
        "mask_targets": rng.uniform(size=(4, 1, 4, 4)).round(),
        "mask_weights": np.float32([[1], [1], [0], [0]]),
    }
    values = {
        name: x.astype("float32") if x.dtype == "float64" else x
        for name, x in values.items()
    }
    loss = tasks.DetectionLoss()
    expected = loss.terms(values)

    @tf.function
    def run(outputs):
        return loss.terms(outputs), loss(None, outputs)

    terms, total = strategy.run(run, args=(halves(strategy, values),))
    for name, value in expected.items():
        mean = np.mean(strategy.experimental_local_results(terms[name]))
        assert mean == pytest.approx(float(value), rel=1e-5), name
    total = sum(map(float, strategy.experimental_local_results(total)))
    assert total == pytest.approx(float(loss(None, values)), rel=1e-5)


def test_workers_that_have_not_joined(monkeypatch):
    """They could not exchange their results."""
    for module in (network, whole_images):
        monkeypatch.setattr(module, "spans_workers", lambda strategy=None: True)
    with pytest.raises(ValueError, match="training.strategy_scope.'multi_worker'"):
        detection_worker_script.make()


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """The folder of the results of two workers, and their processes, which run."""
    folder = tmp_path_factory.mktemp("workers")

    def options_of(index):
        log = open(folder / f"log_{index}.txt", "w")
        return {"stdout": log, "stderr": log}

    command = [HERE / "detection_worker_script.py", folder]
    processes = start_workers(2, command, options_of)
    yield folder, processes
    wait_for(processes, 0.1)


@pytest.fixture(scope="module")
def one(workers):
    """The results of one process, which runs eagerly: that takes less time."""
    script = detection_worker_script
    return script.train_and_score(script.make(run_eagerly=True))


def check_equal(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-5, atol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_two_replicas_train_and_score_as_one_process(one, strategy):
    script = detection_worker_script
    with strategy.scope():
        model = script.make()
        check_equal(script.train_and_score(model), one)


@pytest.mark.slow
def test_two_workers_train_and_score_as_one_process(one, workers):
    folder, processes = workers
    codes = wait_for(processes, 300)
    for index in range(2):
        log = (folder / f"log_{index}.txt").read_text()
        assert codes[index] == 0, log[-2000:]
        check_equal(np.load(folder / f"worker_{index}.npz"), one)


@pytest.mark.slow
def test_each_image_is_scored_once(one):
    """Whether the workers divide the images, or all of them have all images."""
    assert 0.2 < one["shares/box_ap"] < 0.9
    assert one["shares/box_ap"] == one["all/box_ap"]
    assert one["shares/mask_ap50"] == one["all/mask_ap50"]
