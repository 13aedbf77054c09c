"""Check combinations of recipe values. Each check raises UserError and names the settings that do not fit together."""

from keras_lstmgen.config.schema import AUTO, CARRIED, FRESH, TABLE_FORMATS, Corpus, Recipe
from keras_lstmgen.utils.errors import UserError

SINGLE_MODEL_ONLY = ("training.sampled_softmax", "model.activation_regularization")  # not available in an ensemble


def check(recipe: Recipe, where: str = "") -> None:
    """Check all rules that relate two or more fields.

    Args:
        recipe: a recipe whose single values are valid.
        where: beginning of the message, such as ``"recipe.toml: "``.

    Raises:
        UserError: two settings do not fit together, or a required one is missing.
    """
    _check_limits(recipe, where)
    _check_model(recipe, where)
    _check_copy(recipe, where)
    _check_corpus(recipe.corpus, where)
    _check_labels(recipe.corpus, where)
    _check_state(recipe, where)
    _check_measures(recipe, where)


def _check_limits(recipe: Recipe, where: str) -> None:
    if not recipe.training.epochs and not recipe.training.minutes:
        raise UserError(f"{where}training.epochs and training.minutes are both 0: give one limit")


def _check_model(recipe: Recipe, where: str) -> None:
    sizes = {recipe.model.embedding_size, recipe.model.units} - {AUTO}
    if recipe.model.tied and len(sizes) == 2:
        raise UserError(
            f"{where}model.tied needs model.embedding_size = model.units, "
            f"not {recipe.model.embedding_size} and {recipe.model.units}"
        )
    for name in SINGLE_MODEL_ONLY if recipe.model.members > 1 else ():
        section, key = name.split(".")
        if getattr(getattr(recipe, section), key) > 0:
            raise UserError(f"{where}{name} does not go with model.members above 1; leave one of them out")


def _check_copy(recipe: Recipe, where: str) -> None:
    """Check the requirements of the pointer-generator."""
    if not recipe.model.copy:
        return
    if not recipe.model.attention:
        raise UserError(f"{where}model.copy copies the tokens that attention selects: give model.attention")
    if recipe.carries:
        raise UserError(f"{where}model.copy needs documents with fresh states: pairs, or training.state = 'fresh'")
    if recipe.model.members > 1 or recipe.training.sampled_softmax:
        name = "model.members above 1" if recipe.model.members > 1 else "training.sampled_softmax"
        raise UserError(f"{where}model.copy does not go with {name}; leave one of them out")


def _check_corpus(corpus: Corpus, where: str) -> None:
    if not corpus.source:
        raise UserError(f"{where}corpus.source is empty: name a text")
    if len(corpus.sha256) not in (0, len(corpus.source)):
        raise UserError(f"{where}corpus.sha256 has {len(corpus.sha256)} checksums for {len(corpus.source)} sources")
    if corpus.documents in TABLE_FORMATS and not corpus.field:
        raise UserError(f"{where}corpus.documents = '{corpus.documents}' needs corpus.field")
    if len(corpus.field) > 1 and corpus.documents not in TABLE_FORMATS:
        raise UserError(f"{where}corpus.field has {len(corpus.field)} names: documents = '{corpus.documents}' has none")
    if corpus.documents == "stream" and corpus.unique:
        raise UserError(f"{where}corpus.unique needs documents: a stream is one; give corpus.documents")


def _check_labels(corpus: Corpus, where: str) -> None:
    if not all(label.strip() for label in corpus.labels):
        raise UserError(f"{where}corpus.labels has a blank label: give a word for each source")
    if corpus.labels and corpus.documents == "stream":
        raise UserError(f"{where}corpus.labels needs documents: give corpus.documents, lines for example")
    for name in ("source", "validation") if corpus.labels else ():
        sources = getattr(corpus, name)
        if sources and len(sources) != len(corpus.labels):
            raise UserError(f"{where}corpus.labels has {len(corpus.labels)} words for {len(sources)} in corpus.{name}")


def _check_state(recipe: Recipe, where: str) -> None:
    """Check the settings that need a carried state, or a fresh one."""
    corpus, state = recipe.corpus, recipe.training.state
    if not recipe.carries and recipe.training.sampled_softmax:
        documents = "pairs of source and target" if corpus.is_pairs else "training.state = 'fresh'"
        raise UserError(f"{where}training.sampled_softmax does not go with {documents}; leave it out")
    if state == FRESH and corpus.documents == "stream":
        raise _wrong_state(where, state, "stream")
    if state == CARRIED and corpus.is_pairs and corpus.documents != "stream":
        raise _wrong_state(where, state, "pairs")


def _wrong_state(where: str, state: str, documents: str) -> UserError:
    return UserError(
        f"{where}training.state = '{state}' does not go with corpus.documents = '{documents}'; leave it out"
    )


def _check_measures(recipe: Recipe, where: str) -> None:
    """Check that each metric is defined for the documents."""
    for name in recipe.evaluate.measures:
        if missing := _missing_documents(name, recipe.corpus):
            raise UserError(f"{where}evaluate.measures: '{name}' needs {missing}")


def _missing_documents(measure: str, corpus: Corpus) -> str:
    """Return the documents that a metric needs and the corpus does not have, or ""."""
    if measure == "kind":
        return "" if corpus.labels else "corpus.labels, a label for each source"
    if measure == "verses":
        has_poems = (bool(corpus.labels) or not corpus.is_pairs) and corpus.documents != "stream"
        return "" if has_poems else "one poem for each document: corpus.documents = 'lines'"
    if measure == "ngram":
        return "" if corpus.documents == "stream" else "one text: corpus.documents = 'stream'"
    return "" if corpus.is_pairs else "pairs of source and target: corpus.documents"
