"""MLflow: to the server MLFLOW_TRACKING_URI names, else to files in `<run>/mlruns` (`mlflow ui --backend-store-uri`).

Uses the client, not MLflow's global active run, so nothing else in the process is redirected. Fails slowly on a far
server: each logged row is one request, which the step waits for.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from tilth.core.config import Config as Base
from tilth.core.errors import RecipeError

from . import tracking

CARD = {
    "title": "MLflow",
    "paper": "https://mlflow.org/docs/latest/ml/tracking",
    "claim": "The run's settings and curves in MLflow; a resumed run goes on in the same MLflow run.",
    "baseline": "metrics.jsonl and report.html, which are always written",
    "check": "A stand-in for the package receives every logged row at its step, and the same run after a resume.",
    "needs": ["mlflow-skinny"],
}
_STATUS = {"done": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_PARAMS_PER_CALL, _PARAM_CHARS = 100, 500


class Config(Base):
    """Knobs of the hook."""

    experiment: str = Field("tilth", min_length=1)
    """MLflow experiment."""
    every: int = Field(10, gt=0)
    """Steps between logged rows (metrics.jsonl has every step)."""

    def build(self, run_dir: Path, name: str) -> tracking.Tracker:
        """The hook. Raises RecipeError if mlflow is not installed."""
        return tracking.Tracker(Mlflow(tracking.need("mlflow", "mlflow"), self.experiment, run_dir, name), self.every)


class Mlflow:
    """A `tracking.Service` over one MLflow run."""

    def __init__(self, mlflow: Any, experiment: str, run_dir: Path, name: str) -> None:
        self._mlflow, self._experiment, self._run_dir, self._name = mlflow, experiment, run_dir, name

    def open(self, settings: dict[str, Any]) -> None:
        """Start the run, or go on with it. Raises RecipeError if the server cannot be reached or refuses."""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # without it MLflow 3 refuses local files
            uri = (self._run_dir / "mlruns").resolve().as_uri()
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri=uri)
            self._id = tracking.remembered(self._run_dir, "mlflow")
            if self._id is None:
                self._begin(settings)
            else:
                self._client.update_run(self._id, status="RUNNING")
        except self._mlflow.MlflowException as err:
            first = (str(err).splitlines() or [""])[0]
            raise RecipeError(
                f"MLflow could not start at {uri}: {first}",
                where="hooks",
                fix="Without MLFLOW_TRACKING_URI, runs are kept in local files.",
            ) from None

    def _begin(self, settings: dict[str, Any]) -> None:
        found = self._client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self._experiment)
        self._id = self._client.create_run(experiment, run_name=self._name).info.run_id
        tracking.remember(self._run_dir, "mlflow", self._id)
        params = [self._mlflow.entities.Param(k, str(v)[:_PARAM_CHARS]) for k, v in settings.items()]
        for i in range(0, len(params), _PARAMS_PER_CALL):
            self._client.log_batch(self._id, params=params[i : i + _PARAMS_PER_CALL])

    def log(self, values: dict[str, float], step: int) -> None:
        """Log a row in one call."""
        now = int(time.time() * 1000)
        metrics = [self._mlflow.entities.Metric(k, v, now, step) for k, v in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, status: str) -> None:
        """Set the status MLflow shows."""
        self._client.set_terminated(self._id, status=_STATUS.get(status, "FAILED"))
