"""A stack of lanes in parts that train at the same time: the bits of one stack, with any number of parts."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from backbones import load_backbone
from sweep.data import Split
from sweep.features.batches import StageData
from sweep.features.folds import Folds
from sweep.features.training_data import CachedViews, LiveViews
from sweep.features.views import TrainingViews
from sweep.machine.settings import computing_on
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.training.engine import EpochResult, Lane, Training
from sweep.training.lane_stack import LaneStack, StackSetting, TrialEpoch
from sweep.training.lane_state import LaneState
from sweep.training.parts import in_parts, train_epoch

CPU, N_CLASSES, WIDTH, N_STAGES, TOKENS, N_EPOCHS = torch.device("cpu"), 4, 24, 3, 17, 4


def stage_data(n_images: int, seed: int) -> StageData:
    rng = np.random.default_rng(seed)
    stages = rng.normal(size=(n_images, N_STAGES, TOKENS, WIDTH)).astype(np.float32)
    return StageData(stages, torch.from_numpy(rng.integers(0, N_CLASSES, n_images)), N_CLASSES)


def setting(family: str = "last", folds: int | None = None, **options: Any) -> StackSetting:
    spec = SideNetworkSpec(
        width=WIDTH,
        n_stages=N_STAGES,
        n_classes=N_CLASSES,
        n_prefix_tokens=1,
        modules_per_block=1,
        pool="mean",
        max_rank=4,
        family=family,
        n_tokens=TOKENS,
        **options,
    )
    train = stage_data(21, 0)
    val = train if folds else stage_data(6, 1)
    found = Folds.of(val, folds, 1, 0) if folds else None
    return StackSetting(spec, TOKENS, CachedViews((train,)), val, N_EPOCHS, 8, 0, {}, found)


def lane_states(n_lanes: int, folds: int | None = None) -> list[LaneState]:
    return [
        LaneState(
            LaneConfig(lr=1e-2, rank=1 + seed % 4, dropout=0.1 * (seed % 3), optimizer="sgd" if seed == 2 else "adamw"),
            seed,
            fold=seed % folds if folds else None,
        )
        for seed in range(n_lanes)
    ]


def trained(with_setting: StackSetting, n_threads: int, n_trials: int = 9, folds: int | None = None) -> dict[str, Any]:
    """Train some trials, drop one and take up another in between; return all that the search sees of them."""
    of_trial = folds or 1
    stack = LaneStack(with_setting, CPU)
    states = lane_states((n_trials + 1) * of_trial, folds)
    groups = [states[first : first + of_trial] for first in range(0, len(states), of_trial)]
    with computing_on(n_threads):
        for trial in range(n_trials):
            stack.add(trial, groups[trial])
        epochs = [stack.train_epoch(1).trials, stack.train_epoch(2).trials]
        stack.remove([3])
        stack.add(n_trials, groups[n_trials])
        epochs.append(stack.train_epoch(3).trials)
        weights = [stack.weights(trial) for trial in stack.lanes]
        at_end = stack.states(list(stack.lanes))
    return {"epochs": epochs, "weights": weights, "states": at_end}


def assert_same_epochs(found: list[dict[int, TrialEpoch]], expected: list[dict[int, TrialEpoch]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours) == list(theirs)
        for trial, epoch in ours.items():
            assert (epoch.metrics, epoch.failure) == (theirs[trial].metrics, theirs[trial].failure)
            assert torch.equal(epoch.answers, theirs[trial].answers)


def assert_same_tensors(found: list[Any], expected: list[Any]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("family", "options", "folds", "n_threads"),
    [
        ("last", {}, None, 2),
        ("last", {}, None, 8),
        ("last", {}, 3, 2),
        ("ladder", {"attention": True, "read_out": "both"}, None, 2),
    ],
)
def test_lanes_in_parts_have_the_bits_that_they_have_in_one_stack(
    family: str, options: dict[str, Any], folds: int | None, n_threads: int
) -> None:
    with_setting = setting(family, folds, **options)
    expected, found = (trained(with_setting, n, folds=folds) for n in (1, n_threads))
    assert_same_epochs(found["epochs"], expected["epochs"])
    assert_same_tensors(found["weights"], expected["weights"])
    assert found["states"].keys() == expected["states"].keys()
    for trial, lanes in found["states"].items():
        for ours, theirs in zip(lanes, expected["states"][trial], strict=True):
            assert (ours.config, ours.seed, ours.epochs) == (theirs.config, theirs.seed, theirs.epochs)
            assert ours.weights is not None
            assert_same_tensors([ours.weights, ours.optimizer], [theirs.weights, theirs.optimizer])


def lanes_of(spec: SideNetworkSpec, n_lanes: int) -> list[Lane]:
    return [state.lane(spec, CPU) for state in lane_states(n_lanes)]


@pytest.mark.parametrize(
    ("n_lanes", "n_threads", "sizes"),
    [(8, 1, [8]), (3, 2, [3]), (4, 2, [2, 2]), (7, 2, [4, 3]), (10, 4, [3, 2, 3, 2]), (9, 8, [3, 2, 2, 2])],
)
def test_parts_have_at_least_two_lanes_and_about_equally_many(n_lanes: int, n_threads: int, sizes: list[int]) -> None:
    with_setting = setting()
    with computing_on(n_threads):
        parts = in_parts(lanes_of(with_setting.spec, n_lanes), with_setting.train_data, CPU)
    assert [len(part) for part in parts] == sizes
    assert [lane.seed for part in parts for lane in part] == list(range(n_lanes))


def test_lanes_on_a_gpu_or_with_features_that_are_not_cached_are_one_part(tmp_path: Path) -> None:
    with_setting = setting()
    lanes = lanes_of(with_setting.spec, 8)
    split = Split("train", np.arange(6) % 2, lambda index: Image.new("RGB", (32, 32)), lambda: "fingerprint")
    backbone = load_backbone("tiny-untrained", cache_dir=tmp_path)
    live = LiveViews(TrainingViews(None, 0), (split,), backbone, CPU, N_CLASSES)
    with computing_on(2):
        assert len(in_parts(lanes, with_setting.train_data, torch.device("cuda"))) == 1
        assert len(in_parts(lanes, live, CPU)) == 1


def counted(monkeypatch: pytest.MonkeyPatch, at_step: Callable[[Training, int], None]) -> None:
    """Call a function with the training and the number of its step before each step of an epoch."""
    epoch = Training.epoch

    def with_steps(self: Training, order: int, on_step: Callable[[], None] = lambda: None) -> EpochResult:
        steps = itertools.count(1)

        def after() -> None:
            at_step(self, next(steps))
            on_step()

        return epoch(self, order, after)

    monkeypatch.setattr(Training, "epoch", with_steps)


@pytest.mark.parametrize("which", [0, 1])
def test_an_error_of_one_part_is_that_of_the_epoch_and_ends_the_other_parts(
    which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_setting = setting()
    error, steps, fails = RuntimeError("out of memory"), list[int](), threading.Event()
    with computing_on(2):
        parts = [
            Training(part, with_setting.train_data, with_setting.val_data, n_epochs=N_EPOCHS, batch_size=1, seed=0)
            for part in in_parts(lanes_of(with_setting.spec, 8), with_setting.train_data, CPU)
        ]

        def fail(training: Training, step: int) -> None:
            if training is not parts[which]:
                fails.wait(timeout=60)
                steps.append(step)
            elif step == 2:
                fails.set()
                raise error

        counted(monkeypatch, fail)
        with pytest.raises(RuntimeError) as raised:
            train_epoch(parts, 1)
    assert raised.value is error
    assert len(steps) < len(with_setting.train_data), "the other part did not train its epoch to the end"


def test_steps_are_reported_in_the_callers_thread_once_for_all_parts() -> None:
    with_setting = setting()
    stack, steps, threads = LaneStack(with_setting, CPU), itertools.count(1), set[str]()
    for trial, state in enumerate(lane_states(8)):
        stack.add(trial, [state])

    def on_step() -> None:
        next(steps)
        threads.add(threading.current_thread().name)

    with computing_on(4):
        stack.train_epoch(1, on_step)
    assert next(steps) - 1 == with_setting.n_steps
    assert threads == {threading.main_thread().name}


def test_weights_of_every_lane_are_found_in_its_part() -> None:
    with_setting = setting()
    stack = LaneStack(with_setting, CPU)
    for trial, state in enumerate(lane_states(8)):
        stack.add(trial, [state])
    with computing_on(2):
        stack.train_epoch(1)
    states: dict[int, list[LaneState]] = stack.states(range(8))
    for trial in range(8):
        weights: dict[str, Tensor] = stack.weights(trial)
        expected = states[trial][0].weights
        assert expected is not None
        assert all(torch.equal(weights[name], expected[name]) for name in weights)
