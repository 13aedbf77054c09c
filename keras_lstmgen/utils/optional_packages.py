"""Import packages that only some metrics of ``evaluate`` need."""

from importlib import import_module
from typing import Any

from keras_lstmgen.utils.errors import UserError

DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # names on PyPI by name of module, if they differ


def import_optional(module: str, measure: str) -> Any:
    """Import a module that is installed with the extra ``measures`` of this package.

    Args:
        module: dotted name of the module.
        measure: name of the metric that needs the module; the error message contains it.

    Returns:
        The imported module.

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
