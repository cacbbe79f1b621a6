"""Tracker hooks: TensorBoard read back for real; the others against stand-ins that record what they are told."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.core.errors import RecipeError
from tilth.core.technique import card, names, resolve
from tilth.train.hooks import tracking

TRACKERS = ["mlflow", "tensorboard", "trackio", "wandb"]
RUN = {"recipe": {"name": "first", "init": None, "stages": [{"name": "train", "optim": {"use": "adamw", "lr": 0.003}}]}}
SETTINGS = {"name": "first", "stages.0.name": "train", "stages.0.optim.use": "adamw", "stages.0.optim.lr": 0.003}


def row(step: int, steps: int = 25) -> dict[str, Any]:
    """A row of metrics.jsonl whose loss tells its step."""
    return {
        "stage": "train", "step": step, "steps": steps, "global_step": 100 + step, "loss": 5 - step / 10, "lr": 1e-3,
        "grad_norm": math.inf, "tokens": 4096 * step, "time": 1.7e9 + step,
    }  # fmt: skip


def drive(hook: Any, steps: range, status: str = "done") -> None:
    hook.on_start(RUN)
    for step in steps:
        hook.on_step(row(step))
    hook.on_eval({"stage": "train", "step": 20, "global_step": 120, "bits_per_byte/code": 2.25})
    hook.on_stop({"status": status})


class Recorder:
    """Anything may be called on it; it remembers the calls in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            return self

        return call

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(a, k) for n, a, k in self.calls if n == name]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., types.ModuleType]:
    """`fake("wandb", init=…)` puts a stand-in for a package where import finds it."""

    def put(name: str, **members: Any) -> types.ModuleType:
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return put


def test_the_four_are_techniques_with_cards_and_the_shared_module_is_none() -> None:
    assert set(TRACKERS) <= set(names("hook")) and "tracking" not in names("hook")
    for name in TRACKERS:
        assert card("hook", name)["claim"]
        assert resolve("hook", {"use": name}).every == 10


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_a_sentence_naming_the_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # import raises ImportError
    with pytest.raises(RecipeError) as caught:
        resolve("hook", name).build(tmp_path, "run")
    assert f'pip install "tilth[{name}]"' in caught.value.fix and name in caught.value.what
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_files_hold_the_logged_rows(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = resolve("hook", {"use": "tensorboard", "every": 10})
    drive(config.build(tmp_path, "run"), range(1, 18), "interrupted")
    drive(config.build(tmp_path, "run"), range(10, 26))  # steps from 10 on again: the first ones are void
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    loss = [(e.step, e.value) for e in read.Scalars("train/loss")]
    assert [s for s, _ in loss] == [101, 110, 120, 125]
    assert [v for _, v in loss] == pytest.approx([4.9, 4.0, 3.0, 2.5])
    assert [(e.step, e.value) for e in read.Scalars("held_out/bits_per_byte/code")] == [(120, 2.25)]
    assert "train/grad_norm" not in read.Tags()["scalars"]  # infinite
    assert "train/global_step" not in read.Tags()["scalars"]
    text = read.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "stages.0.optim.lr: 0.003" in text


def test_wandb_gets_rows_at_their_steps_and_the_same_id_after_a_resume(
    tmp_path: Path, fake: Callable[..., types.ModuleType]
) -> None:
    service = Recorder()
    fake("wandb", init=service.init, Error=RuntimeError)
    config = resolve("hook", {"use": "wandb", "project": "p", "entity": "e", "tags": ["t"], "every": 10})
    drive(config.build(tmp_path, "run"), range(1, 26))
    drive(config.build(tmp_path, "run"), range(21, 26), "failed")
    first, second = (k for _, k in service.named("init"))
    assert first == second and first["id"] and first["resume"] == "allow"
    assert (first["project"], first["entity"], first["tags"], first["name"]) == ("p", "e", ["t"], "run")
    assert first["config"] == SETTINGS and first["dir"] == str(tmp_path)
    assert "mode" not in first  # WANDB_MODE decides
    assert ((("*",), {"step_metric": "global_step"})) in service.named("define_metric")
    rows = [a[0] for a, _ in service.named("log")]
    assert [r["global_step"] for r in rows] == [101, 110, 120, 125, 120, 125, 120]
    assert rows[1] == {"train/loss": 4.0, "train/lr": 1e-3, "train/tokens": 40960.0, "global_step": 110}
    assert rows[4] == {"held_out/bits_per_byte/code": 2.25, "global_step": 120}
    assert [k for _, k in service.named("finish")] == [{"exit_code": 0}, {"exit_code": 1}]


def test_wandb_refusing_is_a_sentence(tmp_path: Path, fake: Callable[..., types.ModuleType]) -> None:
    class Refused(Exception):
        pass

    def init(**kwargs: Any) -> None:
        raise Refused("api_key not configured")

    fake("wandb", init=init, Error=Refused)
    with pytest.raises(RecipeError, match=r"api_key not configured.*WANDB_MODE=offline"):
        resolve("hook", "wandb").build(tmp_path, "run").on_start(RUN)


def test_trackio_gets_rows_at_their_steps(tmp_path: Path, fake: Callable[..., types.ModuleType]) -> None:
    service = Recorder()
    fake("trackio", init=service.init)
    drive(resolve("hook", {"use": "trackio", "project": "p", "every": 20}).build(tmp_path, "run"), range(1, 26))
    assert service.named("init") == [((), {"project": "p", "name": "run", "config": SETTINGS, "resume": "allow"})]
    assert [k["step"] for _, k in service.named("log")] == [101, 120, 125, 120]
    assert service.named("log")[1][0][0]["train/loss"] == 3.0
    assert len(service.named("finish")) == 1


def fake_mlflow(fake: Callable[..., types.ModuleType], known: bool = False) -> tuple[Recorder, list[str]]:
    class Client(Recorder):
        def get_experiment_by_name(self, name: str) -> Any:
            return types.SimpleNamespace(experiment_id="7") if known else None

        def create_experiment(self, name: str) -> str:
            self.calls.append(("create_experiment", (name,), {}))
            return "8"

        def create_run(self, experiment: str, run_name: str) -> Any:
            self.calls.append(("create_run", (experiment, run_name), {}))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))

    client, addresses = Client(), []

    def connect(tracking_uri: str) -> Client:
        addresses.append(tracking_uri)
        return client

    entities = types.SimpleNamespace(Param=lambda k, v: (k, v), Metric=lambda k, v, t, s: (k, v, s))
    fake("mlflow", MlflowClient=connect, MlflowException=RuntimeError, entities=entities)
    return client, addresses


