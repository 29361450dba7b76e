"""Folders of images with boxes, in the layouts of Pascal VOC and COCO: how they are read, and every mistake in them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sweep.data import DataSet, load_data
from sweep.data.base import SkippedBox
from sweep.data.summary import summary
from sweep.errors import SweepError, UsageError

SIZE = (60, 40)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "bccd"
IDS = {"cup": 7, "<plate>": 3}
"""Ids of categories. They are not contiguous, and not in order of name."""

BoxRow = tuple[str, float, float, float, float]

ROWS: dict[str, list[BoxRow]] = {
    f"{number}": [("cup", number, 2, number + 20, 30), ("<plate>", 30, 5, 55, 10 + number)][: 1 + number % 2]
    for number in range(9)
} | {"nothing": []}


def save_image(path: Path, seed: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(seed.encode())).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def xml_of(rows: list[BoxRow], size: tuple[int, int] = SIZE, filename: str = "another.png") -> str:
    """An annotation, whose file name is wrong."""
    objects = "".join(
        f"<object><name>{name.replace('<', '&lt;').replace('>', '&gt;')}</name><difficult>{int(left == 30)}</difficult>"
        f"<bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, left, top, right, bottom in rows
    )
    width, height = size
    return (
        f"<annotation><filename>{filename}</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{objects}</annotation>"
    )


def save_voc(root: Path, *, lists: bool = True) -> Path:
    (root / "Annotations").mkdir(parents=True)
    for name, rows in ROWS.items():
        save_image(root / "JPEGImages" / f"{name}.jpg", name)
        (root / "Annotations" / f"{name}.xml").write_text(xml_of(rows))
    if lists:
        (root / "ImageSets" / "Main").mkdir(parents=True)
        parts = {"train": list(ROWS)[:5], "val": list(ROWS)[5:7], "test": list(ROWS)[7:]}
        for split, names in {**parts, "trainval": list(ROWS)[:7]}.items():
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n\n")
        (root / "ImageSets" / "Main" / "cup_train.txt").write_text("0 -1\n")
    return root


def coco_of(names: list[str], suffix: str = ".jpg") -> dict[str, Any]:
    return {
        "images": [
            {"id": 100 + place, "file_name": f"{name}{suffix}", "width": SIZE[0], "height": SIZE[1]}
            for place, name in enumerate(names)
        ],
        "categories": [{"id": number, "name": name, "supercategory": "table"} for name, number in IDS.items()],
        "annotations": [
            {
                "id": number,
                "image_id": 100 + place,
                "category_id": IDS[row[0]],
                "bbox": [row[1], row[2], row[3] - row[1], row[4] - row[2]],
                "iscrowd": int(row[1] == 30),
            }
            for number, (place, row) in enumerate(
                (place, row) for place, name in enumerate(names) for row in ROWS[name]
            )
        ],
    }


PARTS = {"train": list(ROWS)[:5], "val": list(ROWS)[5:7], "test": list(ROWS)[7:]}


def save_coco(root: Path, layout: str = "instances") -> Path:
    """Save all images in one of the layouts."""
    for split, names in PARTS.items():
        own = root / split.replace("val", "valid")
        file, images = {
            "instances": (root / "annotations" / f"instances_{split}2017.json", root / "images" / f"{split}2017"),
            "beside": (own / "_annotations.coco.json", own),
            "folders": (root / split / "annotations.json", root / split / "images"),
            "one folder": (root / "annotations" / f"{split}.json", root / "images"),
        }[layout]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(coco_of(names)))
        for name in names:
            save_image(images / f"{name}.jpg", name)
    return root


def read(root: Path, **options: Any) -> DataSet:
    return load_data(str(root), **{"seed": 0, "cache_dir": root.parent / "cache", **options})


def contents(data: DataSet) -> dict[str, list[Any]]:
    """The boxes of each image, by name of the image."""
    found = {}
    for split in (data.train, data.val, data.test):
        assert split.boxes is not None
        for index in range(split.n_images):
            own = split.boxes(index)
            assert own.size == split.open(index).size == SIZE
            assert split.labels[index].tolist() == own.counts(data.n_classes).tolist()
            named = [data.class_names[number] for number in own.classes]
            rows = zip(named, own.corners.tolist(), own.ignored.tolist(), strict=True)
            found[Path(split.source(index)).stem] = list(rows)
    return found


EXPECTED = {name: [(row[0], list(row[1:]), row[1] == 30) for row in rows] for name, rows in ROWS.items()}


def test_voc_as_given(tmp_path: Path) -> None:
    data = read(save_voc(tmp_path / "voc"))
    assert (data.task, data.class_names) == ("detection", ("<plate>", "cup"))
    assert contents(data) == EXPECTED
    assert [split.n_images for split in (data.train, data.val, data.test)] == [5, 2, 3]
    assert {split.most_boxes for split in (data.train, data.val, data.test)} == {2}
    assert "classes: 2 (<plate> 0, cup 5); train 5, val 2, test 3" in summary(data)


def test_voc_split_at_random(tmp_path: Path) -> None:
    data = read(save_voc(tmp_path / "voc", lists=False))
    assert contents(data) == EXPECTED
    assert [split.n_images for split in (data.train, data.val, data.test)] == [6, 2, 2]
    assert read(tmp_path / "voc", seed=None).test.n_images == len(ROWS)


def test_voc_with_train_and_val_in_one_list(tmp_path: Path) -> None:
    root = save_voc(tmp_path / "voc")
    for split in ("train", "val"):
        (root / "ImageSets" / "Main" / f"{split}.txt").unlink()
    data = read(root)
    assert [split.n_images for split in (data.train, data.val, data.test)] == [6, 1, 3]


def test_names_of_classes_in_a_file(tmp_path: Path) -> None:
    root = save_voc(tmp_path / "voc")
    (root / "classes.txt").write_text("cup\n<plate>\nspoon\n")
    assert read(root).class_names == ("cup", "<plate>", "spoon")
    assert contents(read(root)) == EXPECTED
    (root / "classes.txt").write_text("cup\n")
    with pytest.raises(UsageError, match=r"1\.xml: object 2 \(<plate>, 30 5 to 55 11\) has a class that is not among"):
        read(root)


@pytest.mark.parametrize("layout", ["instances", "beside", "folders", "one folder"])
def test_coco_in_every_layout(tmp_path: Path, layout: str) -> None:
    data = read(save_coco(tmp_path / "coco", layout))
    assert (data.task, data.class_names) == ("detection", ("<plate>", "cup")), "in order of id"
    assert contents(data) == EXPECTED
    assert [split.n_images for split in (data.train, data.val, data.test)] == [5, 2, 3]


@pytest.mark.parametrize("file", ["annotations.json", "_annotations.coco.json", "annotations/instances_default.json"])
def test_coco_in_one_file(tmp_path: Path, file: str) -> None:
    for name in ROWS:
        save_image(tmp_path / "coco" / "images" / f"deep/{name}.png", name)
    path = tmp_path / "coco" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps(coco_of([f"{name}" for name in ROWS], ".png").copy()).replace(
            '"file_name": "', '"file_name": "deep/'
        )
    )
    data = read(tmp_path / "coco")
    assert contents(data) == EXPECTED
    assert [split.n_images for split in (data.train, data.val, data.test)] == [6, 2, 2]
    assert read(tmp_path / "coco", task="detection").train.fingerprint == data.train.fingerprint


def test_a_category_above_others_is_no_class(tmp_path: Path) -> None:
    root = save_coco(tmp_path / "coco")
    for path in (root / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"].insert(0, {"id": 0, "name": "table", "supercategory": "none"})
        path.write_text(json.dumps(content))
    assert read(root).class_names == ("<plate>", "cup")


@pytest.mark.parametrize("save", [save_voc, save_coco])
def test_a_changed_box_changes_the_fingerprint_of_its_split(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    root = save(tmp_path / "root")
    before = read(root)
    for path in root.rglob("*"):
        if path.name in ("8.xml", "instances_test2017.json"):
            path.write_text(re.sub(r"(<xmin>|\[)8(?=\D)", r"\g<1>7", path.read_text()))
    after = read(root)
    assert after.train.fingerprint == before.train.fingerprint
    assert after.test.fingerprint != before.test.fingerprint


def test_boxes_are_cut_off_at_the_edge(tmp_path: Path) -> None:
    root = save_voc(tmp_path / "voc")
    (root / "Annotations" / "0.xml").write_text(xml_of([("cup", -3, 2, 70, 40.5)]))
    assert contents(read(root))["0"] == [("cup", [0, 2, 60, 40], False)]


FAULTY: dict[str, tuple[list[BoxRow], str]] = {
    "no area": ([("cup", 5, 5, 5, 9), ("cup", 1, 1, 4, 4)], r"object 1 \(cup, 5 5 to 5 9\) has no area"),
    "swapped": ([("cup", 9, 5, 5, 9), ("cup", 1, 1, 4, 4)], r"object 1 .* has no area"),
    "outside": ([("cup", 1, 1, 4, 4), ("cup", 60, 5, 80, 9)], r"object 2 .* is outside of its image .* 60 x 40"),
    "twice": ([("cup", 1, 1, 4, 4), ("cup", 1, 1, 4, 4)], r"object 2 .* is there twice: object 1 is the same"),
    "nan": ([("cup", 1, 1, 4, 4), ("cup", 1, 1, float("nan"), 4)], r"object 2 .* are not finite numbers"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_box_that_cannot_be_used(tmp_path: Path, fault: str) -> None:
    root = save_voc(tmp_path / "voc")
    rows, said = FAULTY[fault]
    (root / "Annotations" / "0.xml").write_text(xml_of(rows))
    with pytest.raises(SweepError, match=rf"0\.xml: {said}.* leave it out with --on-bad-image skip"):
        read(root)
    data = read(root, on_bad_image="skip")
    assert contents(data) == EXPECTED | {"0": [("cup", [1, 1, 4, 4], False)]}
    (skipped,) = data.skipped
    assert isinstance(skipped, SkippedBox)
    assert (skipped.path, bool(re.match(said, skipped.reason))) == (str(root / "Annotations" / "0.xml"), True)


def test_all_boxes_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    root = save_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for number in (0, 3):
        content["annotations"][number]["bbox"][2] = 0
    path.write_text(json.dumps(content))
    with pytest.raises(SweepError, match=r"(?s)cannot use 2 boxes.*annotations\[0\].*annotations\[3\]"):
        read(root)


def without_annotation(root: Path) -> None:
    (root / "Annotations" / "0.xml").unlink()


def without_image(root: Path) -> None:
    (root / "JPEGImages" / "0.jpg").unlink()


def of_another_size(root: Path) -> None:
    (root / "Annotations" / "0.xml").write_text(xml_of(ROWS["0"], (40, 60)))


def turned(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(root / "JPEGImages" / "0.jpg") as image:
        image.save(root / "JPEGImages" / "0.jpg", exif=exif)


def broken(root: Path) -> None:
    (root / "Annotations" / "0.xml").write_text(xml_of(ROWS["0"])[:90])


def with_entities(root: Path) -> None:
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(12))
    (root / "Annotations" / "0.xml").write_text(
        f'<!DOCTYPE annotation [<!ENTITY e0 "many">{entities}]><annotation>&e12;</annotation>'
    )


def with_a_file(root: Path) -> None:
    (root / "Annotations" / "0.xml").write_bytes(
        '<!DOCTYPE annotation [<!ENTITY e SYSTEM "file:///etc/hostname">]><annotation>&e;</annotation>'.encode("utf-16")
    )


def without_a_number(root: Path) -> None:
    text = xml_of(ROWS["0"])
    (root / "Annotations" / "0.xml").write_text(text.replace("<xmin>0<", "<xmin>left<"))


def without_a_corner(root: Path) -> None:
    (root / "Annotations" / "0.xml").write_text(xml_of(ROWS["0"]).replace("ymax", "bottom"))


def without_a_name(root: Path) -> None:
    (root / "Annotations" / "0.xml").write_text(xml_of([(" ", 1, 1, 3, 3)]))


SPOILT_FILES = [
    (without_image, r"0\.xml: its image .*0\.jpg does not exist"),
    (of_another_size, r"0\.xml: it says that .*0\.jpg has 40 x 60 pixels, but the image has 60 x 40; "),
    (
        turned,
        r"has 60 x 40 pixels, but the image has 40 x 60; if an EXIF orientation turns it, annotate the upright image",
    ),
    (broken, r"0\.xml: it is not valid XML: "),
    (with_entities, r"0\.xml: it has a document type"),
    (with_a_file, r"0\.xml: it has a document type"),
    (without_a_number, r"0\.xml: <xmin> of object 1 \(cup\) is 'left', not a number"),
    (without_a_corner, r"0\.xml: object 1 \(cup\) has no <ymax> in a <bndbox>"),
    (without_a_name, r"0\.xml: object 1 has no <name>"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT_FILES)
def test_an_annotation_that_cannot_be_used(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(save_voc(tmp_path / "voc"))
    with pytest.raises(SweepError, match=said):
        read(tmp_path / "voc")
    data = read(tmp_path / "voc", on_bad_image="skip")
    assert contents(data) == {name: rows for name, rows in EXPECTED.items() if name != "0"}
    assert len(data.skipped) == 1


def list_again(root: Path) -> None:
    with (root / "ImageSets" / "Main" / "train.txt").open("a") as file:
        file.write("0.jpg\n")


def list_in_two(root: Path) -> None:
    with (root / "ImageSets" / "Main" / "val.txt").open("a") as file:
        file.write("0\n")


def list_unknown(root: Path) -> None:
    with (root / "ImageSets" / "Main" / "val.txt").open("a") as file:
        file.write("unknown\n")


def two_lists(root: Path) -> None:
    (root / "ImageSets" / "Main" / "valid.txt").write_text("0\n")


def two_images(root: Path) -> None:
    save_image(root / "JPEGImages" / "0.png", "0")


def without_boxes(root: Path) -> None:
    for name in PARTS["val"]:
        (root / "Annotations" / f"{name}.xml").write_text(xml_of([]))


def without_test(root: Path) -> None:
    (root / "ImageSets" / "Main" / "test.txt").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_annotation, r"1 of 10 images .* have no annotation, such as .*0\.jpg; put it at .*0\.xml"),
        (list_again, r"train\.txt:7: 0 was listed before, in line 1"),
        (list_in_two, r"train\.txt and .*val\.txt both list 0; splits must not share images"),
        (list_unknown, r"val\.txt:4: 'unknown' is neither in JPEGImages nor in Annotations"),
        (two_lists, r"val\.txt and .*valid\.txt are the same split"),
        (two_images, r"0\.jpg and .*0\.png have the same name"),
        (without_boxes, r"no val image of .* has a box"),
        (without_test, r"has no test images; give train and test"),
    ],
)
def test_mistakes_in_a_voc_folder(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(save_voc(tmp_path / "voc"))
    with pytest.raises(UsageError, match=said):
        read(tmp_path / "voc")


Change = Callable[[dict[str, Any]], object]

SPOILT_CONTENT: list[tuple[Change, str]] = [
    (lambda content: content.pop("annotations"), r"train2017\.json has no list 'annotations'"),
    (lambda content: content["images"].append(3), r"images\[5\] is '3', not an object"),
    (lambda content: content["images"][1].pop("file_name"), r"images\[1\]: its 'file_name' is missing"),
    (lambda content: content["images"][1].update(id=True), r"images\[1\]: its 'id' is True"),
    (lambda content: content["images"][1].update(id=100), r"images\[1\]: its id 100 was there before"),
    (
        lambda content: content["images"][1].update(file_name="0.jpg"),
        r"images\[1\] and .*images\[0\] are both the image .*0\.jpg; drop one of them",
    ),
    (lambda content: content["images"][1].update(file_name="../../away.jpg"), r"away\.jpg leads out of the folder"),
    (lambda content: content["annotations"][2].update(category_id=[]), r"annotations\[2\]: its 'category_id' is \[\]"),
    (lambda content: content["annotations"][2].update(category_id=4), r"there is no category with the id 4"),
    (lambda content: content["annotations"][2].update(image_id=4), r"there is no image with the id 4"),
    (lambda content: content["annotations"][2].update(bbox=[1, 2, 3]), r"its 'bbox' is \[1, 2, 3\], not four numbers"),
    (lambda content: content["annotations"][2].update(bbox=[1, 2, 3, "4"]), r"not four numbers"),
    (lambda content: content["annotations"][2].update(bbox=[1, 2, 10**400, 4]), r"corners that are not finite"),
    (lambda content: content["categories"][0].update(id=3), r"two categories with the id 3"),
    (lambda content: content["categories"][0].update(name="<plate>"), r"two categories with the name '<plate>'"),
    (lambda content: content["images"][1].update(width=61), r"it says that .*1\.jpg has 61 x 40 pixels"),
    (lambda content: content["images"][1].update(file_name="gone.jpg"), r"images\[1\]: its image .*gone\.jpg does not"),
    (
        lambda content: [image.update(file_name=f"x{image['file_name']}") for image in content["images"]],
        r"no image of .*train2017\.json, such as x0\.jpg, is in .*train2017, .*images",
    ),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT_CONTENT)
def test_mistakes_in_a_coco_file(tmp_path: Path, spoil: Change, said: str) -> None:
    root = save_coco(tmp_path / "coco")
    save_image(tmp_path / "coco" / "away.jpg", "away")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(SweepError, match=said):
        read(root)


def test_mistakes_between_coco_files(tmp_path: Path) -> None:
    root = save_coco(tmp_path / "coco", "one folder")
    path = root / "annotations" / "val.json"
    whole = path.read_text()
    path.write_text(whole.replace('"5.jpg"', '"0.jpg"'))
    with pytest.raises(UsageError, match=r"images\[0\] and .*images\[0\] are both .*; splits must not share images"):
        read(root)
    path.write_text(whole[:-9])
    with pytest.raises(SweepError, match=r"cannot read .*val\.json: .*; correct the file"):
        read(root)
    path.write_text(whole)
    path.with_name("valid.json").write_text(whole)
    with pytest.raises(UsageError, match=r"val\.json and .*valid\.json are the same split"):
        read(root)


def test_detection_is_refused_without_boxes(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"detection needs a folder with boxes .*photos is not one"):
        read(photos, task="detection")
    with pytest.raises(UsageError, match=r"count makes .* not detection; .* or give --data a folder with boxes in"):
        load_data("count", seed=0, cache_dir=tmp_path, task="detection")
    (photos / "annotations.json").write_text("{}")
    assert read(photos).task == "classes", "a folder of classes stays one"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the blood cells are not in ../shared/data")
def test_blood_cells() -> None:
    with pytest.raises(SweepError, match=r"(?s)cannot use 2 boxes.*00343\.xml.*00338\.xml"):
        read(SHARED)
    data = read(SHARED, on_bad_image="skip")
    assert data.class_names == ("Platelets", "RBC", "WBC")
    assert [split.n_images for split in (data.train, data.val, data.test)] == [205, 87, 72]
    total = sum(split.labels.sum(0) for split in (data.train, data.val, data.test))
    assert total.tolist() == [361, 4153, 372]
    assert len(data.skipped) == 2
