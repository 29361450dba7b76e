"""Label words: the words by which a language model's vocabulary scores the classes before any training."""

from collections.abc import Mapping, Sequence

from sweep.errors import UsageError

LabelWords = bool | Mapping[str, str]
"""A study's: whether heads start from the names of the classes, or words by the name of a class."""


def checked_words(declared: object) -> LabelWords:
    """Check what a study declares as `label_words`.

    Raises:
        UsageError: It is neither a boolean, nor maps names to words.
    """
    if isinstance(declared, bool):
        return declared
    if (
        not isinstance(declared, Mapping)
        or not declared
        or not all(isinstance(text, str) for item in declared.items() for text in item)
    ):
        raise UsageError(
            f"label_words must be True, False, or map names of classes to words, not {str(declared)[:60]!r} "
            f"(--label-words, or the study file)"
        )
    return dict(declared)


def words_of(declared: LabelWords, class_names: Sequence[str]) -> tuple[str, ...]:
    """The words of every class. A class without words of its own has its name.

    Raises:
        UsageError: Words are declared for a class that does not exist.
    """
    if isinstance(declared, bool):
        return tuple(class_names)
    if unknown := sorted(declared.keys() - set(class_names)):
        raise UsageError(
            f"label_words has words for {unknown[0]!r}, which is no class of the data; the classes are "
            f"{', '.join(class_names[:20])}"
        )
    return tuple(declared.get(name, name) for name in class_names)
