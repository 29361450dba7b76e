"""The packaged set `brain-slices`: axial slices of an averaged brain, with the tissue of every pixel."""

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sweep.data.base import DataSet, Split, digest_of
from sweep.data.masks import counted_pixels
from sweep.errors import SweepError
from sweep.machine.packaged_files import fetch_wheel_member
from sweep.tasks.kinds import SEGMENTATION

Volume = npt.NDArray[np.uint8]

PACKAGE, VERSION = "nilearn", "0.14.1"
MEMBER = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
SHA256 = {
    "t1": "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
    "gm": "97a5ca69bd24db37a9cb7b32525e1733a209af904129bf1cd36da06d24243bed",
    "wm": "382d92812de4744f9c86c7a0e4f680dc317a0a50e4da1f0153618a6798c7b7db",
}
SHAPE, HEADER_BYTES, SHAPE_PLACE = (197, 233, 189), 352, 42
CLASS_NAMES = ("background", "grey matter", "white matter", "other")
BACKGROUND, GREY, WHITE, OTHER = range(4)
CERTAIN = 255
"""Value of a tissue map where the tissue is certain."""

FIRST_SLICE, BLOCK_SLICES, GAP_SLICES = 15, 15, 2
BLOCKS = ("train", "test", "train", "val", "train", "test", "train", "val", "train")
"""The split of each block of slices, from below upwards. The last slices of a block are left out."""

NOTICE = (
    "ICBM 152 nonlinear symmetric template, version 2009a (Fonov et al., 2009, 2011; McConnell Brain Imaging Centre, "
    f"Montreal), as carried by {PACKAGE} {VERSION}; free to use, copy and change, with its copyright notice. One "
    "averaged brain: results say nothing about other people's brains."
)


def brain_slices(cache_dir: Path) -> DataSet:
    """Return the packaged set `brain-slices`: 4 tissues, 65 / 26 / 26 slices, always the same split.

    The slices are in blocks of 13, and each block is in one split. Two slices between blocks are left out.

    Raises:
        SweepError: the package that carries the template cannot be fetched.
    """
    t1, grey, white = (_volume(name, cache_dir) for name in SHA256)
    labels = tissues(t1, grey, white)
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for number, part in enumerate(BLOCKS):
        first = FIRST_SLICE + number * BLOCK_SLICES
        parts[part] += range(first, first + BLOCK_SLICES - GAP_SLICES)
    train, val, test = (_split(part, t1, labels, slices) for part, slices in parts.items())
    return DataSet(
        name="brain-slices",
        description=f"axial slices of a brain, {SHAPE[1]} x {SHAPE[1]}, in blocks; the same split for every seed",
        class_names=CLASS_NAMES,
        train=train,
        val=val,
        test=test,
        notice=NOTICE,
        task=SEGMENTATION.name,
    )


def tissues(t1: Volume, grey: Volume, white: Volume) -> Volume:
    """The class of every voxel: background where the image is black, else the likeliest of grey, white and other.

    Args:
        t1: the image.
        grey: probability of grey matter, 255 for certain.
        white: probability of white matter, 255 for certain.
    """
    other = CERTAIN - np.minimum(grey.astype(np.int16) + white, CERTAIN)
    likeliest = np.argmax(np.stack([grey, white, other]), axis=0) + GREY
    classes: Volume = np.where(t1 == 0, BACKGROUND, likeliest).astype(np.uint8)
    return classes


def _split(name: str, t1: Volume, labels: Volume, slices: Sequence[int]) -> Split:
    images, masks = ([_slice(volume, z) for z in slices] for volume in (t1, labels))
    counts = counted_pixels(len(slices), masks.__getitem__)[:, : len(CLASS_NAMES)]
    return Split(
        name,
        counts,
        images.__getitem__,
        lambda: digest_of(["brain-slices", *(image.tobytes() for image in (*images, *masks))]),
        lambda index: f"slice {slices[index]}",
        masks=masks.__getitem__,
    )


def _slice(volume: Volume, z: int) -> Image.Image:
    """An axial slice as a square image: the front of the head above, black at both sides."""
    pixels = volume[:, :, z].T[::-1]
    margin = SHAPE[1] - SHAPE[0]
    return Image.fromarray(np.ascontiguousarray(np.pad(pixels, ((0, 0), (margin // 2, margin - margin // 2)))))


def _volume(name: str, cache_dir: Path) -> Volume:
    member = MEMBER.format(name)
    packed = fetch_wheel_member(PACKAGE, VERSION, member, SHA256[name], cache_dir=cache_dir)
    try:
        content = gzip.decompress(packed)
        shape = struct.unpack_from("<3h", content, SHAPE_PLACE)
        if shape != SHAPE:
            raise ValueError(f"its shape is {shape}, expected {SHAPE}")
        voxels = np.frombuffer(content, np.uint8, count=int(np.prod(SHAPE)), offset=HEADER_BYTES)
        return voxels.reshape(SHAPE, order="F")
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise SweepError(f"cannot read {member} of {PACKAGE} {VERSION}: {error}") from error
