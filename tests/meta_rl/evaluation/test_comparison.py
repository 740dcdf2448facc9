import csv
import importlib.util
import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import scipy.stats
import yaml
from cases import quick
from matplotlib.colors import to_rgb

from meta_rl.core.errors import UserError
from meta_rl.core.types import RETURN, SUCCESS, Score
from meta_rl.evaluation.comparison import Group, group_runs, improvement, resampled_in
from meta_rl.evaluation.finished import load_run, load_runs
from meta_rl.evaluation.folder import Evaluations, Wanted
from meta_rl.evaluation.result import EvalResult
from meta_rl.experiment.catalog import ROOT
from meta_rl.experiment.config import load_experiment
from meta_rl.experiment.identity import shared_name
from meta_rl.reports import figures


@pytest.fixture(scope="module")
def trained(small_config, tmp_path_factory):
    """Runs of two seeds and one of other agents, trained in a few steps."""
    from meta_rl.commands.cli import main

    folder = tmp_path_factory.mktemp("trained")
    slower = {"agent": {"inner_lr": 0.05}}
    for name, agent, seed, changes in (
        ("maml-seed0", "maml_trpo", 0, {}),
        ("maml-seed1", "maml_trpo", 1, {"checkpoint_every": 2, "max_rejected": 1}),
        ("slower-seed0", "maml_trpo", 0, slower),
        ("rl2-seed0", "rl2_ppo", 0, {"agent": {"episodes_per_trial": 2}}),
    ):
        config = small_config(agent, name=name, seed=seed, **changes)
        assert main(["train", str(config), "--runs", str(folder / "runs")]) == 0
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def load(runs, *names):
    return [load_run(runs / name, Wanted()) for name in names]


def put_scores(run, names, success, times=None, **protocol):
    """Give a run another newest result: one episode of one copy, success by stage and task."""
    (old,) = (run / "evaluations").glob("*.json")
    result = EvalResult.load(old)
    old.unlink()
    cells = np.array(success, dtype=np.float64)[None, :, :, None]
    changed = replace(
        result,
        names=tuple(names),
        index=tuple(range(len(names))),
        scores={"episode_return": cells * 100, "success": cells},
        judged_by=(RETURN,) if "success_rule" in protocol else (SUCCESS, RETURN),
        adaptation_episodes=times or tuple(range(len(success))),
        protocol={**result.protocol, "tasks": len(names), **protocol},
    )
    Evaluations(run / "evaluations").save(changed)


def test_a_saved_evaluation_is_read_back_whole(runs):
    (path,) = (runs / "maml-seed0" / "evaluations").glob("*.json")
    result, _ = Evaluations(path.parent).choose(Wanted())
    assert result.summary() == json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as cells:
        np.testing.assert_array_equal(result.scores["success"], cells["success"])
        np.testing.assert_array_equal(result.scores["episode_return"], cells["episode_return"])

    cells = path.with_suffix(".npz")
    cells.write_bytes(cells.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot read the evaluation .* make it again"):
        EvalResult.load(path)
    cells.unlink()
    with pytest.raises(UserError, match=r"cannot read the evaluation .*\.npz.* make it again"):
        EvalResult.load(path)


def test_runs_that_differ_by_seed_and_bookkeeping_are_one_group(runs):
    one, two = group_runs(load(runs, "maml-seed0", "slower-seed0", "maml-seed1"))
    assert (one.label, [run.seed for run in one.runs]) == ("maml", [0, 1])
    assert (two.label, [run.seed for run in two.runs]) == ("slower", [0])
    for run, row in zip(one.runs, one.scores("episode_return", 0), strict=True):
        np.testing.assert_allclose(row, run.result.scores["episode_return"][:, 0].mean((0, 2)))


def test_a_seed_counts_once_in_a_group(runs):
    shutil.copytree(runs / "maml-seed0", runs / "again" / "maml-seed0")
    groups = group_runs(load(runs, "maml-seed0", "again/maml-seed0", "maml-seed1"))
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1], [0]]
    assert [group.label for group in groups] == [
        str(runs / "maml-seed0"),
        str(runs / "again" / "maml-seed0"),
    ]


def test_namesakes_are_told_apart_by_what_differs(runs):
    for name in ("slower-seed0", "rl2-seed0"):
        shutil.copytree(runs / name, runs / name[0] / "maml-seed0")
    groups = group_runs(load(runs, "maml-seed0", "s/maml-seed0"))
    assert [group.label for group in groups] == [
        "maml (agent.inner_lr=0.1)",
        "maml (agent.inner_lr=0.05)",
    ]
    # An agent of another kind differs in more than a label can tell.
    assert [g.label for g in group_runs(load(runs, "maml-seed0", "r/maml-seed0"))] == [
        str(runs / "maml-seed0"),
        str(runs / "r" / "maml-seed0"),
    ]


