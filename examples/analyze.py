r"""Draws what a trained network does on a data set.

    python examples/analyze.py --model=runs/demo_msnet/model.keras \
        --beside=runs/demo_rsnet48/model.keras --crop_fraction=1 \
        --output_dir=runs/pictures

Any network:   agreement.png, complementarity.png (two points or more)
               spectrum.png (RSNet and MSNet, and those given by --beside)
An RSNet:      bn_statistics.png, and resolutions.png with those by --beside
A cascade:     difficulty.png, on the demo set and with --thresholds
"""

import os

import keras
import numpy as np
from absl import app, flags

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt
from keras_resadapt import analysis, data, inference

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The `.keras` file.", required=True)
flags.DEFINE_list("beside", [], "More `.keras` files, to compare it with.")
flags.DEFINE_string("thresholds", None, "Of the cascade, the JSON file.")
flags.DEFINE_string("dataset", "demo", "As for train_ranet.py.")
flags.DEFINE_string("data_dir", None, "As for train_ranet.py.")
flags.DEFINE_float("crop_fraction", 0.875, "As for train_ranet.py.")
flags.DEFINE_string("output_dir", "runs/pictures", "Where the pictures go.")


def name_of(path: str) -> str:
    """The folder's name, which tells runs apart."""
    return os.path.basename(os.path.dirname(os.path.abspath(path)))


def extrapolating(model):
    """The same RSNet, but it also runs outside its trained resolutions."""
    copy = type(model).from_config({**model.get_config(), "extrapolate": True})
    copy.set_weights(model.get_weights())
    return copy


def main(_):
    networks = {
        name_of(path): keras.models.load_model(path)
        for path in [FLAGS.model, *FLAGS.beside]
    }
    model = networks[name_of(FLAGS.model)]
    source = data.load_source(FLAGS.dataset, "validation", FLAGS.data_dir)
    rsnets = {
        name: network
        for name, network in networks.items()
        if isinstance(network, keras_resadapt.RSNet)
    }

    def batches(resolutions):
        return data.evaluation_batches(
            source, 100, resolutions, crop_fraction=FLAGS.crop_fraction
        )

    def picture(name):
        print(f"{name}.png")
        return os.path.join(FLAGS.output_dir, f"{name}.png")

    os.makedirs(FLAGS.output_dir, exist_ok=True)
    if len(model.operating_points) > 1:
        views = batches(
            model.resolutions if model in rsnets.values() else model.resolution
        )
        analysis.plot_agreement(model, views, picture("agreement"))
        analysis.plot_complementarity(model, views, picture("complementarity"))
    if isinstance(model, (keras_resadapt.RSNet, keras_resadapt.MSNet)):
        analysis.plot_feature_spectrum(
            networks, batches(model.resolutions[0]), picture("spectrum")
        )
    if model in rsnets.values():
        analysis.plot_bn_statistics(model, picture("bn_statistics"))
        resolutions = {r for n in rsnets.values() for r in n.resolutions}
        analysis.plot_resolution_table(
            {name: extrapolating(network) for name, network in rsnets.items()},
            batches(tuple(sorted(resolutions, reverse=True))),
            picture("resolutions"),
        )
    if FLAGS.thresholds and FLAGS.dataset == "demo":
        predictor = inference.AdaptivePredictor(
            model, inference.Thresholds.load(FLAGS.thresholds)
        )
        analysis.plot_exit_difficulty(
            np.concatenate(
                [
                    predictor.predict(images).exits
                    for images, _ in batches(model.resolution)
                ]
            ),
            data.demo_set("validation")[2],
            picture("difficulty"),
            num_exits=model.num_exits,
        )


if __name__ == "__main__":
    app.run(main)
