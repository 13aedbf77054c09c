"""Import packages that only some measures need."""

from importlib import import_module
from typing import Any

from keras_lstmgen.utils.errors import UserError

DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # names of packages that differ from the name of their module


def import_optional(module: str, measure: str) -> Any:
    """Import a module of the extra ``measures``.

    Args:
        module: dotted name of the module.
        measure: name of the measure that needs it, for the message.

    Raises:
        UserError: the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = str(error.name).partition(".")[0]
        raise UserError(
            f"evaluate.measures: '{measure}' needs the package {DISTRIBUTIONS.get(package, package)}; "
            "pip install 'keras_lstmgen[measures]'"
        ) from error
