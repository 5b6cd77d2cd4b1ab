r"""Classifies images with TensorFlow Serving.

    python examples/serving_client.py --address=localhost:8500 --model=pets \
        --signature=r160 --images a.jpg b.png

gRPC requires the packages `tensorflow-serving-api` and `grpcio`. REST (`--rest`,
port 8501) requires nothing but this file.
"""

import argparse
import base64
import http.client
import json
import sys
import urllib.error
import urllib.request

# A class (its name or index) and its probability in [0, 1]
Prediction = tuple[str | int, float]


class ServingError(Exception):
    """A request that failed, with the reason."""


def predict_grpc(
    address: str,
    model: str,
    signature: str,
    images: list[bytes],
    timeout: float,
) -> list[list[Prediction]]:
    """Sends a request by gRPC.

    Args:
        address: "host:port".
        model: The name under which the model is served.
        signature: A signature for encoded images.
        images: The contents of JPEG or PNG files.
        timeout: The time limit of the whole request, in seconds.

    Returns:
        The top classes of each image, in decreasing order of probability.

    Raises:
        ServingError: If the request fails.
    """
    # Optional, and REST does not need them
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
    request.output_filter.extend(["classes", "probabilities"])
    with grpc.insecure_channel(
        address, options=[("grpc.max_receive_message_length", -1)]
    ) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            outputs = stub.Predict(request, timeout=timeout).outputs
        except grpc.RpcError as error:
            raise ServingError(
                f"{address} ({error.code().name}): {error.details()}"
            ) from error
    classes = tf.make_ndarray(outputs["classes"])
    if classes.dtype == object:
        classes = [[name.decode() for name in row] for row in classes]
    return [
        _top(*answer)
        for answer in zip(classes, tf.make_ndarray(outputs["probabilities"]))
    ]


def predict_rest(
    address: str,
    model: str,
    signature: str,
    images: list[bytes],
    timeout: float,
) -> list[list[Prediction]]:
    """Sends a request by REST.

    As `predict_grpc`, except that `timeout` applies to each read of the connection.
    """
    body = {
        "signature_name": signature,
        "instances": [{"b64": base64.b64encode(image).decode()} for image in images],
    }
    request = urllib.request.Request(
        f"http://{address}/v1/models/{model}:predict",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            answers = json.load(response)["predictions"]
        return [_top(answer["classes"], answer["probabilities"]) for answer in answers]
    except urllib.error.HTTPError as error:
        raise ServingError(
            f"{address} (HTTP {error.code}): {_reason(error)}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise ServingError(f"{address}: {error or repr(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ServingError(
            f"{address}: the response is not that of TensorFlow Serving ({error!r})"
        ) from error


def _reason(error: urllib.error.HTTPError) -> str:
    body = error.read().decode(errors="replace")
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return body or str(error.reason)


def _top(classes, probabilities) -> list[Prediction]:
    """Pairs the classes, which are sorted, with the probabilities, which are not."""
    best = sorted((float(p) for p in probabilities), reverse=True)
    return list(zip(classes, best))


def read_pictures(paths: list[str]) -> list[bytes]:
    """Returns the contents of image files, which the server decodes."""
    images = []
    for path in paths:
        with open(path, "rb") as stream:
            images.append(stream.read())
    return images


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Classifies images with TensorFlow Serving."
    )
    parser.add_argument("--address", required=True, help="host:port")
    protocol = parser.add_mutually_exclusive_group()
    protocol.add_argument("--grpc", action="store_true", help="use gRPC (the default)")
    protocol.add_argument("--rest", action="store_true", help="use REST")
    parser.add_argument("--model", default="model", help="name of the served model")
    parser.add_argument(
        "--signature",
        default="serving_default",
        help="operating point, such as r160; the largest by default",
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, help="time limit in seconds"
    )
    parser.add_argument("--images", nargs="+", required=True, help="JPEG or PNG files")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    predict = predict_rest if args.rest else predict_grpc
    try:
        answers = predict(
            args.address,
            args.model,
            f"{args.signature}_encoded",
            read_pictures(args.images),
            args.timeout,
        )
    except (OSError, ServingError) as error:
        sys.exit(f"error: {error}")
    for path, answer in zip(args.images, answers):
        print(path)
        for name, probability in answer:
            print(f"  {probability:7.2%}  {name}")


if __name__ == "__main__":
    main()
