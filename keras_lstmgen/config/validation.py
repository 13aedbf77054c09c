"""Check whether the values of a recipe fit together. Each error message names the settings in conflict."""

from keras_lstmgen.config.schema import AUTO, CARRIED, FRESH, TABLE_FORMATS, Corpus, Recipe
from keras_lstmgen.utils.errors import UserError

SINGLE_MODEL_ONLY = ("training.sampled_softmax", "model.activation_regularization")  # not possible for ensembles


def check(recipe: Recipe, where: str = "") -> None:
    """Check all rules that relate two or more fields.

    Args:
        recipe: a recipe in which each value is valid by itself.
        where: beginning of the error message, such as ``"recipe.toml: "``.

    Raises:
        UserError: two settings do not fit together, or a required setting is missing.
    """
    _check_limits(recipe, where)
    _check_model(recipe, where)
    _check_copy(recipe, where)
    _check_corpus(recipe.corpus, where)
    _check_labels(recipe.corpus, where)
    _check_state(recipe, where)
    _check_measures(recipe, where)


def _check_limits(recipe: Recipe, where: str) -> None:
    """Check that the training has a limit."""
    if not recipe.training.epochs and not recipe.training.minutes:
        raise UserError(f"{where}training.epochs and training.minutes are both 0; set one of them")


def _check_model(recipe: Recipe, where: str) -> None:
    """Check the requirements of tied weights and of ensembles."""
    sizes = {recipe.model.embedding_size, recipe.model.units} - {AUTO}
    if recipe.model.tied and len(sizes) == 2:
        raise UserError(
            f"{where}model.tied needs model.embedding_size = model.units, "
            f"not {recipe.model.embedding_size} and {recipe.model.units}"
        )
    for name in SINGLE_MODEL_ONLY if recipe.model.members > 1 else ():
        section, key = name.split(".")
        if getattr(getattr(recipe, section), key) > 0:
            raise UserError(f"{where}{name} cannot be combined with model.members above 1; leave out one of them")


def _check_copy(recipe: Recipe, where: str) -> None:
    """Check the requirements of the pointer-generator."""
    if not recipe.model.copy:
        return
    if not recipe.model.attention:
        raise UserError(f"{where}model.copy copies the tokens that attention selects; set model.attention too")
    if recipe.carries:
        raise UserError(f"{where}model.copy needs documents with fresh states: pairs, or training.state = 'fresh'")
    if recipe.model.members > 1 or recipe.training.sampled_softmax:
        name = "model.members above 1" if recipe.model.members > 1 else "training.sampled_softmax"
        raise UserError(f"{where}model.copy cannot be combined with {name}; leave out one of them")


def _check_corpus(corpus: Corpus, where: str) -> None:
    """Check that sources, checksums, fields and documents fit together."""
    if not corpus.source:
        raise UserError(f"{where}corpus.source is empty; give at least one text")
    if len(corpus.sha256) not in (0, len(corpus.source)):
        raise UserError(
            f"{where}corpus.sha256 has {len(corpus.sha256)} checksums for {len(corpus.source)} sources; "
            "give one checksum for each source"
        )
    if corpus.documents in TABLE_FORMATS and not corpus.field:
        raise UserError(f"{where}corpus.documents = '{corpus.documents}' needs corpus.field")
    if len(corpus.field) > 1 and corpus.documents not in TABLE_FORMATS:
        raise UserError(
            f"{where}corpus.field has {len(corpus.field)} names, but corpus.documents = '{corpus.documents}' has no "
            f"fields; set corpus.documents to one of {', '.join(TABLE_FORMATS)}"
        )
    if corpus.documents == "stream" and corpus.unique:
        raise UserError(
            f"{where}corpus.unique has no effect on a stream, which is a single document; set corpus.documents, for "
            "example to 'lines'"
        )


def _check_labels(corpus: Corpus, where: str) -> None:
    """Check that each source has a label, and that the sources are split into documents."""
    if not all(label.strip() for label in corpus.labels):
        raise UserError(f"{where}corpus.labels has a blank label; give a word for each source")
    if corpus.labels and corpus.documents == "stream":
        raise UserError(
            f"{where}corpus.labels needs texts that are split into documents; set corpus.documents, for example to "
            "'lines'"
        )
    for name in ("source", "validation") if corpus.labels else ():
        sources = getattr(corpus, name)
        if sources and len(sources) != len(corpus.labels):
            raise UserError(
                f"{where}corpus.labels has {len(corpus.labels)} labels, but corpus.{name} has {len(sources)} texts; "
                "give one label for each text"
            )


def _check_state(recipe: Recipe, where: str) -> None:
    """Check the settings that need a carried state or a fresh state."""
    corpus, state = recipe.corpus, recipe.training.state
    if not recipe.carries and recipe.training.sampled_softmax:
        documents = "pairs of source and target" if corpus.is_pairs else "training.state = 'fresh'"
        raise UserError(f"{where}training.sampled_softmax cannot be combined with {documents}; leave it out")
    if state == FRESH and corpus.documents == "stream":
        raise _wrong_state(where, state, "stream")
    if state == CARRIED and corpus.is_pairs and corpus.documents != "stream":
        raise _wrong_state(where, state, "pairs")


def _wrong_state(where: str, state: str, documents: str) -> UserError:
    """Return the error for a state that the documents do not allow."""
    return UserError(
        f"{where}training.state = '{state}' cannot be combined with corpus.documents = '{documents}'; leave out "
        "training.state"
    )


def _check_measures(recipe: Recipe, where: str) -> None:
    """Check that each metric of ``evaluate.measures`` can be computed for the documents of the corpus."""
    for name in recipe.evaluate.measures:
        if missing := _missing_documents(name, recipe.corpus):
            raise UserError(f"{where}evaluate.measures: '{name}' needs {missing}")


def _missing_documents(measure: str, corpus: Corpus) -> str:
    """If a corpus lacks the documents that a metric needs, describe these documents; otherwise return ""."""
    if measure == "kind":
        return "" if corpus.labels else "corpus.labels, with a label for each source"
    if measure == "verses":
        has_poems = (bool(corpus.labels) or not corpus.is_pairs) and corpus.documents != "stream"
        return "" if has_poems else "documents that are poems, for example corpus.documents = 'lines'"
    if measure == "ngram":
        return "" if corpus.documents == "stream" else "corpus.documents = 'stream'"
    return "" if corpus.is_pairs else "pairs of source and target, for example corpus.documents = 'pairs'"
