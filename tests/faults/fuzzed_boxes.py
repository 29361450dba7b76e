"""Readers of annotations with boxes, for the fuzz tests."""

import json
from pathlib import Path

from fuzzing import Reader, damaged
from hypothesis import strategies as st
from PIL import Image

from sweep.data import DataSet, load_data

SIZE, N_IMAGES = (9, 7), 8
BAD_IMAGES = st.sampled_from(["error", "skip"])

XML = (
    b'<?xml version="1.0" encoding="utf-8"?><annotation><size><width>9</width><height>7</height></size>'
    b"<object><name>cup</name><difficult>0</difficult>"
    b"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>8.5</xmax><ymax>7</ymax></bndbox></object>"
    b"<object><name>plate</name><bndbox><xmin>2</xmin><ymin>1</ymin><xmax>99</xmax><ymax>7</ymax></bndbox></object>"
    b"</annotation>"
)
WITH_ENTITIES = b'<!DOCTYPE a [<!ENTITY b "cup"><!ENTITY c "&b;&b;">]>' + XML.replace(b"cup", b"&c;")[38:]
JSON = json.dumps(
    {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 9, "height": 7} for n in range(N_IMAGES)],
        "categories": [{"id": 4, "name": "cup", "supercategory": "table"}, {"id": 2, "name": "plate"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 2 + n % 2 * 2, "bbox": [1, 1.5, 4, 3], "iscrowd": n // 7}
            for n in range(N_IMAGES)
        ],
    }
).encode()

Given = tuple[bytes, str]


def read_voc(folder: Path, given: Given) -> None:
    root = folder / "voc"
    if not root.exists():
        (root / "JPEGImages").mkdir(parents=True)
        (root / "Annotations").mkdir()
        for number in range(N_IMAGES):
            Image.new("RGB", SIZE).save(root / "JPEGImages" / f"{number}.png")
            (root / "Annotations" / f"{number}.xml").write_bytes(XML)
    content, on_bad_image = given
    (root / "Annotations" / "0.xml").write_bytes(content)
    check_boxes(load_data(str(root), seed=0, cache_dir=folder, on_bad_image=on_bad_image))  # type: ignore[arg-type]


def read_coco(folder: Path, given: Given) -> None:
    root = folder / "coco"
    if not root.exists():
        (root / "images").mkdir(parents=True)
        for number in range(N_IMAGES):
            Image.new("RGB", SIZE).save(root / "images" / f"{number}.png")
        Image.new("RGB", SIZE).save(folder / "private.png")
        (root / "images" / "out.png").symlink_to(folder / "private.png")
    content, on_bad_image = given
    (root / "annotations.json").write_bytes(content)
    data = load_data(str(root), seed=0, cache_dir=folder, on_bad_image=on_bad_image)  # type: ignore[arg-type]
    check_boxes(data)
    for split in (data.train, data.val, data.test):
        assert split.source is not None
        files = [Path(split.source(index)) for index in range(split.n_images)]
        assert all(file.resolve().is_relative_to(root) for file in files)


def check_boxes(data: DataSet) -> None:
    for split in (data.train, data.val, data.test):
        assert split.boxes is not None
        assert len(split.fingerprint) == 64
        for index in range(split.n_images):
            own = split.boxes(index)
            left, top, right, bottom = own.corners.T
            assert len(own) <= split.most_boxes
            assert ((left >= 0) & (top >= 0) & (left < right) & (top < bottom)).all()
            assert ((right <= SIZE[0]) & (bottom <= SIZE[1])).all()
            assert ((own.classes >= 0) & (own.classes < data.n_classes)).all()
            assert split.labels[index].tolist() == own.counts(data.n_classes).tolist()


def box_readers() -> dict[str, Reader]:
    linked = JSON.replace(b'"3.png"', b'"out.png"')
    return {
        "voc": Reader(
            st.tuples(damaged([XML, XML, WITH_ENTITIES]), BAD_IMAGES), read_voc, 150, 8_000, [(XML, "error")]
        ),
        "coco": Reader(st.tuples(damaged([JSON, JSON, linked]), BAD_IMAGES), read_coco, 150, 8_000, [(JSON, "error")]),
    }
