"""Logs a run to MLflow: one MLflow run with the summary and the files, and below it one MLflow run per trial."""

import os
import time

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from sweep.machine.checked_files import read_json
from sweep.records.folder import RunFolder
from sweep.records.trial_log import TrialRecord
from sweep.tracking.tracker import Tracker, artifacts, finite_metrics, metrics_on_test, parameters, why_it_ended

FOLDER = "mlruns"
STATES = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
"""MLflow's status for each state of a trial."""
RUN_TAG, TRIAL_TAG, PARENT_TAG, NAME_TAG = "sweep.run", "sweep.trial", "mlflow.parentRunId", "mlflow.runName"


class MlflowTracker(Tracker):
    """Logs to the server or folder that `MLFLOW_TRACKING_URI` names, or else to `mlruns` in the run folder.

    The experiment has the name of the study. A resumed run continues in the same MLflow runs.
    """

    name = "mlflow"

    def __init__(self) -> None:
        self._runs: dict[int, str] = {}
        self._over: set[int] = set()

    def run_opened(self, folder: RunFolder, storage_url: str | None) -> None:
        """Find the run in MLflow, or make it."""
        self.where = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not self.where:
            self.where = (folder.path / FOLDER).resolve().as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # files need no database package
        self._client = MlflowClient(self.where)
        study, place = read_json(folder.config_path)["study"], str(folder.path.resolve())
        experiment = self._client.get_experiment_by_name(study)
        self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(study)
        known = self._client.search_runs([self._experiment], f"tags.`{RUN_TAG}` = '{place}'")
        if known:
            self._parent = known[0].info.run_id
            of_trials = self._client.search_runs([self._experiment], f"tags.`{PARENT_TAG}` = '{self._parent}'")
            self._runs = {int(run.data.tags[TRIAL_TAG]): run.info.run_id for run in of_trials}
            self._over = {int(r.data.tags[TRIAL_TAG]) for r in of_trials if r.info.status in STATES.values()}
        else:
            tags = {NAME_TAG: folder.path.resolve().name, RUN_TAG: place}
            self._parent = self._client.create_run(self._experiment, tags=tags).info.run_id

    def trial_measured(self, trial: TrialRecord) -> None:
        """Log a point of every curve."""
        if trial.trial in self._over:
            return
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, trial.epochs) for name, value in finite_metrics(trial).items()]
        self._client.log_batch(self._run(trial), metrics=metrics)

    def trial_ended(self, trial: TrialRecord) -> None:
        """Close the trial's run."""
        if trial.trial in self._over:
            return
        run = self._run(trial)
        if reason := why_it_ended(trial):
            self._client.log_batch(run, tags=[RunTag("sweep.why", reason)])
        self._client.set_terminated(run, STATES[trial.state])
        self._over.add(trial.trial)

    def run_ended(self, folder: RunFolder) -> None:
        """Log test metrics and files."""
        for name, value in metrics_on_test(folder).items():
            self._client.log_metric(self._parent, name, value)
        for path in artifacts(folder):
            self._client.log_artifact(self._parent, str(path))
        self._client.set_terminated(self._parent, "FINISHED")

    def _run(self, trial: TrialRecord) -> str:
        """The trial's run in MLflow, made with its parameters."""
        if trial.trial not in self._runs:
            tags = {NAME_TAG: f"trial {trial.trial}", PARENT_TAG: self._parent, TRIAL_TAG: str(trial.trial)}
            run = self._client.create_run(self._experiment, tags=tags).info.run_id
            self._client.log_batch(run, params=[Param(name, str(value)) for name, value in parameters(trial).items()])
            self._runs[trial.trial] = run
        return self._runs[trial.trial]
