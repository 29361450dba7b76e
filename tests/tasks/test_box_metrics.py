"""Metrics of detection: by hand, and with the package's own reading of a file in COCO's format."""

import json
from pathlib import Path

import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster

from sweep.tasks.box_metrics import detection_metrics, precision_of_images, resampled_ap
from sweep.tasks.kinds import DETECTION
from sweep.tasks.targets import Target

N_LANES, N_IMAGES, N_CLASSES, M, D = 2, 9, 3, 4, 8


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return detections (N, n, D, 6), many of them near a box, and boxes (n, M, 6), some of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(N_IMAGES, M, 6)
    labels[..., 0] = torch.randint(N_CLASSES, (N_IMAGES, M), generator=generator)
    low = torch.rand(N_IMAGES, M, 2, generator=generator) * 0.6
    labels[..., 1:5] = torch.cat([low, low + 0.1 + torch.rand(N_IMAGES, M, 2, generator=generator) * 0.3], -1)
    labels[..., 5] = torch.rand(N_IMAGES, M, generator=generator) < 0.2
    labels[2, 1:] = torch.tensor([-1.0, 0, 0, 0, 0, 0])
    labels[5] = torch.tensor([-1.0, 0, 0, 0, 0, 0])
    which = torch.randint(M, (N_LANES, N_IMAGES, D), generator=generator)
    found = labels.expand(N_LANES, -1, -1, -1).gather(2, which.unsqueeze(-1).expand(-1, -1, -1, 6)).clone()
    found[..., 1:5] += 0.05 * torch.randn(N_LANES, N_IMAGES, D, 4, generator=generator)
    found[..., 3:5] = torch.maximum(found[..., 3:5], found[..., 1:3] + 0.01)
    found[..., 5] = torch.rand(N_LANES, N_IMAGES, D, generator=generator).sort(-1, descending=True).values
    found[:, 7, 3:] = torch.tensor([-1.0, 0, 0, 0, 0, 0])
    return found, labels


def measured_from_files(found: torch.Tensor, labels: torch.Tensor, folder: Path) -> list[float]:
    """AP, AP50 and AR of one lane, as the package gives them for the two files that people compare."""
    boxes, results = [], []
    for image in range(len(labels)):
        for rows, out in ((labels[image], boxes), (found[image], results)):
            for label, x0, y0, x1, y1, last in rows[rows[:, 0] >= 0].double().tolist():
                bbox = [640 * x0, 640 * y0, 640 * (x1 - x0), 640 * (y1 - y0)]
                row = {"image_id": image, "category_id": int(label) + 1, "bbox": bbox}
                if out is boxes:
                    out.append({**row, "id": len(out) + 1, "iscrowd": int(last), "area": bbox[2] * bbox[3]})
                else:
                    out.append({**row, "score": last})
    categories = [{"id": number + 1, "name": str(number)} for number in range(N_CLASSES)]
    images = [{"id": image, "width": 640, "height": 640} for image in range(len(labels))]
    (folder / "true.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": boxes}))
    (folder / "said.json").write_text(json.dumps(results))
    true = COCO(str(folder / "true.json"))
    evaluated = COCOeval_faster(true, true.loadRes(str(folder / "said.json")), iouType="bbox")
    evaluated.run()
    stats = evaluated.stats_as_dict
    return [stats["AP_all"], stats["AP_50"], stats["AR_third"]]


def test_metrics_are_those_of_the_package_for_files_of_coco(tmp_path: Path) -> None:
    found, labels = drawn()
    metrics = detection_metrics(found, labels)
    for lane in range(N_LANES):
        expected = measured_from_files(found[lane], labels, tmp_path)
        assert [metrics[name][lane].item() for name in ("ap", "ap50", "ar")] == pytest.approx(expected)
        assert 0.1 < expected[0] < expected[1] < 1


def test_perfect_detections_have_full_marks_and_none_has_no_marks() -> None:
    _, labels = drawn()
    perfect = labels.clone()
    perfect[..., 5] = 0.9
    nothing = torch.zeros_like(perfect)
    nothing[..., 0] = -1
    metrics = detection_metrics(torch.stack([perfect, nothing]), labels)
    assert [metrics[name].tolist() for name in ("ap", "ap50", "ar", "missed")] == [[1, 0], [1, 0], [1, 0], [0, 1]]
    scores = precision_of_images(torch.stack([perfect, nothing]), labels)
    has_box = ((labels[..., 0] >= 0) & (labels[..., 5] == 0)).any(-1)
    assert torch.equal(scores[0], torch.ones(N_IMAGES, dtype=torch.float64))
    assert torch.equal(scores[1], (~has_box).double())


def test_missed_boxes_are_counted_by_class() -> None:
    labels = torch.tensor([[[0.0, 0.0, 0.0, 0.2, 0.2, 0], [0, 0.5, 0.5, 0.7, 0.7, 0], [1, 0.7, 0.0, 0.9, 0.3, 0]]])
    found = torch.tensor([[[[0.0, 0.0, 0.0, 0.2, 0.2, 0.7], [1, 0.0, 0.0, 0.2, 0.2, 0.6]]]])
    assert detection_metrics(found, labels)["missed"].item() == pytest.approx((0.5 + 1) / 2)


def test_precision_of_an_image_by_hand() -> None:
    boxes = [[0.0, 0.0, 0.0, 0.4, 0.4, 0], [0, 0.5, 0.5, 0.9, 0.9, 0], [1, 0.0, 0.6, 0.3, 0.9, 1]]
    said = [
        [1.0, 0.05, 0.65, 0.25, 0.85, 0.9],  # in the ignored box: counts nothing
        [0, 0.0, 0.0, 0.4, 0.4, 0.8],  # right
        [0, 0.01, 0.0, 0.41, 0.4, 0.7],  # the box is taken
        [1, 0.5, 0.5, 0.9, 0.9, 0.6],  # of another class
        [0, 0.5, 0.5, 0.9, 0.85, 0.5],  # right
        [-1, 0, 0, 0, 0, 0],
    ]
    score = precision_of_images(torch.tensor([[said]]), torch.tensor([boxes]))
    assert score.item() == pytest.approx((1 / 1 + 2 / 4) / 2)


def test_resampled_ap_is_that_of_the_images_drawn() -> None:
    found, labels = drawn()
    generator = torch.Generator().manual_seed(3)
    resamples = [torch.randint(N_IMAGES, (N_IMAGES,), generator=generator) for _ in range(5)]
    expected = [detection_metrics(found[:1, drawn], labels[drawn])["ap"].item() for drawn in resamples]
    assert resampled_ap(found[0], labels, resamples) == pytest.approx(expected)
    assert len(set(expected)) > 1


def test_standard_error_is_of_resampled_images() -> None:
    found, labels = drawn()
    error = Target(DETECTION).standard_error(found[0], labels)["ap_error"]
    generator = torch.Generator().manual_seed(0)
    resamples = [torch.randint(N_IMAGES, (N_IMAGES,), generator=generator) for _ in range(200)]
    scores = torch.tensor(resampled_ap(found[0], labels, resamples))
    assert error == pytest.approx(scores.double().std().item())


def test_a_lane_with_an_output_that_is_not_finite_has_no_metrics() -> None:
    found, labels = drawn()
    found[1, 3] = torch.nan
    for values in detection_metrics(found, labels).values():
        assert values.isnan().tolist() == [False, True]
