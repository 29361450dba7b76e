"""Turns a study's label words into the weights that heads start with."""

from backbones import Backbone
from backbones.label_words import rows_of_words
from sweep.data import DataSet
from sweep.errors import UsageError
from sweep.side_networks.head_start import HeadStart
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.declaration import Study
from sweep.study.label_words import words_of
from sweep.tasks.kinds import CLASSES, MULTI_LABEL

TOKENS_ONLY = ("tokens", "compact")
"""Read-outs without a path from the last stage to the logits."""


def head_start_of(study: Study, data: DataSet, backbone: Backbone, spec: SideNetworkSpec) -> HeadStart | None:
    """The weights that heads start with; None if the study has no label words.

    Args:
        study: The study with the declarations of a shape.
        data: The data, whose classes have names.
        backbone: The backbone of the shape.
        spec: The structure of its side-networks.

    Raises:
        UsageError: The task has no classes, the head does not read the last stage, or the backbone or a class has no
            words.
    """
    if study.label_words is False:
        return None
    remedy = "leave --label-words out"
    if data.task not in (CLASSES.name, MULTI_LABEL.name):
        raise UsageError(f"--label-words needs classes with names, and {data.name} is for {data.task}; {remedy}")
    if spec.is_own or spec.read_out in TOKENS_ONLY:
        what = "the study's own side-network" if spec.is_own else f"--read-out {spec.read_out}"
        raise UsageError(
            f"--label-words needs a head that reads the last stage, and {what} has none; {remedy}, or give another "
            f"--side-network or --read-out pooled"
        )
    return HeadStart(*rows_of_words(backbone, words_of(study.label_words, data.class_names)))
