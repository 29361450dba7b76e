"""Splits of texts in memory."""

from collections.abc import Callable, Sequence

from sweep.data.base import AnyLabels, DataSet, Indices, Split, digest_of
from sweep.data.files import ImageChecker
from sweep.data.labels import Labelled
from sweep.data.splitting import divided

TEXT = "text"
"""Name of the column of texts."""


def text_split(name: str, texts: Sequence[str], labels: AnyLabels, source: Callable[[int], str] | None = None) -> Split:
    """Return a split over texts.

    Args:
        name: name of the split.
        texts: (n,) texts.
        labels: see `Split`.
        source: maps an index to the position of the text; None if there is no name for it.
    """
    kept = tuple(texts)
    return Split(
        name,
        labels,
        lambda index: kept[index],
        lambda: digest_of(["texts", labels.tobytes(), *kept]),
        source,
        kind="texts",
        digester=lambda: [digest_of([text]) for text in kept],
    )


def text_data(
    texts: Sequence[str],
    found: Labelled,
    given: Sequence[str] | None,
    where: Sequence[str],
    *,
    name: str,
    what: str,
    seed: int | None,
) -> DataSet:
    """Make a data set of labelled texts.

    Args:
        texts: (n,) texts.
        found: their labels.
        given: the split of each text; None to split them at random.
        where: the position of each text, for messages.
        name: name of the data set.
        what: source of the texts, for messages and the description.
        seed: seed of the split.

    Raises:
        UsageError: as `divided`.
    """
    labels = found.labels

    def split_of(split: str, members: Indices) -> Split:
        chosen = members.tolist()
        return text_split(split, [texts[i] for i in chosen], labels[members], lambda index: where[chosen[index]])

    return divided(
        labels,
        found.names,
        given,
        split_of,
        name=name,
        what=what,
        seed=seed,
        checker=ImageChecker("error"),
        task=found.task,
        kind="texts",
    )
