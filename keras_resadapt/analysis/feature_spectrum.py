"""Which frequencies the last feature maps hold."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resadapt.batches import images_at, labelled_batches
from keras_resadapt.models.msnet import MSNet
from keras_resadapt.models.rsnet import RSNet
from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The mean spectrum of feature maps.

    Attributes:
        magnitude: Mean magnitude of the two-dimensional discrete Fourier
            transform divided by the number of pixels, so that maps of
            different sizes compare, float64 of shape (height, width).
            Frequency 0 is at [height // 2, width // 2], one step is one cycle
            an image.
        profile: Mean magnitude on the ring at a distance from frequency 0 of
            0, 1, ..., cycles an image, rounded.
    """

    magnitude: np.ndarray
    profile: np.ndarray


def last_features(model: keras.Model, images) -> dict[str, Any]:
    """The output of the last convolutional stage, before the pooling.

    Args:
        model: An `RSNet` or an `MSNet`.
        images: Tensor of shape (batch, size, size, 3), or a tuple of them.

    Returns:
        Feature maps by name. For an `RSNet`, those at every resolution. For
        an `MSNet`, the two terms of network H's last sum, which has the same
        size for both (figure 1 of the paper): `"low, upsampled"`, what network
        L has found, and `"high"`, what H adds to it.

    Raises:
        TypeError: For another model.
    """
    if isinstance(model, RSNet):
        return {
            point.name: model.backbone(
                model.preprocessing(images_at(images, point.resolution)),
                point=point,
            )
            for point in model.operating_points
        }
    if isinstance(model, MSNet):
        if isinstance(images, (tuple, list)):
            images = images_at(images, model.resolution)
        point = OperatingPoint()
        state = model.begin(images, point)
        state = model.extend(state, 0, point)
        low = state["low"][-1]
        total = model.extend(state, 1, point)["high"]
        upsampled = model.high.residual(ops.zeros_like(total), low)
        return {"low, upsampled": upsampled, "high": total - upsampled}
    raise TypeError(
        "`last_features` knows RSNet and MSNet; for another network, give a "
        "function of images that returns feature maps. "
        f"Received: {type(model).__name__}"
    )


def feature_spectrum(
    networks: keras.Model | Mapping[str, keras.Model | Callable],
    data: Iterable,
    verbose: bool = True,
) -> dict[str, Spectrum]:
    """The magnitude of the Fourier transform, averaged over maps and images.

    Args:
        networks: An `RSNet`, an `MSNet`, or by name such models and functions
            of images that return feature maps (batch, height, width, channels)
            or a dict of them by name.
        data: Batches of (images, labels); the labels count for nothing.
        verbose: Whether to show the progress.

    Returns:
        A spectrum by name, `"network, features"` for a network of several.

    Raises:
        TypeError: A model that `last_features` does not know.
        ValueError: No networks or data, or feature maps of another shape, of
            changing sizes or of one pixel.
    """
    if isinstance(networks, keras.Model):
        networks = {networks.name: networks}
    if not networks:
        raise ValueError("`networks` must name at least one.")
    sums, counts = {}, {}
    for images, _ in labelled_batches(data, verbose):
        for name, maps in _named_features(networks, images).items():
            maps = ops.convert_to_numpy(ops.cast(maps, "float32"))
            height, width = _check_maps(name, maps, sums)
            transform = np.fft.fft2(maps, axes=(1, 2), norm="forward")
            magnitude = np.abs(transform).sum((0, 3), dtype="float64")
            sums[name] = sums.get(name, 0) + np.fft.fftshift(magnitude)
            counts[name] = counts.get(name, 0) + len(maps) * maps.shape[-1]
    return {
        name: Spectrum(total / counts[name], _profile(total / counts[name]))
        for name, total in sums.items()
    }


