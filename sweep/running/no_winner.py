"""The error of a search that ended without a complete trial: the reason and the remedy."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from sweep.errors import SweepError
from sweep.records.folder import RunFolder
from sweep.records.trial_log import TrialRecord

OF_A_METRIC = "the study's metric"


def no_winner(
    records: Iterable[TrialRecord], folder: RunFolder, study_file: Path, *, ended: str, n_epochs: int
) -> SweepError:
    """The error of a search without a complete trial.

    Args:
        records: Records of its trials.
        folder: The run folder.
        study_file: The file that declares the study.
        ended: Why the search ended, as a clause that follows "because".
        n_epochs: Epochs of a complete trial.
    """
    records = list(records)
    if any(record.state == "PRUNED" for record in records):
        return SweepError(
            f"the search ended because {ended}, before any trial had trained for its {n_epochs} epochs; the table so "
            f"far is in {folder.path}. Give more --time, or fewer --epochs"
        )
    failures = Counter(re.sub(r"^epoch \d+: ", "", record.failure) for record in records if record.failure)
    of_metric = [(reason, count) for reason, count in failures.most_common() if reason.startswith(OF_A_METRIC)]
    if of_metric:
        reason, count = of_metric[0]
        return SweepError(
            f"no trial is complete: {reason} ({count} of {len(records)} trials). Mend the metric in {study_file}; the "
            f"failure column of {folder.trials_path} has the reason of every trial"
        )
    return SweepError(
        f"no trial ended with finite numbers; the reasons stand in the failure column of {folder.trials_path}. "
        f"Lower the learning rates in {study_file}"
    )
