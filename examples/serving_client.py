r"""Asks TensorFlow Serving what is in some pictures.

    python examples/serving_client.py --address=localhost:8500 --model=pets \
        --signature=r160 --images a.jpg b.png

gRPC needs the packages `tensorflow-serving-api` and `grpcio`; REST (`--rest`,
port 8501) needs nothing but this file.
"""

import argparse
import base64
import http.client
import json
import sys
import urllib.error
import urllib.request

# A class (a name, or an index) and its probability in [0, 1].
Prediction = tuple[str | int, float]


class ServingError(Exception):
    """The server gave no answer; the message says why."""


def predict_grpc(
    address: str,
    model: str,
    signature: str,
    pictures: list[bytes],
    timeout: float,
) -> list[list[Prediction]]:
    """Asks by gRPC.

    Args:
        address: "host:port".
        model: The name under which the model is served.
        signature: A signature that takes encoded pictures.
        pictures: The bytes of JPEG or PNG files.
        timeout: In seconds, for the whole request.

    Returns:
        The top classes of each picture, the best first.

    Raises:
        ServingError: If there is no answer.
    """
    # Only here: importing these takes seconds.
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(pictures))
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
    pictures: list[bytes],
    timeout: float,
) -> list[list[Prediction]]:
    """Asks by REST; as `predict_grpc`, with `timeout` for each wait."""
    body = {
        "signature_name": signature,
        "instances": [
            {"b64": base64.b64encode(picture).decode()} for picture in pictures
        ],
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
            f"{address}: the answer is not one of TensorFlow Serving ({error!r})"
        ) from error


def _reason(error: urllib.error.HTTPError) -> str:
    body = error.read().decode(errors="replace")
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return body or str(error.reason)


def _top(classes, probabilities) -> list[Prediction]:
    """The classes come the best first, the probabilities in class order."""
    best = sorted((float(p) for p in probabilities), reverse=True)
    return list(zip(classes, best))


def read_pictures(paths: list[str]) -> list[bytes]:
    """Reads files as they are; the server decodes them."""
    pictures = []
    for path in paths:
        with open(path, "rb") as stream:
            pictures.append(stream.read())
    return pictures


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Asks TensorFlow Serving what is in some pictures."
    )
    parser.add_argument("--address", required=True, help="host:port")
    protocol = parser.add_mutually_exclusive_group()
    protocol.add_argument(
        "--grpc", action="store_true", help="ask by gRPC (the default)"
    )
    protocol.add_argument("--rest", action="store_true", help="ask by REST")
    parser.add_argument(
        "--model", default="model", help="name under which it is served"
    )
    parser.add_argument(
        "--signature",
        default="serving_default",
        help="operating point, such as r160; by default the largest",
    )
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds")
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