@pytest.mark.parametrize("known", [False, True])
def test_mlflow_gets_settings_rows_and_status_and_goes_on_in_the_same_run(
    known: bool, tmp_path: Path, fake: Callable[..., types.ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client, addresses = fake_mlflow(fake, known)
    config = resolve("hook", {"use": "mlflow", "experiment": "e", "every": 10})
    drive(config.build(tmp_path, "run"), range(1, 16), "interrupted")
    drive(config.build(tmp_path, "run"), range(11, 26))
    assert addresses == [(tmp_path / "mlruns").as_uri()] * 2
    assert client.named("create_experiment") == ([] if known else [(("e",), {})])
    assert client.named("create_run") == [(("7" if known else "8", "run"), {})]
    assert client.named("update_run") == [(("r1",), {"status": "RUNNING"})]
    sent = [k for _, k in client.named("log_batch")]
    assert dict(sent[0]["params"]) == {k: str(v) for k, v in SETTINGS.items()}
    losses = [(s, v) for k in sent for n, v, s in k.get("metrics", []) if n == "train/loss"]
    assert losses == [(101, 4.9), (110, 4.0), (120, 3.0), (125, 2.5)]
    assert client.named("set_terminated") == [(("r1",), {"status": "KILLED"}), (("r1",), {"status": "FINISHED"})]


def test_mlflow_goes_where_the_environment_says(
    tmp_path: Path, fake: Callable[..., types.ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    _, addresses = fake_mlflow(fake)
    resolve("hook", "mlflow").build(tmp_path, "run").on_start(RUN)
    assert addresses == ["http://tracking.example"]


def test_mlflow_that_cannot_be_reached_is_a_sentence(
    tmp_path: Path, fake: Callable[..., types.ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")

    def connect(tracking_uri: str) -> None:
        raise RuntimeError("connection refused\nlong trace")

    fake("mlflow", MlflowClient=connect, MlflowException=RuntimeError)
    with pytest.raises(RecipeError, match="connection refused") as caught:
        resolve("hook", "mlflow").build(tmp_path, "run").on_start(RUN)
    assert "long trace" not in str(caught.value)


def test_identities_are_made_once_per_service_and_kept(tmp_path: Path) -> None:
    one, two = tracking.identity(tmp_path, "a"), tracking.identity(tmp_path, "b")
    assert one != two
    assert (tracking.identity(tmp_path, "a"), tracking.identity(tmp_path, "b")) == (one, two)
    assert tracking.remembered(tmp_path, "c") is None