def test_agents_meet_on_the_tasks_that_both_have_played(runs):
    put_scores(runs / "maml-seed0", ["a", "a", "b"], [[1, 0, 1]])
    put_scores(runs / "slower-seed0", ["a", "c", "b"], [[0, 0, 1]])
    put_scores(runs / "rl2-seed0", ["d", "d", "d"], [[0, 0, 1]])
    maml, slower, rl2 = group_runs(load(runs, "maml-seed0", "slower-seed0", "rl2-seed0"))
    found, over = improvement(maml, slower, "success")
    assert (found.value, found.low, over) == (0.75, None, ())  # a:0 is won, b:2 a tie
    assert improvement(maml, rl2, "success") is None


def test_tables_hold_the_statistics_of_the_saved_cells(meta_rl, runs):
    told = meta_rl("compare", *runs.glob("maml*"), runs / "slower-seed0", "--format", "csv")
    rows = list(csv.DictReader(told.succeeds().out.splitlines()))
    scores = np.stack(
        [
            run.result.scores["success"][:, 1].mean((0, 2))
            for run in load(runs, "maml-seed0", "maml-seed1")
        ]
    )
    chosen = {
        row["statistic"]: row
        for row in rows
        if (row["group"], row["quantity"], row["stage"]) == ("maml", "success", "1")
    }
    assert float(chosen["IQM"]["value"]) == scipy.stats.trim_mean(scores, 0.25, axis=None)
    assert float(chosen["mean"]["value"]) == pytest.approx(scores.mean())
    assert float(chosen["median"]["value"]) == np.median(scores.mean(0))
    assert sorted(chosen["IQM"]["seeds"].split()) == ["0", "1"]
    assert chosen["IQM"]["over"] == "seeds tasks"
    single = next(row for row in rows if row["group"] == "slower")
    assert (single["seeds"], single["over"]) == ("0", "tasks")
    (won,) = (r for r in rows if r["other"] and r["quantity"] == "episode_return")
    assert won["statistic"] == "probability_of_improvement"
    assert float(won["low"]) <= float(won["value"]) <= float(won["high"])
    # What is not the table is on the other stream.
    assert "one seed: its interval is over tasks only" in told.err
    assert "two to nine seeds" in told.err and "comparison.png" in told.err


def test_wall_time_is_that_of_the_checkpoint_that_was_measured(meta_rl, runs):
    trained = load(runs, "maml-seed0")[0].result.env_steps
    times = [(0, 5.0), (trained, 59.6), (trained + 1, 90.0)]
    write_metrics(
        runs / "maml-seed0",
        [{"env_steps": steps, "wall_time_s": time} for steps, time in times],
    )
    write_metrics(runs / "maml-seed1", [{"env_steps": trained, "wall_time_s": 3725.2}])
    (runs / "slower-seed0" / "metrics.jsonl").unlink()
    assert load(runs, "maml-seed0")[0].wall_time_s == 59.6
    told = meta_rl("compare", *runs.glob("maml*"), runs / "slower-seed0", "--format", "csv")
    rows = list(csv.DictReader(told.succeeds().out.splitlines()))
    shown = {row["group"]: set(row["wall_time_s"].split()) for row in rows if not row["other"]}
    assert shown == {"maml": {"59.6", "3725.2"}, "slower": {"-"}}
    page = meta_rl("compare", *runs.glob("maml*"), "--format", "markdown").succeeds().out
    assert "| 0:01:00 to 1:02:05 |" in page


def test_the_terminal_and_the_page_show_the_same(meta_rl, runs, tmp_path):
    both = ("compare", *sorted(runs.glob("maml*")), runs / "slower-seed0")
    terminal = meta_rl(*both).succeeds().out
    page = meta_rl(*both, "--output", "tables/all.md").succeeds()
    assert "tables/all.md" in page.out and page.err == ""
    markdown = (tmp_path / "tables" / "all.md").read_text()
    assert markdown.count("\n**") + 1 == 3  # success, return, probability of improvement
    for line in markdown.splitlines():
        if line.startswith("| maml"):
            for cell in filter(None, map(str.strip, line.split("|"))):
                assert cell in terminal
    assert "tasks only" in terminal and "seeds and tasks" in terminal

    latex = meta_rl(*both, "--format", "latex").succeeds().out
    assert latex.count(r"\begin{tabular}{lrrrrrrrr}") == 2
    (head,) = {line for line in latex.splitlines() if line.startswith("group & seeds")}
    body = [line for line in latex.splitlines() if line.startswith(("maml &", "slower &"))]
    assert all(line.endswith(r"\\") for line in body)
    assert {line.count("&") for line in body} == {head.count("&"), 4}


def test_latex_escapes_what_means_something_to_it():
    from meta_rl.reports.tables import TextTable

    text = TextTable("t", ["group_a", "95 %"], [["a&b {1}", r"50 \$"]]).text("latex")
    assert r"group\_a & 95 \% \\" in text
    assert r"a\&b \{1\} & 50 \textbackslash{}\$ \\" in text
    text = TextTable("t", ["[a]"], [["[x] [y]"], ["*"], ["a|b<c>"]]).text("latex")
    assert [line for line in text.splitlines() if line.endswith(r"\\")] == [
        r"{[}a] \\",
        r"{[}x] [y] \\",
        r"{*} \\",
        r"a\textbar{}b\textless{}c\textgreater{} \\",
    ]