def plot_feature_spectrum(
    networks: keras.Model | Mapping[str, keras.Model | Callable],
    data: Iterable,
    path: str | os.PathLike,
    title: str = "",
    verbose: bool = True,
) -> dict[str, Spectrum]:
    """Draws the mean spectra of the last feature maps.

    MSNet, figure 1: a plain network, and the two of an MSNet, of which L keeps
    to low frequencies and H has less of them. Above, the magnitude by
    frequency, all in the same colours, logarithmic; below, its mean by the
    distance from frequency 0.

    Args:
        networks: As for `feature_spectrum`; such as
            `{"ResNet-18": an RSNet of one resolution, "MSNet": an MSNet}`.
        data: As for `feature_spectrum`.
        path: The picture to write.
        title: Above the picture.
        verbose: Whether to show the progress.

    Returns:
        A spectrum by name.

    Raises:
        TypeError, ValueError: As `feature_spectrum`.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    spectra = feature_spectrum(networks, data, verbose)
    largest = max(s.magnitude.max() for s in spectra.values()) or 1.0
    # Below a ten-thousandth there is nothing but rounding.
    smallest = max(largest * 1e-4, min(s.magnitude.min() for s in spectra.values()))
    norm = LogNorm(min(smallest, 0.5 * largest), largest, clip=True)
    reach = max(max(s.magnitude.shape) // 2 for s in spectra.values()) + 0.5

    figure = Figure(
        figsize=(max(6.5, 1 + 2.8 * len(spectra)), 6.5),
        dpi=120,
        layout="constrained",
    )
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1))
    panels = upper.subplots(1, len(spectra), squeeze=False)[0]
    for axes, (name, spectrum) in zip(panels, spectra.items()):
        height, width = spectrum.magnitude.shape
        bottom, left = -(height // 2) - 0.5, -(width // 2) - 0.5
        image = axes.imshow(
            spectrum.magnitude,
            norm=norm,
            cmap="magma",
            extent=(left, left + width, bottom + height, bottom),
        )
        axes.set(xlim=(-reach, reach), ylim=(reach, -reach))
        axes.set_facecolor("0.85")  # frequencies that small maps lack
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("cycles an image")
    upper.colorbar(image, ax=panels, label="mean magnitude", shrink=0.8)
    axes = lower.add_subplot()
    for name, spectrum in spectra.items():
        axes.plot(spectrum.profile, marker=".", label=name)
    axes.set_yscale("log")
    axes.set_xlabel("distance from frequency 0 (cycles an image)")
    axes.set_ylabel("mean magnitude")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(title)
    figure.savefig(path)
    return spectra


def _named_features(networks, images) -> dict[str, Any]:
    """The features of all networks, under names that tell them apart."""
    named = {}
    for name, network in networks.items():
        if isinstance(network, keras.Model):
            features = last_features(network, images)
        else:
            features = network(images)
        if not isinstance(features, Mapping):
            named[name] = features
        elif len(features) == 1:
            (named[name],) = features.values()
        else:
            named.update({f"{name}, {k}": x for k, x in features.items()})
    return named


def _check_maps(name, maps, sums):
    if maps.ndim != 4 or maps.shape[1] * maps.shape[2] < 2:
        raise ValueError(
            "Feature maps must have shape (batch, height, width, channels) "
            f"and more than one pixel. Received: {maps.shape} from {name!r}"
        )
    if name in sums and sums[name].shape != maps.shape[1:3]:
        raise ValueError(
            f"The feature maps of {name!r} must have one size in all batches. "
            f"Received: {sums[name].shape} and {maps.shape[1:3]}"
        )
    return maps.shape[1:3]


def _profile(magnitude):
    """Means on the rings that are inside the spectrum all around."""
    height, width = magnitude.shape
    rows, columns = np.indices(magnitude.shape)
    distance = np.hypot(rows - height // 2, columns - width // 2)
    ring = np.rint(distance).astype(int).ravel()
    means = np.bincount(ring, magnitude.ravel()) / np.bincount(ring)
    return means[: min(height, width) // 2 + 1]
