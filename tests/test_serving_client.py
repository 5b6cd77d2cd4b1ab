"""The client, with local servers of both protocols."""

import base64
import concurrent.futures
import http.server
import json
import socket
import sys
import threading

import example_scripts
import grpc
import keras
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import keras_resadapt
from keras_resadapt import export

sys.path.insert(0, example_scripts.EXAMPLES)
import serving_client  # noqa: E402

pytestmark = pytest.mark.slow  # a server, and an export for it

NAMES = [f"class {i} é" for i in range(7)]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def signatures(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = keras_resadapt.RSNet18(
        num_classes=7,
        resolutions=(24, 16),
        depths=(1, 1),
        filters=(8, 16),
        stem="small",
    )
    path = tmp_path_factory.mktemp("pets") / "1"
    export.export_saved_model(model, path, NAMES, warmup_batch_sizes=())
    return tf.saved_model.load(str(path)).signatures


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A JPEG and a PNG file."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = tf.random.Generator.from_seed(0)
    for name, encode in (
        ("a.jpg", tf.io.encode_jpeg),
        ("b.png", tf.io.encode_png),
    ):
        image = generator.uniform((30, 40, 3), 0, 256, tf.int32)
        file = encode(tf.cast(image, tf.uint8)).numpy()
        (folder / name).write_bytes(file)
    return [str(folder / "a.jpg"), str(folder / "b.png")]


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """A gRPC service like that of TensorFlow Serving, for a loaded SavedModel."""

    def __init__(self, signatures):
        self.signatures = signatures
        self.requests = []

    def Predict(self, request, context):  # noqa: N802, the protocol's name
        spec = request.model_spec
        self.requests.append((spec.name, spec.signature_name))
        if spec.name != "pets":
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Servable not found for request: Latest({spec.name})",
            )
        if spec.signature_name not in self.signatures:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{spec.signature_name}" not found.',
            )
        inputs = {
            key: tf.constant(tf.make_ndarray(value))
            for key, value in request.inputs.items()
        }
        try:
            outputs = self.signatures[spec.signature_name](**inputs)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        response = predict_pb2.PredictResponse()
        for key, value in outputs.items():
            if key in (request.output_filter or outputs):
                response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response


class RestHandler(http.server.BaseHTTPRequestHandler):
    """`POST /v1/models/pets:predict` in the row format."""

    def do_POST(self):  # noqa: N802, the name http.server looks for
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            self._respond(200, self._predict(json.loads(body)))
        except LookupError as error:
            self._respond(404, {"error": error.args[0]})
        except ValueError as error:
            self._respond(400, {"error": str(error)})
        except tf.errors.InvalidArgumentError as error:
            self._respond(400, {"error": error.message})

    def _predict(self, request):
        if self.path != "/v1/models/pets:predict":
            raise LookupError(f"Servable not found for request: {self.path}")
        name = request["signature_name"]
        if name not in self.server.signatures:
            raise ValueError(
                f'Serving signature name: "{name}" not found in signature def'
            )
        images = [
            base64.b64decode(row["b64"], validate=True) for row in request["instances"]
        ]
        outputs = self.server.signatures[name](images=tf.constant(images))
        return {
            "predictions": [
                {
                    "classes": [name.decode() for name in classes],
                    "probabilities": [float(p) for p in probabilities],
                }
                for classes, probabilities in zip(
                    outputs["classes"].numpy(), outputs["probabilities"].numpy()
                )
            ]
        }

    def _respond(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def service(signatures):
    """The service, with its address."""
    service = PredictionService(signatures)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service
    server.stop(None).wait()


@pytest.fixture(scope="module")
def rest_address(signatures):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RestHandler)
    server.signatures = signatures
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["--grpc", "--rest"])
def run_client(request, service, rest_address):
    """Returns a function that runs the client's `main` with one protocol."""
    address = service.address if request.param == "--grpc" else rest_address

    def run_client(*arguments, address=address, model="pets"):
        serving_client.main(
            [
                f"--address={address}",
                request.param,
                f"--model={model}",
                *arguments,
            ]
        )

    return run_client


def expected(signatures, name, files):
    """Returns what the client must print, computed with the SavedModel."""
    images = tf.constant(serving_client.read_pictures(files))
    outputs = signatures[name](images=images)
    lines = []
    for file, probabilities in zip(files, outputs["probabilities"].numpy()):
        lines.append(file)
        best = sorted(range(7), key=lambda i: -probabilities[i])[:5]
        lines += [f"  {probabilities[i]:7.2%}  {NAMES[i]}" for i in best]
    return "\n".join(lines) + "\n"


def test_prints_the_top_classes(run_client, signatures, files, capsys):
    run_client("--signature=r16", "--images", *files)
    assert capsys.readouterr().out == expected(signatures, "r16_encoded", files)


def test_default_signature(run_client, signatures, files, capsys):
    run_client("--images", files[1])
    assert capsys.readouterr().out == expected(signatures, "r24_encoded", files[1:])


def test_grpc_is_the_default(service, files, capsys):
    serving_client.main(
        ["--address", service.address, "--model", "pets", "--images", files[0]]
    )
    assert service.requests[-1] == ("pets", "serving_default_encoded")
    assert capsys.readouterr().out.count("\n") == 6


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def error_of(call, *arguments, **kwargs):
    with pytest.raises(SystemExit) as caught:
        call(*arguments, **kwargs)
    message = caught.value.code
    assert isinstance(message, str) and message.startswith("error: ")
    return message


def test_unknown_signature_and_model(run_client, files):
    message = error_of(run_client, "--signature=r99", "--images", *files)
    assert '"r99_encoded" not found' in message
    assert "not found" in error_of(run_client, "--images", *files, model="cars")


def test_no_server(run_client, files):
    address = f"127.0.0.1:{free_port()}"
    message = error_of(run_client, "--images", *files, address=address)
    assert address in message
    assert "refused" in message.lower()


def test_server_that_does_not_respond(run_client, files):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        message = error_of(
            run_client, "--timeout=0.5", "--images", *files, address=address
        )
    assert address in message
    assert "timed out" in message or "DEADLINE_EXCEEDED" in message


def test_wrong_protocol(service, rest_address, files):
    for protocol, address in (
        ("--rest", service.address),
        ("--grpc", rest_address),
    ):
        message = error_of(
            serving_client.main,
            ["--address", address, protocol, "--images", *files],
        )
        assert address in message


def test_bad_files(run_client, files, tmp_path):
    missing = str(tmp_path / "missing.jpg")
    assert missing in error_of(run_client, "--images", files[0], missing)
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    message = error_of(run_client, "--images", files[0], str(text))
    assert "must be a JPEG, PNG" in message


def test_classes_without_names():
    assert serving_client._top([2, 0], [0.25, 0.15, 0.6]) == [
        (2, 0.6),
        (0, 0.25),
    ]
