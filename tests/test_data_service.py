"""Batches of a tf.data service, whose dispatcher and workers are in this process."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from test_data import numbered_source

from keras_resadapt.data import through_service, training_batches

service = tf.data.experimental.service


@contextlib.contextmanager
def running_service():
    """Runs a dispatcher with two workers, and yields its address."""
    server = service.DispatchServer(service.DispatcherConfig(port=0))
    address = server.target.removeprefix("grpc://")
    workers = [
        service.WorkerServer(service.WorkerConfig(address, heartbeat_interval_ms=200))
        for _ in range(2)
    ]
    try:
        yield server.target
    finally:
        # A worker that outlives its dispatcher waits for it.
        for worker in workers:
            worker._stop()
        server._stop()


@pytest.fixture
def dispatcher():
    with running_service() as address:
        yield address


def batches(**kwargs):
    return training_batches(numbered_source(24), 8, 8, crop="pad", seed=1, **kwargs)


def test_batches_of_a_service(dispatcher):
    """Each is one of the batches of a single process, and none comes twice."""
    found = through_service(batches(), dispatcher)
    assert found.element_spec == batches().element_spec
    found = [(x.numpy().tobytes(), tuple(y.numpy())) for x, y in found.take(12)]
    expected = {(x.numpy().tobytes(), tuple(y.numpy())) for x, y in batches().take(90)}
    assert len(expected) == 90 and len(set(found)) == 12
    assert set(found) <= expected


@pytest.mark.slow
def test_shards_of_a_service(dispatcher):
    """Each worker of the training has its own part of the images of an epoch."""
    parts = [
        through_service(batches(shard=(index, 2)), dispatcher) for index in range(2)
    ]
    for index, part in enumerate(parts):
        own = {tuple(np.array(y)) for _, y in batches(shard=(index, 2)).take(60)}
        found = [tuple(np.array(y)) for _, y in part.take(6)]
        assert all(len(y) == 4 for y in found) and set(found) <= own


@pytest.mark.parametrize(
    "address", ["localhost:1", "grpc://localhost", "grpc://a:0", "grpc://a:99999", None]
)
def test_addresses_that_are_refused(address):
    with pytest.raises(ValueError, match="of the form grpc://HOST:PORT. Received"):
        through_service(batches(), address)


def test_a_service_that_is_not_there():
    with pytest.raises(OSError, match="must listen at grpc://127.0.0.1:9. Received"):
        through_service(batches(), "grpc://127.0.0.1:9")
    with pytest.raises(ValueError, match="must have no end.* Received: 6 batches"):
        through_service(batches(epochs=2), "grpc://127.0.0.1:9")
