"""Find the recipes and the clients that are installed with the package, or that are in the checkout."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def folder(name: str) -> Path:
    """Return the folder "pipelines" (recipes) or "export" (clients) of the installed package or of the checkout."""
    inside = PACKAGE / "packaged" / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def recipes() -> dict[str, Path]:
    """Return the paths of the packaged recipes by name, sorted.

    >>> recipes()["quickstart"].name
    'quickstart.toml'
    """
    return {path.stem: path for path in sorted(folder("pipelines").glob("*.toml"))}


def listed_recipes() -> str:
    """Return the names of the packaged recipes as the end of a message: "the packaged recipes are a, b, c"."""
    return f"the packaged recipes are {', '.join(recipes())}"
