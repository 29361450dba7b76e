"""The report's section on the winner's errors if images have several labels."""

import re
from html import unescape

import numpy as np
from PIL import Image

from sweep.data import Split
from sweep.report.evidence import Evidence
from sweep.report.figures import reliability_diagram
from sweep.report.winner import _most_wrong


def split_of(labels: np.ndarray) -> Split:
    def opener(index: int) -> Image.Image:
        return Image.new("RGB", (8, 8))

    return Split("val", labels, opener, lambda: "f", lambda index: f"/photos/<{index}>.jpg")


def test_largest_errors_of_several_labels() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    values = np.array([[0.9, 0.1], [0.4, 0.8], [0.95, 0.7], [0.2, 0.6]])  # the second and third have a wrong label
    html = _most_wrong(Evidence(values, labels, split_of(labels), "images"), ["cat", "<dog>"])
    assert "2 of 4 val images have a label that was predicted wrongly" in html
    captions = [
        [unescape(re.sub("<[^>]+>", "", line)) for line in caption.split("<br>")]
        for caption in re.findall(r"<figcaption>(.*?)</figcaption>", html)
    ]
    assert captions == [
        ["has no cat (95%)", "has no <dog> (70%)", "val image 2", "/photos/<2>.jpg"],
        ["has cat (40%)", "val image 1", "/photos/<1>.jpg"],
    ]


def test_calibration_shows_how_many_images_a_bin_has() -> None:
    labels = np.array([0, 0, 1, 1, 0])
    values = np.array([[0.95, 0.05], [0.95, 0.05], [0.95, 0.05], [0.3, 0.7], [0.7, 0.3]])
    bars = reliability_diagram(Evidence(values, labels, split_of(labels), "images")).data[0]
    assert dict(zip(np.round(bars.x, 2).tolist(), bars.text, strict=True)) == {0.7: "2", 0.97: "3"}
