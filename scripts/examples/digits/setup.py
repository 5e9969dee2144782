from setuptools import setup

setup(
    name="digits-trainer",
    version="1.0.0",
    description="Learns to read the handwritten digits that come with scikit-learn.",
    packages=["trainer"],
    install_requires=["numpy", "scikit-learn", "skl2onnx", "onnx", "tensorboardX", "fsspec"],
)
