"""The report's figures of the search: colours of good trials, which parameters are shown, and positions of ticks."""

from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from sweep.records.results import Results
from sweep.report.search_figures import LEAST_TRIALS, configurations, importances, left_out, log_ticks, slices

LR, LOSS = FloatDistribution(1e-4, 1e-1, log=True), CategoricalDistribution(["focal", "cross_entropy"])
DISTRIBUTIONS = {"lr": LR, "loss": LOSS}


def results_of(direction: str, **columns: Any) -> Results:
    """A run of complete trials that have these columns."""
    trials = pd.DataFrame({"trial": range(len(next(iter(columns.values())))), "state": "COMPLETE", **columns})
    return Results(trials, pd.DataFrame(), {}, {"objectives": {"val_score": direction}})


@pytest.mark.parametrize(("direction", "best"), [("maximize", 0.9), ("minimize", 0.1)])
def test_the_best_trial_is_the_darkest(direction: str, best: float) -> None:
    results = results_of(direction, val_score=[0.5, 0.9, 0.1], params_lr=[1e-3, 1e-2, 1e-4])
    figure = configurations(results, DISTRIBUTIONS)
    assert figure is not None
    line = figure.data[0].line
    (_, light), (_, dark) = line.colorscale
    assert sum(bytes.fromhex(dark[1:])) < sum(bytes.fromhex(light[1:]))
    darkest = min(line.color) if line.reversescale else max(line.color)
    assert darkest == best


def test_choices_have_no_quotes_and_keep_their_order() -> None:
    results = results_of("maximize", val_score=[0.5, 0.9], params_loss=["cross_entropy", "focal"])
    figure = configurations(results, DISTRIBUTIONS)
    assert figure is not None
    axis = figure.data[0].dimensions[1]
    assert list(axis.ticktext) == ["focal", "cross_entropy"]
    assert list(axis.values) == [1, 0]


def test_trials_without_a_parameter_stand_apart() -> None:
    results = results_of("maximize", val_score=[0.5, 0.9, 0.7], params_lr=[1e-3, None, 1e-2])
    axis = configurations(results, DISTRIBUTIONS).data[0].dimensions[1]  # type: ignore[union-attr]
    places = list(axis.values)
    assert places[1] < min(places[0], places[2])
    assert axis.ticktext[0] == "–"


def study_of(n_trials: int, direction: str) -> tuple[optuna.Study, Results]:
    """Trials whose score depends on `lr` only, whatever `other` is. Only two trials have the parameter `rare`."""
    study = optuna.create_study(directions=[direction, "minimize"])
    rows: list[dict[str, Any]] = []
    unit = FloatDistribution(0, 1)
    for number in range(n_trials):
        lr = 1e-4 * 1000 ** (number / (n_trials - 1))
        params: dict[str, Any] = {"lr": lr, "other": (7 * number % n_trials) / n_trials}
        if number < 2:
            params["rare"] = number / 2
        score = lr if direction == "maximize" else -lr
        distributions = {name: LR if name == "lr" else unit for name in params}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, values=[score, 0.0]))
        rows.append({f"params_{name}": value for name, value in params.items()} | {"val_score": score})
    trials = pd.DataFrame(rows).assign(trial=range(n_trials), state="COMPLETE")
    config = {"objectives": {"val_score": direction, "val_cost": "minimize"}}
    return study, Results(trials, pd.DataFrame(), {}, config)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_importances_of_parameters_that_enough_trials_have() -> None:
    shown = {}
    for direction in ("maximize", "minimize"):
        study, results = study_of(40, direction)
        figure = importances(study, results)
        assert figure is not None
        shown[direction] = dict(zip(figure.data[0].y, figure.data[0].x, strict=True))
        assert set(shown[direction]) == {"lr (n = 40)", "other (n = 40)"}
        assert left_out(study, results) == ["rare (2)"]
    assert shown["maximize"] == shown["minimize"], "importances do not depend on the direction of the objective"
    assert shown["maximize"]["lr (n = 40)"] > 0.8


def test_no_importances_of_a_few_trials() -> None:
    study, results = study_of(LEAST_TRIALS - 1, "maximize")
    assert importances(study, results) is None
    assert left_out(study, results) == ["lr (9)", "other (9)", "rare (2)"]


@pytest.mark.parametrize(("low", "high"), [(3e-4, 1e-2), (0.5, 10), (1e-8, 1e3), (2e-3, 2.1e-3), (1e-3, 1e-3)])
def test_ticks_of_a_log_axis_do_not_crowd(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 6
    assert ticks == sorted(ticks)
    assert all(0.95 * low <= tick <= 1.05 * high for tick in ticks)


def test_one_parameter_at_a_time() -> None:
    results = results_of(
        "maximize", val_score=[0.5, 0.9, 0.7], params_lr=[1e-3, 1e-2, 2e-3], params_loss=["focal", "focal", None]
    )
    figure = slices(results, ["lr", "loss"], DISTRIBUTIONS, winner=1)
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        *("other trials", "baseline, trial 0", "winner, trial 1")
    ]
    winners = [trace for trace in figure.data if trace.name == "winner, trial 1"]
    assert [list(trace.y) for trace in winners] == [[0.9], [0.9]]
    assert list(winners[0].x) == [-2.0]
    assert list(figure.layout.xaxis2.ticktext) == ["focal", "cross_entropy"]
    assert figure.layout.width is None, "a fixed width could be wider than the page"
