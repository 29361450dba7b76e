"""Options, and other declarations that are fixed, hold for every trial, whatever `suggest` chooses."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial

from studies import decoder_side_networks, segmentation, side_networks, text_side_networks, which_layers
from sweep.errors import UsageError
from sweep.running.fixed_options import check_side_networks
from sweep.study.asking import check_baseline, check_enqueued
from sweep.study.declaration import Study
from sweep.study.enqueued import settled
from sweep.study.fixed import agreeing, with_options
from sweep.study.lane_config import LaneConfig
from sweep.study.parameter_cells import Cell
from sweep.study.rehearsal import surveyed_configs
from sweep.study.shape import study_of_lane
from sweep.study.space import Space
from sweep.tasks.kinds import REGRESSION

OPTIONS: Mapping[str, tuple[Study, Mapping[str, Any]]] = {
    "augment none": (side_networks.study, {"augment": "none"}),
    "another augmentation": (side_networks.study, {"augment": "flip-crop"}),
    "side-network": (side_networks.study, {"side_network": "ladder"}),
    "side-network without some parameters": (side_networks.study, {"side_network": "multi_stage"}),
    "side-network of texts": (text_side_networks.study, {"side_network": "last"}),
    "side-network that is not among the choices": (segmentation.study, {"side_network": "probe"}),
    "read-out": (side_networks.study, {"read_out": "pooled"}),
    "no attention": (side_networks.study, {"attention": False}),
    "mlp": (side_networks.study, {"mlp": True}),
    "stages that have names in suggest": (side_networks.study, {"stages": (1, 3)}),
    "blocks between stages": (side_networks.study, {"group_size": 2}),
    "number of stages": (which_layers.study, {"stages": 3}),
    "numeric parameter": (which_layers.study, {"modules_per_block": 3}),
    "pool": (which_layers.study, {"pool": "class"}),
    "pool that suggest chooses": (decoder_side_networks.study, {"pool": "mean"}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_an_option_holds_for_every_trial(case: str) -> None:
    declared, options = OPTIONS[case]
    study = with_options(declared, options)
    check_baseline(study)
    check_enqueued(study, study.enqueue)
    lanes = [study_of_lane(study, config) for config in surveyed_configs(study)]
    assert len(lanes) > 30
    for name, value in options.items():
        assert {getattr(lane, name) for lane in lanes} == {value}
    if "group_size" in options:
        assert {lane.stages for lane in lanes} == {None}


def test_suggest_makes_the_rest_to_match_the_option_and_no_trial_is_wasted() -> None:
    study = with_options(side_networks.study, {"side_network": "last", "augment": "none"})
    trial = optuna.create_study().ask()
    config = study.lane_config(trial)
    assert trial.params["side_network"] == "last"
    assert trial.distributions["side_network"].single()
    assert "read_out" not in trial.params, "suggest saw that it is LAST"
    assert config.lr == trial.params["lr"] / 4, "suggest lowers the learning rates of LAST"
    first = [study.baseline, *study.enqueue]
    assert all(params not in first[:i] for i, params in enumerate(first)), "those that are now alike are tried once"


def test_an_option_replaces_what_suggest_chooses_without_a_parameter_of_that_name() -> None:
    study = Study(
        suggest=lambda trial: LaneConfig(
            lr=1e-3, augment="flip", views=2, pool="class" if trial.suggest_categorical("p", "ab") == "b" else "mean"
        ),
        baseline={"p": "a"},
    )
    plain = with_options(study, {"augment": "none", "pool": "class"})
    assert plain.fixed == ("pool", "augment", "views")
    own = study_of_lane(plain, plain.lane_config(FixedTrial({"p": "a"})))
    assert (own.augment, own.views, own.pool) == ("none", None, "class")
    live = with_options(study, {"cache": "off"})
    assert study_of_lane(live, live.lane_config(FixedTrial({"p": "a"}))).views is None


def test_class_weights_of_an_option_replace_those_that_suggest_chooses() -> None:
    study = Study(suggest=lambda trial: LaneConfig(lr=1e-3, class_weights="balanced"), baseline={})
    assert study.lane_config(FixedTrial({})).class_weights == "balanced"
    assert with_options(study, {"class_weights": "none"}).lane_config(FixedTrial({})).class_weights == "none"


def test_without_options_nothing_is_fixed_and_nothing_changes() -> None:
    study = with_options(side_networks.study, {"augment": None, "trials": 7})
    assert study.fixed == ()
    assert study == replace(side_networks.study, trials=7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"read_out": "tokens"},
            "--read-out tokens holds for every trial, but the study also tries the side-network last and multi_stage, "
            "which does not have it; leave it out, or add --side-network ladder",
        ),
        ({"attention": True}, "--attention holds for every trial.*convolution.* add --side-network ladder"),
        ({"mlp": False}, "--no-mlp holds for every trial.*last and multi_stage"),
    ],
)
def test_a_part_that_some_side_networks_lack_is_refused(options: Mapping[str, Any], message: str) -> None:
    check_side_networks(side_networks.study)
    check_side_networks(with_options(side_networks.study, {**options, "side_network": "ladder"}))
    with pytest.raises(UsageError, match=message):
        check_side_networks(with_options(side_networks.study, options))


CONVOLUTION = replace(
    side_networks.study, baseline=side_networks.started("convolution", read_out="both"), enqueue=side_networks.FIRST
)


def test_parameters_that_only_an_option_asks_for_are_drawn_for_the_baseline() -> None:
    assert "attention" not in CONVOLUTION.baseline
    baselines = []
    for seed in range(8):
        study = with_options(CONVOLUTION, {"side_network": "ladder", "seed": seed})
        check_baseline(study)
        drawn = study.baseline["attention"]
        assert study.baseline == {**CONVOLUTION.baseline, "side_network": "ladder", "attention": drawn}
        again = with_options(CONVOLUTION, {"side_network": "ladder", "seed": seed})
        assert study.baseline == again.baseline == agreeing(study).baseline
        baselines.append(drawn)
    assert set(baselines) == {False, True}


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_the_sampler_chooses_what_only_an_option_asks_for_in_enqueued_trials_unless_it_is_a_grid(sampler: str) -> None:
    study = with_options(CONVOLUTION, {"side_network": "ladder", "sampler": sampler})
    check_enqueued(study, study.enqueue)
    assert any("attention" not in params for params in study.enqueue) == (sampler == "tpe")


def test_parameters_of_another_task_s_baseline_are_drawn_too() -> None:
    space = Space(CONVOLUTION.suggest, CONVOLUTION.baseline)
    study = replace(side_networks.study, other_tasks={"regression": space})
    check_baseline(with_options(study, {"side_network": "ladder"}).on(REGRESSION))


def test_a_parameter_that_the_baseline_lacks_anyway_is_named() -> None:
    baseline = {name: value for name, value in CONVOLUTION.baseline.items() if name != "dropout"}
    with pytest.raises(UsageError, match=r"baseline lacks dropout, which .*this run has --side-network ladder; leave"):
        check_baseline(with_options(replace(CONVOLUTION, baseline=baseline), {"side_network": "ladder"}))


def test_an_option_that_suggest_cannot_take_is_named() -> None:
    rates = {"mean": 1e-3, "last": 1e-2}
    study = Study(
        suggest=lambda trial: LaneConfig(lr=rates[trial.suggest_categorical("pool", list(rates))]),
        baseline={"pool": "last"},
    )
    with pytest.raises(UsageError, match=r"suggest failed: .*this run has --pool class; leave out what does not go"):
        check_baseline(with_options(study, {"pool": "class"}))


@pytest.mark.parametrize("fixed", ["augment", ("lr",), ("epochs",), (3,)])
def test_only_what_a_lane_can_have_for_itself_can_be_fixed(fixed: Any) -> None:
    with pytest.raises(UsageError, match=r"Study.fixed must be a list of names out of backbone, .*class_weights"):
        replace(side_networks.study, fixed=fixed)


def test_a_study_file_can_fix_a_declaration() -> None:
    study = replace(which_layers.study, stages=6, fixed=("stages",))
    assert {study_of_lane(study, config).stages for config in surveyed_configs(study)} == {6}


def asked(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=1e-3,
        stages=trial.suggest_categorical("stages", [2, [1, 3]]),  # type: ignore[list-item]
        batch_size=trial.suggest_int("batch_size", 16, 64, step=16),
        parts=trial.suggest_categorical("parts", [None, 2]),
        image_size=int(trial.suggest_float("image_size", 28, 56, step=14)),
        class_weights=trial.suggest_categorical("class_weights", [None, "balanced"]),
    )


ASKED = Study(
    suggest=asked,
    baseline={"stages": 2, "batch_size": 32, "parts": None, "image_size": 28.0, "class_weights": None},
    enqueue=[{"batch_size": 16}, {"stages": [1, 3]}],
    side_network="granular_last",
)


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"stages": (2, 4)}, "stages", "[2, 4]"),
        ({"stages": 3}, "stages", 3),
        ({"group_size": 2}, "stages", None),
        ({"batch_size": 50}, "batch_size", 50),
        ({"parts": 4}, "parts", 4),
        ({"image_size": 112}, "image_size", 112),
        ({"class_weights": "none"}, "class_weights", "none"),
    ],
)
def test_the_parameters_of_every_trial_have_the_value_of_the_option(
    options: Mapping[str, Any], name: str, value: Any
) -> None:
    study = with_options(ASKED, options)
    check_baseline(study)
    check_enqueued(study, settled(study, study.enqueue))
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(8):
        trial = drawn.ask()
        config = study_of_lane(study, study.lane_config(trial))
        assert trial.params[name] == value, "the table shows what was trained"
        assert all(getattr(config, option) == given for option, given in options.items() if option != "class_weights")


STAGES = {"first": (1, 2), "even": 4}
POOLS = ("mean", "class")
WEIGHTS = {"plain": "none", "rare": "balanced"}


def named(trial: optuna.Trial) -> LaneConfig:
    stages = trial.suggest_categorical("stages", list(STAGES))
    return LaneConfig(
        lr={"first": 1e-3, "even": 2e-3}[stages],
        stages=STAGES[stages],
        pool=POOLS[trial.suggest_int("pool", 0, 1)],  # type: ignore[arg-type]
        attention=trial.suggest_categorical("attention", ["no", "yes"]) == "yes",
        class_weights=WEIGHTS[trial.suggest_categorical("class_weights", list(WEIGHTS))],
        batch_size=trial.suggest_categorical("batch_size", [8, 16]),
    )


NAMED = Study(
    suggest=named,
    baseline={"stages": "first", "pool": 0, "attention": "no", "class_weights": "rare", "batch_size": 8},
    enqueue=[{"stages": "even"}],
    side_network="ladder",
)


@pytest.mark.parametrize(
    ("options", "name", "shown", "lr"),
    [
        ({"stages": 4}, "stages", 4, 2e-3),
        ({"stages": (1, 2)}, "stages", "[1, 2]", 1e-3),
        ({"stages": 3}, "stages", 3, 1e-3),
        ({"pool": "class", "stages": 4}, "pool", "class", 2e-3),
        ({"attention": True, "stages": 3}, "attention", True, 1e-3),
        ({"class_weights": "none", "stages": 3}, "class_weights", "none", 1e-3),
        ({"class_weights": {"cat": 2.0}, "stages": 3}, "class_weights", '{"cat": 2.0}', 1e-3),
    ],
)
def test_a_parameter_that_chooses_among_names_has_the_value_of_the_option(
    options: Mapping[str, Any], name: str, shown: Any, lr: float
) -> None:
    study = with_options(NAMED, options)
    check_baseline(study)
    check_enqueued(study, settled(study, study.enqueue))
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(8):
        trial = drawn.ask()
        config = study.lane_config(trial)
        assert trial.params[name] == shown, "the table shows what was trained"
        assert trial.distributions[name].single(), "no trial is spent on it"
        assert config.lr == lr, "suggest gets the name that comes to the value of the option, else the baseline's"
        own = study_of_lane(study, config)
        assert all(getattr(own, option) == given for option, given in options.items())
    assert {config.batch_size for config in surveyed_configs(study)} == {8, 16}, "other parameters stay free"


def test_class_weights_by_name_hold_where_suggest_chooses_among_others() -> None:
    study = with_options(ASKED, {"class_weights": {"cat": 2.0, "dog": 1.0}})
    check_baseline(study)
    trial = optuna.create_study().ask()
    assert study.lane_config(trial).class_weights == (2.0, 1.0)
    assert trial.params["class_weights"] == '{"cat": 2.0, "dog": 1.0}'


def test_agreeing_again_changes_nothing_but_what_is_fixed() -> None:
    study = with_options(NAMED, {"stages": 4, "class_weights": {"cat": 2.0}})
    assert agreeing(study) == study
    completed = agreeing(replace(study, class_weights={"cat": 2.0, "dog": 1.0}))
    assert completed.baseline == {**study.baseline, "class_weights": '{"cat": 2.0, "dog": 1.0}'}


@pytest.mark.parametrize("row", [{"side_network": Cell("last")}, {"side_network": "last"}])
def test_an_enqueued_trial_that_contradicts_an_option_names_the_option(row: Mapping[str, Any]) -> None:
    study = with_options(side_networks.study, {"side_network": "ladder"})
    with pytest.raises(UsageError, match=r"enqueued trial 1.*this run has --side-network ladder; leave out"):
        check_enqueued(study, settled(study, [row]))


def test_a_suggest_that_fails_names_the_blocks_between_stages() -> None:
    study = Study(
        suggest=lambda trial: LaneConfig(lr=1e-3, rank=2 * trial.suggest_int("stages", 2, 4)), baseline={"stages": 2}
    )
    with pytest.raises(UsageError, match=r"suggest failed: .*this run has --group-size 3; leave out"):
        check_baseline(with_options(study, {"group_size": 3}))