def test_a_breakdown_is_by_name_or_by_goal_where_there_is_one_name(meta_rl, runs):
    words = ("--by-task", "--stage", 0, "--format", "csv")

    def means(*names):
        told = meta_rl("compare", *(runs / name for name in names), *words).succeeds()
        return {
            (row["group"], row["task"]): row
            for row in csv.DictReader(told.out.splitlines())
            if (row["quantity"], row["statistic"]) == ("success", "mean")
        }

    one_name = means("maml-seed0")
    assert {task for _, task in one_name} == {"", "point:0", "point:1", "point:2"}
    assert one_name["maml", "point:0"]["low"] == ""  # one seed on one goal

    put_scores(runs / "maml-seed0", ["push", "push", "door"], [[1, 0, 1]])
    put_scores(runs / "maml-seed1", ["push", "push", "door"], [[1, 1, 0]])
    rows = means("maml-seed0", "maml-seed1")
    assert {key: float(row["value"]) for key, row in rows.items()} == {
        ("maml", ""): pytest.approx(4 / 6),
        ("maml", "push"): 0.75,
        ("maml", "door"): 0.5,
    }
    # `door` has one goal, so neither it nor all tasks together can be resampled by task.
    assert [rows["maml", task]["over"] for task in ("", "push", "door")] == [
        "seeds",
        "seeds tasks",
        "seeds",
    ]
    assert (rows["maml", "door"]["low"], rows["maml", "door"]["high"]) == ("0.0", "1.0")


def test_stages_are_chosen_and_those_that_are_not_there_refused(meta_rl, runs):
    run = runs / "maml-seed0"
    put_scores(run, ["a", "a"], [[0, 0], [0, 1], [1, 1], [1, 1], [1, 1]])

    def episodes(*words):
        told = meta_rl("compare", run, "--format", "csv", *words).succeeds().out
        return {row["adaptation_episodes"] for row in csv.DictReader(told.splitlines())}

    assert episodes() == {"0", "4"}
    assert episodes("--stage", -1) == {"4"}
    assert episodes("--stage", 2) == {"2"}
    meta_rl("compare", run, "--stage", 5).fails_with(
        "no stage 5 of maml: its evaluation has the stages 0 to 4", "--adaptation-steps N"
    )


def test_a_stage_that_agents_reach_by_unlike_experience_is_warned_of(meta_rl, runs):
    same = {"adaptation_episodes": 10, "evaluation_episodes": 1}
    put_scores(runs / "maml-seed0", ["a", "a"], [[0, 0], [1, 1]], times=(0, 10), **same)
    put_scores(runs / "rl2-seed0", ["a", "a"], [[0, 0], [0, 1], [1, 1]], times=(0, 5, 10), **same)
    words = ("--by-task", "--format", "markdown", "--stage")
    both = ("compare", runs / "maml-seed0", runs / "rl2-seed0", *words)
    told = meta_rl(*both, 1).succeeds()
    warning = "warning: stage 1 is not the same for all, in adaptation episodes: maml: 10; rl2: 5"
    assert warning in told.err.splitlines()
    assert "**success by task, mean after 10 or 5 adaptation episodes**" in told.out
    told = meta_rl(*both, -1).succeeds()
    assert "not the same" not in told.err and "mean after 10 adaptation episodes**" in told.out


def test_tables_of_changing_tasks_say_which_times_they_speak_of(meta_rl, runs, tmp_path):
    """Right after a change nothing succeeds, in the three episodes that follow everything."""
    changing = {"since_the_change_in": "episodes", "between_changes": 4}
    both = [runs / name for name in ("maml-seed0", "slower-seed0")]
    for run in both:
        put_scores(run, ["a", "a"], [[0, 0], [1, 1]], **changing)
    rows = csv.DictReader(meta_rl("compare", *both, "--format", "csv").succeeds().out.splitlines())
    assert {row["stage"] for row in rows if row["other"]} == {""}
    assert "probability of improvement over all times since a change" in (
        meta_rl("compare", *both).succeeds().out
    )
    meta_rl("report", *both).succeeds()
    page = (tmp_path / "report.html").read_text()
    assert "each task just after a change" in page and "each task right before the next" in page
    assert "threshold of success, over all times since a change" in page
    assert "before adaptation" not in page


def test_what_has_no_interval_is_said_to_have_none(meta_rl, runs):
    run = runs / "slower-seed0"
    told = meta_rl("compare", run, "--resampling", "rliable", "--figures", "some").succeeds().out
    assert "no intervals, as there is nothing to resample" in told
    assert "bootstrap" not in told and "one seed" not in told
    (group,) = group_runs(load(runs, "slower-seed0"))
    title = figures.sample_efficiency([group], ["return/after"]).get_suptitle()
    assert title == "training, no intervals"


