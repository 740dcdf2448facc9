"""Runs that begin with what another one has learned."""

import pytest
import torch

from meta_rl.runs import checkpoint


@pytest.fixture
def trained(meta_rl, small_config, tmp_path):
    """Train a small agent, and return its run folder."""

    def train(agent="maml_ppo", /, name="first", *flags, **changes):
        config = small_config(agent, name=name, **changes)
        meta_rl("train", config, *flags).succeeds()
        return tmp_path / "runs" / name

    return train


def state(run):
    return checkpoint.load(run / "checkpoints" / "latest.pt")


def begun(trained, tmp_path, agent="maml_ppo", /, **changes):
    """Train another one that begins with the first."""
    return trained(agent, "second", "--from", tmp_path / "runs" / "first", **changes)


def test_it_begins_with_the_other_s_parameters_and_counts_its_own_env_steps(
    trained, meta_rl, tmp_path, run_at
):
    first = trained(meta_iterations=2)
    # An outer step of nothing keeps what the run began with.
    second = begun(trained, tmp_path, meta_iterations=1, agent={"outer_lr": 1e-30})
    theirs, ours = state(first)["agent"]["theta"], state(second)["agent"]["theta"]
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-12)
    assert state(second)["env_steps"] < state(first)["env_steps"]
    compared = meta_rl("compare", first, second)
    compared.succeeds()
    steps = f"{state(first)['env_steps']:,}"
    told = " ".join((compared.out + compared.err).split())
    assert f"second began with the agent of {first}, trained for {steps} env steps" in told


def test_an_agent_of_another_kind_takes_what_both_have(trained, tmp_path):
    first = trained("multitask_ppo", meta_iterations=2)
    second = begun(
        trained,
        tmp_path,
        "maml_ppo",
        meta_iterations=1,
        agent={"outer_lr": 1e-30, "step_sizes": "per_parameter"},
    )
    theirs, ours = state(first)["agent"]["theta"], state(second)["agent"]["theta"]
    assert theirs.keys() < ours.keys()  # the step sizes are its own
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("agents", [("multitask_ppo", "promp"), ("promp", "maml_ppo")])
def test_what_agents_learn_beside_their_policy_begins_anew(trained, tmp_path, agents):
    first = trained(agents[0], meta_iterations=2)
    second = begun(trained, tmp_path, agents[1], meta_iterations=1, agent={"outer_lr": 1e-30})
    theirs, ours = state(first)["agent"]["theta"], state(second)["agent"]["theta"]
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-12)


def test_what_only_one_of_two_memories_has_is_told(trained, meta_rl, small_config, tmp_path):
    first = trained("rl2_ppo", agent={"memory": "gru", "memory_size": 8})
    agent = {"memory": "transformer", "memory_size": 8, "layers": 1, "heads": 2}
    told = meta_rl(
        "train", small_config("rl2_ppo", name="second", agent=agent), "--from", first
    ).succeeds()
    words = " ".join((told.out + told.err).split())
    assert f"note: begun anew, as {first} has nothing that fits: policy.memory" in words
    assert f"note: left out of {first}, as this agent has no such part: policy.memory" in words


def test_a_model_that_was_given_is_planned_by_at_once(trained, tmp_path, run_at):
    first = trained("mbrl", meta_iterations=1, seed=3)
    second = begun(trained, tmp_path, "mbrl", meta_iterations=1, seed=4)
    told = [
        any("prediction/error_before" in row for row in run_at(r).rows) for r in (first, second)
    ]
    assert told == [False, True]
    assert state(second)["agent"]["planner_seed"] == 4


def test_a_run_that_began_so_is_resumed_as_any_other(trained, meta_rl, tmp_path, identical):
    trained(meta_iterations=1)
    whole = begun(trained, tmp_path, meta_iterations=3)
    expected = state(whole)["agent"]
    cut = trained("maml_ppo", "third", "--from", tmp_path / "runs" / "first", meta_iterations=1)
    meta_rl("train", "--resume", cut, "--meta-iterations", 3).succeeds()
    assert identical(state(cut)["agent"], expected)


@pytest.mark.parametrize(
    ("agent", "changes", "message"),
    [
        ("rl2_ppo", {}, "no parameters in common"),
        ("maml_ppo", {"agent": {"hidden_sizes": [7]}}, "give both networks the same sizes"),
        ("maml_ppo", {"envs": {"name": "metaworld"}}, "its policy observes Box"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    trained, meta_rl, small_config, tmp_path, agent, changes, message
):
    first = trained(meta_iterations=1)
    refused = meta_rl("train", small_config(agent, name="second", **changes), "--from", first)
    assert refused.code == 1 and message in " ".join(refused.err.split())
    assert not (tmp_path / "runs" / "second").exists()


@pytest.mark.parametrize(("theirs", "whose"), [(True, "its maml_ppo"), (False, "this agent")])
def test_what_sees_normalized_observations_does_not_go_on_from_what_sees_them_plain(
    trained, meta_rl, small_config, theirs, whose
):
    first = trained(meta_iterations=1, agent={"normalize_observations": theirs})
    second = small_config("maml_ppo", name="second", agent={"normalize_observations": not theirs})
    refused = meta_rl("train", second, "--from", first)
    assert refused.code == 1
    assert f"{whose} needs obs_moments, which the other does not" in " ".join(refused.err.split())


def test_a_missing_run_is_told(meta_rl, small_config):
    refused = meta_rl("train", small_config("maml_ppo", name="second"), "--from", "runs/nothing")
    assert refused.code == 1 and "runs/nothing" in refused.err
