"""Packaging of keras_resadapt."""

import setuptools

setuptools.setup(
    name="keras_resadapt",
    version="0.1.0",
    description="Image networks that run at many costs, in Keras 3.",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["keras_resadapt*"]),
    package_data={"keras_resadapt": ["py.typed"]},
    python_requires=">=3.11",
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Typing :: Typed",
    ],
    install_requires=[
        "absl-py",
        "keras>=3.15",
        "matplotlib",
        "numpy>=2",
        "scipy",
        "tensorflow>=2.21",
        "importlib_resources",  # tensorflow-datasets needs it and does not say so
        "tensorflow-datasets>=4.9.10",
        "tensorflow-serving-api>=2.21",
    ],
    extras_require={
        "beam": ["apache-beam", "pyarrow"],
        "detection": ["pycocotools"],
        "jax": ["jax"],
        "litert": ["ai-edge-litert"],
        "quantization": [
            "ai-edge-litert",
            "litert-quantizer",
            "tensorflow-model-optimization>=0.8.1",
            "tf_keras>=2.21",  # what the line above runs on
        ],
        "ray": ["pyarrow", "ray[data]>=2.50,<2.64"],  # 2.64 removes `max_task_retries`
        "torch": ["torch"],  # to read PyTorch files, and to compare speed
        "test": [
            "keras_resadapt[detection,quantization]",
            "jax",
            "mypy",
            "pillow",
            "pytest",
            "pytest-xdist",
            "ruff",
        ],
    },
)