def test_tasks_that_are_all_there_are_have_no_interval(meta_rl, runs):
    """Of one seed on two directions nothing is a sample: an interval would be their two values."""
    both = [[0.0, 1.0], [1.0, 1.0]]
    put_scores(runs / "maml-seed0", ["way", "way"], both)
    put_scores(runs / "slower-seed0", ["way", "way"], both, splits="both are in every split")
    sample, whole = (load_run(runs / name, Wanted()) for name in ("maml-seed0", "slower-seed0"))
    assert sample.result.summary()["stages"][0]["success"] == {"mean": 0.5, "low": 0.0, "high": 1.0}
    none = {"mean": 0.5, "low": None, "high": None}
    assert whole.result.summary()["stages"][0]["success"] == none
    told = meta_rl("compare", runs / "slower-seed0").succeeds().out
    assert "no intervals, as there is nothing to resample" in told and "over tasks" not in told


def test_rliables_resampling_is_there_for_who_wants_it(meta_rl, runs):
    both = ("compare", *runs.glob("maml*"), "--format", "csv", "--resampling")
    whole, rliable = (
        list(csv.DictReader(meta_rl(*both, kind).succeeds().out.splitlines()))
        for kind in ("whole-runs", "rliable")
    )
    assert {row["over"] for row in whole} == {"seeds tasks"}
    assert {row["over"] for row in rliable} == {"seeds"}
    assert [row["value"] for row in whole] == [row["value"] for row in rliable]
    assert [row["low"] for row in whole] != [row["low"] for row in rliable]


def test_mixed_checkpoints_in_a_group_are_warned_of(meta_rl, runs):
    for path in (runs / "maml-seed1" / "evaluations").iterdir():
        path.unlink()
    meta_rl("evaluate", runs / "maml-seed1", "--checkpoint", "best").succeeds()
    told = meta_rl("compare", *runs.glob("maml*")).succeeds().out
    assert "warning: maml mixes best and latest checkpoints" in told


def test_unlike_and_flattering_checkpoints_are_warned_of(meta_rl, runs):
    latest, best = runs / "maml-seed0", runs / "slower-seed0"
    (path,) = (best / "evaluations").glob("*.json")
    replace(EvalResult.load(path), checkpoint="best").save_as(path)
    told = meta_rl("compare", latest, best).succeeds().out
    assert "warning: not the same checkpoint of all: maml: latest; slower: best" in told
    assert "too good" not in told
    config = best / "config.yaml"
    data = yaml.safe_load(config.read_text())
    data["evaluation"] |= {"every": 1, "choose_on": "test"}
    config.write_text(yaml.safe_dump(data))
    told = meta_rl("compare", latest, best).succeeds().out
    assert "warning: the best checkpoint of slower was chosen on the same tasks" in told


def test_seeds_that_were_trained_for_unlike_times_are_warned_of(meta_rl, runs):
    both = [runs / f"maml-seed{seed}" for seed in (0, 1)]
    assert "were trained for" not in meta_rl("compare", *both).succeeds().out
    (path,) = (both[1] / "evaluations").glob("*.json")
    replace(EvalResult.load(path), meta_iterations=1).save_as(path)
    told = meta_rl("compare", *both).succeeds().out
    assert "warning: seeds of maml were trained for 1 to 2 meta-iterations" in told


def test_intervals_over_few_seeds_and_tasks_are_told(meta_rl, runs):
    both = [runs / f"maml-seed{seed}" for seed in (0, 1)]
    for few in (4, 5):
        for run in both:
            put_scores(run, ["a"] * few + ["b"] * 9, [[0, 1] * 5 + [0] * (few - 1)])
        told = meta_rl("compare", *both).succeeds().out
        assert "two to nine seeds: a bootstrap of so few is too narrow" in told
        assert ("fewer than five tasks of a name" in told) is (few == 4)


def test_of_several_ways_to_learn_in_changing_tasks_the_run_s_own_counts(runs):
    run = runs / "maml-seed0"
    changing = {"since_the_change_in": "episodes", "between_changes": 4}
    put_scores(run, ["a", "a"], [[0, 0], [1, 1]], learning="never", **changing)
    (never,) = (run / "evaluations").glob("*.json")
    result = EvalResult.load(never)
    own = {**result.protocol, "learning": "memory"}
    later = replace(result, protocol=own, made_at="2020-01-01T00:00:00+00:00")  # made earlier
    Evaluations(run / "evaluations").save(later)
    assert load_run(run, Wanted()).result.protocol["learning"] == "never"
    (run / "protocol.json").write_text(json.dumps(own))
    assert load_run(run, Wanted()).result.protocol["learning"] == "memory"


def test_a_picture_s_title_tells_which_groups_have_intervals_over_seeds(runs):
    groups = group_runs(load(runs, "maml-seed0", "maml-seed1", "slower-seed0"))
    both, one = groups
    assert resampled_in([both], "whole-runs") == "seeds and tasks"
    assert resampled_in([one], "whole-runs") == "tasks"
    assert resampled_in(groups, "whole-runs") == "seeds (where there are several) and tasks"


