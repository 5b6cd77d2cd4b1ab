r"""Plots how a trained network behaves on a data set.

    python examples/analyze.py --model=runs/demo_msnet/model.keras \
        --beside=runs/demo_rsnet48/model.keras --crop_fraction=1 \
        --output_dir=runs/plots

Networks with two or more operating points: agreement.png, complementarity.png.
RSNet and MSNet: spectrum.png, together with the networks of --beside.
RSNet: bn_statistics.png, and resolutions.png together with those of --beside.
Cascades, on the demo set and with --thresholds: difficulty.png.
"""

import os

import command_line  # first: it silences TensorFlow
import keras
import numpy as np
import shared_flags
from absl import app, flags

import keras_resadapt
from keras_resadapt import analysis, data, inference

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model", None, "Required. The `.keras` file of the network.", required=True
)
flags.DEFINE_list("beside", [], "Further `.keras` files, for comparison.")
flags.DEFINE_string("thresholds", None, "The thresholds of a cascade, a JSON file.")
flags.DEFINE_string("output_dir", "runs/plots", "The folder for the plots.")


def load_networks() -> dict[str, keras.Model]:
    """Loads the networks, by the names of their folders; --model comes first."""
    networks = {}
    for flag, path in [("model", FLAGS.model), *(("beside", p) for p in FLAGS.beside)]:
        name = os.path.basename(os.path.dirname(os.path.abspath(path)))
        if name in networks:
            raise app.UsageError(
                "--model and --beside must be in folders of different names. "
                f"Received: two folders named {name!r}"
            )
        networks[name] = command_line.load_network(flag, path)
    return networks


def extrapolating(model: keras_resadapt.RSNet) -> keras_resadapt.RSNet:
    """Returns a copy that also runs at resolutions without training."""
    copy = type(model).from_config({**model.get_config(), "extrapolate": True})
    copy.set_weights(model.get_weights())
    return copy


def path_of(name: str) -> str:
    """Returns the path of a plot, and prints its name."""
    print(f"{name}.png")
    return os.path.join(FLAGS.output_dir, f"{name}.png")


def plot_points(model: keras.Model, source: data.ImageSource) -> None:
    """Plots how the operating points of a network differ."""
    views = batches(source, shared_flags.resolutions_of(model))
    analysis.plot_agreement(model, views, path_of("agreement"))
    analysis.plot_complementarity(model, views, path_of("complementarity"))


def plot_resolutions(
    rsnets: dict[str, keras_resadapt.RSNet], source: data.ImageSource
) -> None:
    """Plots the accuracy of RS-Nets at all resolutions of all of them."""
    resolutions = {r for network in rsnets.values() for r in network.resolutions}
    analysis.plot_resolution_table(
        {name: extrapolating(network) for name, network in rsnets.items()},
        batches(source, sorted(resolutions, reverse=True)),
        path_of("resolutions"),
    )


def plot_difficulty(model: keras.Model, source: data.ImageSource) -> None:
    """Plots at which exits the easy and the hard images of the demo set leave."""
    predictor = inference.AdaptivePredictor(
        model, inference.Thresholds.load(FLAGS.thresholds)
    )
    exits = [
        predictor.predict(images).exits
        for images, _ in batches(source, model.resolution)
    ]
    analysis.plot_exit_difficulty(
        np.concatenate(exits),
        data.demo_set("validation")[2],
        path_of("difficulty"),
        num_exits=model.num_exits,
    )


def batches(source: data.ImageSource, resolutions):
    """Returns batches of 100 images."""
    return shared_flags.evaluation_batches(source, 100, resolutions)


def main():
    networks = load_networks()
    model, *_ = networks.values()
    source = shared_flags.load_source("validation")
    rsnets = {
        name: network
        for name, network in networks.items()
        if isinstance(network, keras_resadapt.RSNet)
    }
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    if len(model.operating_points) > 1:
        plot_points(model, source)
    if isinstance(model, keras_resadapt.RSNet | keras_resadapt.MSNet):
        analysis.plot_feature_spectrum(
            networks, batches(source, model.resolutions[0]), path_of("spectrum")
        )
    if isinstance(model, keras_resadapt.RSNet):
        analysis.plot_bn_statistics(model, path_of("bn_statistics"))
        plot_resolutions(rsnets, source)
    if FLAGS.thresholds and FLAGS.dataset == "demo":
        plot_difficulty(model, source)


if __name__ == "__main__":
    command_line.run(main)
