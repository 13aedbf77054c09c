"""The Python API: imports, the promises of TextGenerator, and bad input."""

import subprocess
import sys

import pytest

import keras_lstmgen as kl


def fresh(code: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code in a new process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_package_imports_neither_tensorflow_nor_keras_nor_numpy() -> None:
    names = "{'tensorflow', 'keras', 'numpy', 'keras_lstmgen.cli'} & set(sys.modules)"
    done = fresh(f"import sys, keras_lstmgen as kl; print({names}, kl.TextGenerator.__name__, 'keras' in sys.modules)")
    assert (done.stdout, done.stderr) == ("set() TextGenerator False\n", "")


def test_every_public_name_can_be_imported_and_is_listed() -> None:
    assert set(kl.__all__) <= set(dir(kl))
    for name in kl.__all__:
        assert getattr(kl, name) is not None


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    for module in (kl, kl.layers):
        with pytest.raises(AttributeError, match="has no attribute 'GRU'"):
            module.GRU  # noqa: B018


def test_a_layer_is_imported_with_tensorflow_on_first_use_without_messages() -> None:
    done = fresh("import sys, keras_lstmgen as kl; kl.layers.LSTM(3); print('tensorflow' in sys.modules)")
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_user_error_is_a_value_error() -> None:
    assert issubclass(kl.UserError, ValueError)