def write_metrics(run, rows):
    lines = [json.dumps({"meta_iterations": n, **row}) + "\n" for n, row in enumerate(rows)]
    # The last line is one that a kill has cut short.
    (run / "metrics.jsonl").write_text("".join(lines) + '{"env_steps": 9')


def test_learning_curves_are_means_where_all_seeds_have_got(runs):
    counters = ("env_steps", "wall_time_s", "success/after")
    for name, points in (
        ("maml-seed0", [(0, 60, 0.0), (2e6, 180, 1.0)]),
        ("maml-seed1", [(1e6, 60, 0.5), (2e6, 120, None), (3e6, 180, 0.5)]),
        ("slower-seed0", [(1e6, 60, 0.25)]),
    ):
        write_metrics(runs / name, [dict(zip(counters, point, strict=True)) for point in points])
    groups = group_runs(load(runs, "maml-seed0", "maml-seed1", "slower-seed0"))
    figure = figures.sample_efficiency(groups, ["success/after"])
    against_steps, against_time = figure.axes
    maml, slower = against_steps.lines
    x, y = maml.get_data()
    assert (x[0], x[-1]) == (1, 2)  # millions, from where both have begun to where one ends
    np.testing.assert_allclose(y, (x / 2 + 0.5) / 2)
    np.testing.assert_allclose(slower.get_ydata(), 0.25)
    assert (maml.get_marker(), slower.get_marker()) == ("None", "o")  # a point has no line
    np.testing.assert_allclose(against_time.lines[0].get_data()[0][[0, -1]], [1, 3])  # minutes
    (band,) = against_steps.collections  # of two seeds the ends are their own curves
    assert band.get_datalim(against_steps.transData).intervaly == pytest.approx([0.5, 1.0])


def test_pictures_show_the_scores(runs):
    put_scores(runs / "maml-seed0", ["push", "push", "door"], [[0, 0, 0], [1, 0, 1]])
    put_scores(runs / "maml-seed1", ["push", "push", "door"], [[0, 0, 0], [1, 1, 0]])
    groups = group_runs(load(runs, "maml-seed0", "maml-seed1"))
    success, episode_return = figures.adaptation_curves(groups).axes
    np.testing.assert_allclose(success.lines[0].get_xydata(), [[0, 0], [1, 4 / 6]])
    np.testing.assert_allclose(episode_return.lines[0].get_ydata(), [0, 400 / 6])

    x, y = figures.performance_profiles(groups, "success").axes[0].lines[0].get_data()
    np.testing.assert_allclose(y, np.where(x < 1, 4 / 6, 0))

    cells = figures.heat_map(groups).axes[0].images[0].get_array()
    np.testing.assert_allclose(cells, [[0.75, 0.5]])


def test_one_stage_has_an_interval_and_a_whole_number_of_episodes(runs):
    put_scores(runs / "maml-seed0", ["push"] * 3, [[0, 1, 1]])
    groups = group_runs(load(runs, "maml-seed0"))
    axis = figures.adaptation_curves(groups, ["success"]).axes[0]
    ((_, low), (_, high)) = axis.collections[0].get_segments()[0]
    assert axis.get_xlim() == (-0.5, 0.5) and low < 2 / 3 < high


@pytest.mark.parametrize("success", [0, 1])
def test_equal_scores_have_a_profile(runs, meta_rl, tmp_path, success):
    put_scores(runs / "maml-seed0", ["push", "push", "door"], [[success] * 3] * 6)
    groups = group_runs(load(runs, "maml-seed0"))
    x, y = figures.performance_profiles(groups, "success").axes[0].lines[0].get_data()
    assert (x[0], x[-1]) == (0, 1) and (y[x < 1] == success).all()
    meta_rl("report", runs / "maml-seed0", "--output", tmp_path / "page.html").succeeds()
    page = (tmp_path / "page.html").read_text()
    assert re.search(r">0\.00</th>.*>0\.25</th>.*>1\.00</th>", page)
    assert all(f">{stage}</td>" in page for stage in range(6))  # the table has every stage


LONG = "maml (protocol.tasks=12, protocol.adaptation_episodes=18, agent.normalize_advantage=False)"


def test_long_labels_have_room_in_every_picture(runs):
    groups = [replace(group_runs(load(runs, "maml-seed0"))[0], label=LONG)]
    for picture in (figures.heat_map(groups), figures.performance_profiles(groups, "success")):
        picture.draw_without_rendering()
        (axis, *_), page = picture.axes, picture.bbox
        assert axis.get_window_extent().width > 1.5 * picture.dpi
        for legend in picture.legends:
            box = legend.get_window_extent()
            assert page.x0 <= box.x0 and box.x1 <= page.x1


