"""The sentences above a run's tables: which is more accurate, and whether the difference is more than chance."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweep.records.findings import findings
from sweep.records.paired import lead_of_the_best_of_equals
from sweep.records.results import Results
from sweep.records.verdict import verdict

N_VAL, N_TEST = 200, 500


def results_of(winner_top1: float, probe_top1: float, *, ended: bool = True, interval: float = 0.02) -> Results:
    """A run of four complete trials. Trial 2 is 0.05 above the baseline on val."""
    trials = pd.DataFrame(
        {
            "trial": [2, 0, 1, 3],
            "state": "COMPLETE",
            "val_top1": [0.75, 0.70, 0.69, 0.68],
            "top1_vs_baseline": [0.05, 0.0, -0.01, -0.02],
        }
    )
    trials["top1_vs_baseline_low"] = trials["top1_vs_baseline"] - interval
    trials["top1_vs_baseline_high"] = trials["top1_vs_baseline"] + interval
    summary: dict[str, Any] = {
        "winner": {"trial": 2, "val": {"top1": 0.75}, "test": {"top1": winner_top1}},
        "linear_probe": {"test": {"top1": probe_top1}},
        "n_test_images": N_TEST,
    }
    config = {"objectives": {"val_top1": "maximize"}, "splits": {"val": {"images": N_VAL}}, "epochs": 3}
    return Results(trials, pd.DataFrame(), summary if ended else {}, config)


def test_the_first_sentence_is_the_verdict_of_the_terminal() -> None:
    results = results_of(0.8, 0.6)
    first, *others = findings(results, 2)
    said = verdict(results.summary, results.kind, "images", 3)
    assert first.lower() == f"{said}.".lower()
    assert first.startswith("On the 500 test images, the winner is ahead of the linear probe by 0.200")
    half = 1.959964 * math.hypot(math.sqrt(0.16 / N_TEST), math.sqrt(0.24 / N_TEST))
    assert f"outside the noise (95%: {half:.3f})" in first
    assert not any("--epochs" in sentence for sentence in others)


def test_probe_far_ahead() -> None:
    first, *_ = findings(results_of(0.484, 0.812), 2)
    assert "the linear probe is ahead of the winner by 0.328 in top-1 (0.812 against 0.484)" in first
    assert "The probe trained for 12 epochs and the trials for 3: try --epochs 12" in first


@pytest.mark.parametrize(("interval", "noise"), [(0.02, False), (0.06, True)])
def test_winner_and_baseline(interval: float, noise: bool) -> None:
    text = " ".join(findings(results_of(0.8, 0.6, interval=interval), 2))
    assert "differs from the baseline, trial 0, by +0.050 in top-1" in text
    assert ("which may be noise" in text) == noise


def test_run_that_did_not_end() -> None:
    first, *others = findings(results_of(0, 0, ended=False), 2)
    assert "nothing has been measured on test" in first
    assert "differs from the baseline" in others[0]


def test_expected_lead_of_the_best_of_equal_trials() -> None:
    draws = np.random.default_rng(0).normal(size=(200_000, 4))
    assert lead_of_the_best_of_equals(4, 1.0) == pytest.approx(draws.max(1).mean(), abs=0.01)
    assert lead_of_the_best_of_equals(1, 1.0) == pytest.approx(0, abs=1e-9)
    assert lead_of_the_best_of_equals(32, 0.5) == pytest.approx(0.5 * 2.0697, abs=1e-4)
    own_error = 0.02 / 1.959964 / math.sqrt(2)  # the error of one trial; the interval is that of a difference of two
    text = " ".join(findings(results_of(0.8, 0.6), 2))
    lead = lead_of_the_best_of_equals(4, own_error)
    assert f"the best of them would still lead their average by about {lead:.3f} in top-1 on 200 images" in text
