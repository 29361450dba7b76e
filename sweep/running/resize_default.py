"""How images that are not square are resized, if neither the study nor the user says it."""

from pathlib import Path

from sweep.data import DATA_SETS, DataSet
from sweep.data.vtab import is_vtab_task
from sweep.study.declaration import Resize, Study
from sweep.study.structure import OF_TOKENS


def resize_of(study: Study, data: DataSet) -> Resize | None:
    """How images that are not square are resized, if a study does not declare it; None for texts.

    Nearly all images of data sets with a name are square. These sets keep the features that earlier versions cached.
    The protocol of VTAB-1K resizes whole images, and in some of its tasks the edge of an image matters. For
    segmentation and detection, the whole image should be seen.
    """
    if data.kind != "images" or study.resize is not None:
        return study.resize
    if isinstance(study.data, str) and (study.data in DATA_SETS or is_vtab_task(Path(study.data).expanduser())):
        return "squash"
    return "squash" if data.task in OF_TOKENS else "centre"