def test_a_dozen_groups_look_different_and_alike_in_every_picture(runs):
    (group,) = group_runs(load(runs, "maml-seed0"))
    groups = [
        replace(group, label=f"an agent whose name is long, number {number}")
        for number in range(12)
    ]
    write_metrics(runs / "maml-seed0", [{"env_steps": 1, "wall_time_s": 1, "success/after": 0}])
    pictures = (
        figures.adaptation_curves(groups),
        figures.sample_efficiency(groups, ["success/after"]),
        figures.performance_profiles(groups, "success"),
    )
    looks = [
        [(to_rgb(line.get_color()), line.get_linestyle()) for line in picture.axes[0].lines]
        for picture in pictures
    ]
    assert len(set(looks[0])) == 12 and looks[0] == looks[1] == looks[2]
    for picture in pictures:  # the legend leaves them room
        picture.draw_without_rendering()
        height = picture.axes[0].get_window_extent().height / picture.dpi
        assert height > 1.5  # inches


def test_all_pictures_are_written_for_families_with_and_without_success(meta_rl, runs, tmp_path):
    names = ["adaptation.png", "profiles.png", "sample_efficiency.png", "tasks.png"]
    both = (*runs.glob("maml*"), runs / "rl2-seed0", "--allow-different-protocols")
    meta_rl("compare", *both, "--figures", "some").succeeds()
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == names
    assert all(path.stat().st_size > 5000 for path in (tmp_path / "some").iterdir())
    assert not (runs / "comparison.png").exists()

    run = runs / "slower-seed0"
    many = ["point"] * 60  # too many to name each in the heat map; one score, so no spread
    put_scores(run, many, [[0.0] * 60, [0.0] * 60], success_rule=None)
    chosen = ("--metrics", "return/before", "inner/kl")
    outcome = meta_rl("compare", run, "--figures", "others", *chosen).succeeds()
    assert sorted(path.name for path in (tmp_path / "others").iterdir()) == names
    assert re.search(r"\breturn\b", outcome.out) and "success" not in outcome.out

    meta_rl("compare", run, "--figures", "x", "--metrics", "return/befor").fails_with(
        "no metric 'return/befor' in metrics.jsonl; did you mean 'return/before'? There are: env"
    )
    (run / "metrics.jsonl").unlink()
    meta_rl("compare", run, "--figures", "bare").succeeds()
    assert sorted(path.name for path in (tmp_path / "bare").iterdir()) == [
        name for name in names if name != "sample_efficiency.png"
    ]


def test_an_older_run_without_a_newer_field_belongs_to_its_group(runs):
    path = runs / "maml-seed1" / "config.yaml"
    data = yaml.safe_load(path.read_text())
    del data["agent"]["curvature_stride"], data["evaluation"]
    path.write_text(yaml.safe_dump(data))
    (group,) = group_runs(load(runs, "maml-seed0", "maml-seed1"))
    assert isinstance(group, Group) and len(group.runs) == 2


@pytest.fixture(scope="module")
def record():
    """scripts/record_results.py as a module."""
    spec = importlib.util.spec_from_file_location("record", ROOT / "scripts" / "record_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_results_are_recorded_from_runs(record, runs, tmp_path, capsys):
    output = tmp_path / "results.json"
    record.main(record.Args(output, tuple(runs / f"maml-seed{seed}" for seed in (1, 0))))
    recorded = json.loads(output.read_text())["runs"]
    assert [(entry["config"], entry["seed"]) for entry in recorded] == [("maml", 0), ("maml", 1)]
    mean = np.mean([entry["stages"][1]["success"]["mean"] for entry in recorded])
    assert "| maml | test, sampled | 2 | " in capsys.readouterr().out and 0 <= mean <= 1


def test_what_was_measured_otherwise_is_recorded_in_rows_of_its_own(record, runs, tmp_path, capsys):
    both, output = (runs / "maml-seed0", runs / "maml-seed1"), tmp_path / "results.json"
    put_scores(both[1], ["a", "a"], [[0, 0], [1, 1]])  # other tasks, so another protocol
    record.main(record.Args(output, both))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| maml |")]
    told = r"\| maml \| test, sampled, protocol (\w+) \| 1 \| "
    protocols = {re.match(told, row)[1] for row in rows}
    assert len(rows) == 2 * 2 and len(protocols) == 2
    assert any(row.endswith("| 1 | 1.00 (1.00) | 100.0 (100.0) |") for row in rows)


def test_namesakes_of_other_settings_are_recorded_in_rows_of_their_own(
    record, runs, tmp_path, capsys
):
    other = runs / "others" / "maml-seed1"
    shutil.copytree(runs / "slower-seed0", other)
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("\nseed: 0\n", "\nseed: 1\n"))
    record.main(record.Args(tmp_path / "results.json", (runs / "maml-seed0", other)))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| maml |")]
    assert len({row.split(" | ")[1] for row in rows}) == 2
    assert all(re.search(r"sampled, settings \w+ \| 1 \|", row) for row in rows)
    twice = runs / "again" / "maml-seed0"
    shutil.copytree(runs / "maml-seed0", twice)
    with pytest.raises(UserError, match="two of the runs are seed 0 of maml with the same"):
        record.main(record.Args(tmp_path / "results.json", (runs / "maml-seed0", twice)))


