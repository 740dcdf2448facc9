import sys
import warnings

import pytest

from meta_rl.core.errors import UserError
from meta_rl.runs.sinks.base import Beginning
from meta_rl.runs.sinks.tensorboard import TensorBoardSink


def scalars(folder):
    """What TensorBoard's own reader finds: for each name, steps and values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder), purge_orphaned_data=True)
        events.Reload()
    found = {
        name: [(each.step, each.value) for each in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    return found, events.Tags()


def test_tensorboard_shows_a_resumed_run_as_one(tmp_path):
    pytest.importorskip("tensorboard")
    from matplotlib.figure import Figure

    killed = TensorBoardSink(tmp_path)
    killed.start(Beginning(tmp_path, "run", {}))
    for n in (1, 2, 3):
        killed.log({"loss": float(n)}, env_steps=10 * n, meta_iterations=n)
    killed.finish(succeeded=False)
    resumed = TensorBoardSink(tmp_path)
    resumed.start(Beginning(tmp_path, "run", {}, meta_iterations_before=2, env_steps_before=20))
    resumed.log({"loss": 33.0}, env_steps=30, meta_iterations=3)
    resumed.say("meta-update 3 was rejected")
    resumed.log_table("evaluation", ["task", "success"], [["reach", 0.5]])
    resumed.log_figure("curve", Figure(figsize=(1, 1)))
    resumed.finish()

    found, tags = scalars(tmp_path)
    assert found["loss"] == [(10, 1.0), (20, 2.0), (30, 33.0)]
    assert found["meta_iterations"] == [(10, 1.0), (20, 2.0), (30, 3.0)]
    assert tags["images"] == ["curve"]
    assert {"log/text_summary", "evaluation/text_summary"} <= set(tags["tensors"])


def test_without_the_package_a_run_is_refused_before_it_begins(
    monkeypatch, meta_rl, small_config, tmp_path
):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"tracking\.tensorboard needs the package tensorboard"):
        TensorBoardSink(tmp_path)

    config = small_config(tracking={"tensorboard": True})
    meta_rl("train", config).fails_with("install it with `pip install -e '.[tensorboard]'`")
    assert not (tmp_path / "runs").exists()


def test_a_run_writes_event_files_where_it_is_asked_to(meta_rl, small_config, tmp_path, run_at):
    pytest.importorskip("tensorboard")
    meta_rl("train", small_config(tracking={"tensorboard": True})).succeeds()
    run = run_at(tmp_path / "runs" / "small")
    found, tags = scalars(run.path / "tensorboard")
    logged = [(row["env_steps"], row["return/after"]) for row in run.rows if "return/after" in row]
    assert [step for step, _ in found["return/after"]] == [step for step, _ in logged]
    for (_, ours), (_, theirs) in zip(found["return/after"], logged, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert "evaluation/adaptation" in tags["images"]
