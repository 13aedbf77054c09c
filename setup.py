"""What setup.cfg cannot say: the LSTM's own code, in C. All else stands there."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "keras_lstmgen.native.lstm",
            sources=["keras_lstmgen/native/lstm.c"],
            depends=["keras_lstmgen/native/tiles.h"],
            extra_compile_args=["-std=gnu11", "-O3", "-pthread"],
            optional=True,  # without a C compiler the rest is installed, and trains by Keras's own loop
        )
    ]
)