def test_seeds_are_shown_by_the_protocol_that_they_share_whatever_else_is_compared(runs):
    seeds = (runs / "maml-seed0", runs / "maml-seed1")
    (first,) = (seeds[0] / "evaluations").glob("*.json")
    newer = EvalResult.load(first)
    newer = replace(
        newer, protocol={**newer.protocol, "tasks": 99}, made_at=datetime.now(UTC).isoformat()
    )
    Evaluations(seeds[0] / "evaluations").save(newer)
    put_scores(runs / "slower-seed0", ["a", "a"], [[0, 0], [1, 1]])
    loaded, _ = load_runs([*seeds, runs / "slower-seed0"], Wanted())
    assert [len(group.runs) for group in group_runs(loaded)] == [2, 1]


def test_agents_that_learned_otherwise_and_all_scores_are_recorded(record, runs, tmp_path, capsys):
    both = (runs / "maml-seed0", runs / "maml-seed1")
    changing = {"since_the_change_in": "episodes", "between_changes": 4}
    for run, learning in zip(both, ("never", "memory"), strict=True):
        put_scores(run, ["a", "a"], [[0, 0], [1, 1]], learning=learning, **changing)
        (path,) = (run / "evaluations").glob("*.json")
        result = EvalResult.load(path)
        scores = {"regret": result.scores["success"]}
        judged_by = (Score("regret", "regret", "regret", "sum", False),)
        replace(result, scores=scores, judged_by=judged_by).save_as(path)
    record.main(record.Args(tmp_path / "results.json", both))
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert "| episodes since the change | regret: mean over seeds (each) |" in head
    assert [row.split(" | ")[1:3] for row in rows[::2]] == [
        [f"test, sampled, learning: {learning}", "1"] for learning in ("memory", "never")
    ]


def test_runs_of_other_programs_are_compared_without_their_settings(meta_rl, runs):
    config = runs / "slower-seed0" / "config.yaml"
    data = yaml.safe_load(config.read_text())
    known = {name: data[name] for name in ("version", "name", "seed", "envs")}
    config.write_text(yaml.safe_dump(known | {"agent": {"name": "sb3_foo"}}))
    meta_rl("compare", runs / "slower-seed0", runs / "maml-seed0").succeeds()


def test_runs_of_other_programs_are_recorded_under_their_own_seed_alone(record, runs):
    run, config = runs / "slower-seed0", runs / "slower-seed0" / "config.yaml"
    data = yaml.safe_load(config.read_text()) | {"agent": {"name": "sb3_ppo", "episodes": [1]}}
    config.write_text(yaml.safe_dump(data))
    assert record.record(run, "test", "sampled")["seed"] == 0
    with pytest.raises(UserError, match="another seed than its own; call it slower-seed0"):
        record.record(run.rename(runs / "slower-seed7"), "test", "sampled")


def test_seeds_share_a_name_that_other_settings_do_not(small_config):
    one = load_experiment(str(small_config("maml_trpo", name="nav-seed0")))
    seed = replace(one, seed=1, name="nav-seed1", threads=2)
    other = replace(one, meta_iterations=3)

    assert shared_name(one) == shared_name(seed) != shared_name(other)
    assert re.fullmatch(r"nav-[0-9a-f]{8}", shared_name(one))


def test_runs_without_a_common_score_are_refused(meta_rl, runs):
    (path,) = (runs / "slower-seed0" / "evaluations").glob("*.json")
    result = EvalResult.load(path)
    accuracy = Score("accuracy", "accuracy", "correct", "mean")
    scores = {"accuracy": result.scores["success"]}
    replace(result, scores=scores, judged_by=(accuracy,)).save_as(path)
    both = (runs / "maml-seed0", runs / "slower-seed0", "--allow-different-protocols")
    for command in ("compare", "report"):
        meta_rl(command, *both).fails_with(
            "no score in common (maml: success, episode_return; slower: accuracy)"
        )


def test_a_report_of_different_protocols_is_headed_by_all_of_them(meta_rl, runs, tmp_path):
    put_scores(runs / "slower-seed0", ["a", "b"], [[0, 1]], benchmark="Other")
    both = (runs / "maml-seed0", runs / "slower-seed0", "--allow-different-protocols")
    meta_rl("report", *both, "--output", tmp_path / "report.html").succeeds()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "point_navigation / Other: adaptation to held-out tasks" in page
    assert "2 runs, measured on 3 / 2 held-out tasks." in page


NAMES = [
    *("_ablation", "__", "$x", "a$\\frac{1$", "50% & more", "#1 {x}", "~^_", "ünïcödé", "a|b"),
    *("[red]x[/red]", "[/]", ":smile:", "<b>bold</b>", "a&amp;b", "'quoted\"", ' id="x"'),
    *("#010203", "url(#x)", "日本語", "😀", "-seed0"),
]


@pytest.fixture
def named(runs):
    """One group for each name; all have metrics of training."""
    run = load(runs, "maml-seed0")[0]
    write_metrics(run.path, [{"env_steps": 1, "wall_time_s": 1, "success/after": 0}])
    return [Group(name, (replace(run),)) for name in NAMES]


