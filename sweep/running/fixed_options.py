"""Checks what holds for every trial, such as options of `sweep run`, against the configurations that a study makes."""

from sweep.errors import UsageError
from sweep.side_networks.checks import lacks
from sweep.side_networks.own_networks import OWN
from sweep.study.augmentation import NONE, same_views
from sweep.study.declaration import Study
from sweep.study.fixed import fixed_values, option_text
from sweep.study.rehearsal import surveyed_configs
from sweep.study.shape import study_of_lane


def check_side_networks(study: Study) -> None:
    """Check that every side-network that a study tries has the parts that are fixed, such as a read-out.

    Raises:
        UsageError: One of them does not, so its trials could not be trained.
    """
    fixed = fixed_values(study)
    if not any(lacks("", {name: value}) for name, value in fixed.items()):
        return  # every family can have them
    lanes = [study_of_lane(study, config) for config in surveyed_configs(study)]
    families = [lane.side_network if isinstance(lane.side_network, str) else OWN for lane in lanes]
    lacking = {family: lacks(family, fixed) for family in dict.fromkeys(families)}
    without = [family for family, names in lacking.items() if names]
    if without and len(without) < len(lacking):
        name = lacking[without[0]][0]
        able = next(family for family, names in lacking.items() if not names)
        raise UsageError(
            f"{option_text(name, fixed[name])} holds for every trial, but the study also tries the side-network "
            f"{' and '.join(without)}, which does not have it; leave it out, or add --side-network {able}"
        )


def check_views(study: Study) -> None:
    """Check that a trial augments its images if a number of views is declared.

    Raises:
        UsageError: None does.
    """
    if study.views is not None and study.augment == NONE:
        lanes = (study_of_lane(study, config) for config in surveyed_configs(study))
        if all(lane.augment == NONE for lane in lanes):
            raise same_views(study.views)