def legend_of(figure):
    figure.draw_without_rendering()
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def drawn(name):
    """A name as pictures have it: letters that no font of this machine has are escaped."""
    from meta_rl.reports.names import as_it_stands

    return as_it_stands(f"{name}, 1 seed")[0]


def test_every_group_is_in_the_legend_under_its_own_name(named, tmp_path):
    for picture in (
        figures.adaptation_curves(named),
        figures.sample_efficiency(named, ["success/after"]),
        figures.performance_profiles(named, "success"),
    ):
        assert legend_of(picture) == [drawn(name) for name in NAMES]
        picture.savefig(tmp_path / "picture.png")
    heat = figures.heat_map(named)
    heat.savefig(tmp_path / "picture.png")
    assert [t.get_text() for t in heat.axes[0].get_yticklabels()] == [drawn(n) for n in NAMES]
    for name in NAMES[:-4]:
        assert drawn(name) == f"{name}, 1 seed"


def test_a_group_that_only_a_later_panel_shows_is_in_the_legend(runs):
    write_metrics(runs / "maml-seed0", [{"env_steps": 1, "wall_time_s": 1, "a": 0, "b": 1}])
    write_metrics(runs / "slower-seed0", [{"env_steps": 1, "wall_time_s": 1, "b": 1}])
    groups = group_runs(load(runs, "maml-seed0", "slower-seed0"))
    picture = figures.sample_efficiency(groups, ["a", "b"])
    assert legend_of(picture) == ["maml, 1 seed", "slower, 1 seed"]


def test_a_seed_that_never_logged_a_metric_is_counted_in_the_legend(runs):
    for name, metrics in (("maml-seed0", {"a": 1.0}), ("maml-seed1", {}), ("slower-seed0", {})):
        write_metrics(runs / name, [{"env_steps": 1, "wall_time_s": 1} | metrics])
    groups = group_runs(load(runs, "maml-seed0", "maml-seed1", "slower-seed0"))
    assert legend_of(figures.sample_efficiency(groups, ["a"])) == ["maml, 1 of 2 seeds"]


def test_no_curve_goes_on_beyond_its_end(runs):
    counters = ("env_steps", "wall_time_s", "a")
    for name, points in (
        ("maml-seed0", [(1e6, 60, 0.0), (2e6, 120, 1.0)]),
        ("maml-seed1", [(3e6, 180, 1.0), (4e6, 240, 1.0)]),
        ("slower-seed0", [(1e6, 60, 0.5)]),
    ):
        write_metrics(runs / name, [dict(zip(counters, point, strict=True)) for point in points])
    groups = group_runs(load(runs, "maml-seed0", "maml-seed1", "slower-seed0"))
    *apart, line = figures.sample_efficiency(groups, ["a"], ["env_steps"]).axes[0].lines
    assert line.get_label().startswith("slower")
    assert [(thin.get_label(), thin.get_xdata().tolist()) for thin in apart] == [
        ("maml, 2 seeds", [1, 2]),
        ("maml, 2 seeds", [3, 4]),
    ]
    for name, end in (("maml-seed0", 1e6), ("maml-seed1", 3e6)):
        write_metrics(runs / name, [{"env_steps": end, "wall_time_s": 60, "a": end / 1e6}])
    groups = group_runs(load(runs, "maml-seed0", "maml-seed1"))
    (line,) = figures.sample_efficiency(groups, ["a"], ["env_steps"]).axes[0].lines
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([2.0], [2.0])


def test_a_page_shows_every_group_under_its_own_name(named):
    from xml.etree import ElementTree

    from meta_rl.reports.page import inline_svg

    picture = figures.performance_profiles(named, "success")
    root = ElementTree.fromstring(str(inline_svg(picture, "profile", "x")))
    texts = {"".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")}
    assert {drawn(name) for name in NAMES} <= texts


def test_tables_show_names_as_they_stand(capsys):
    from meta_rl.reports.tables import TextTable

    table = TextTable("t", ["group"], [[name] for name in NAMES])
    table.print()
    shown = capsys.readouterr().out
    assert all(f"│ {name} " in shown for name in NAMES)
    lines = table.text("markdown").splitlines()[4:]
    assert [line.replace(r"\|", "").count("|") for line in lines] == [2] * len(NAMES)


@pytest.mark.parametrize(
    "name",
    quick(["_ablation", "$x", "[red]", "line\nbreak", "bad\udcff"], ["line\nbreak", "bad\udcff"]),
)
def test_a_run_of_any_name_is_compared_and_reported(meta_rl, runs, name, tmp_path):
    shutil.copytree(runs / "maml-seed0", runs / name)
    told = meta_rl("compare", runs / name, runs / "slower-seed0", "--figures", "pictures")
    shown = name.replace("\n", r"\n").replace("\udcff", r"\udcff")
    assert f"│ {shown} " in told.succeeds().out
    meta_rl("report", runs / name, runs / "slower-seed0").succeeds()
    assert f">{shown}</th>" in (tmp_path / "report.html").read_text()
