from dataclasses import replace
from pathlib import Path

import pytest

from agents import maml_ppo, rl2_ppo
from envs import point_navigation
from meta_rl.core.errors import UserError
from meta_rl.evaluation.protocol import check_choosing
from meta_rl.experiment import catalog, strict_yaml
from meta_rl.experiment.building import build_distribution
from meta_rl.experiment.config import (
    Experiment,
    experiment_from_dict,
    load_experiment,
    save_experiment,
    to_dict,
)

PLAIN = {"agent": {"name": "maml_ppo"}, "envs": {"name": "point_navigation"}}


def made(**changes):
    return experiment_from_dict({**PLAIN, **changes}, "x.yaml")


@pytest.mark.parametrize("name", catalog.config_names())
def test_every_config_loads_and_comes_back_from_its_own_yaml(name, tmp_path):
    experiment = load_experiment(name)

    save_experiment(experiment, tmp_path / "config.yaml")

    again = experiment_from_dict(strict_yaml.read(tmp_path / "config.yaml"), "x.yaml")
    assert again == experiment
    assert experiment.name == f"{name}-seed0"


def test_configs_choose_checkpoints_on_tasks_that_their_family_lets_them_choose_on():
    for experiment in map(load_experiment, catalog.config_names()):
        # Meta-World's goals are drawn apart by their seeds, and Gymnasium's ids may want extras.
        drawn = experiment.envs_name not in ("metaworld", "gymnasium")
        if experiment.evaluation.every and drawn and "_gpu_" not in experiment.name:
            check_choosing(build_distribution(experiment), experiment.evaluation.choose_on)


def test_what_is_not_given_has_its_default():
    assert made() == Experiment(
        agent_name="maml_ppo",
        envs_name="point_navigation",
        agent=maml_ppo.Config(),
        envs=point_navigation.Config(),
    )


def test_values_take_the_form_that_their_field_wants():
    experiment = made(
        agent={"name": "rl2_ppo", "outer_lr": 1e-3, "target_kl": None, "gamma": 1},
        tracking={"mode": "off", "tags": ["a", "b"]},
        evaluation={"goals": 3, "copies": None},
    )
    assert experiment.agent == rl2_ppo.Config(outer_lr=0.001, target_kl=None, gamma=1.0)
    assert isinstance(experiment.agent.gamma, float)
    assert experiment.tracking.tags == ("a", "b")
    assert (experiment.evaluation.goals, experiment.evaluation.copies) == (3, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"meta_batchsize": 2},
            r"x.yaml: unknown key 'meta_batchsize'; did you mean 'meta_batch_s",
        ),
        ({"evaluation": {"evry": 2}}, "unknown key 'evaluation.evry'; did you mean 'every'?"),
        ({"agent": {"name": "maml_ppo", "lr": 1}}, "unknown key 'agent.lr'; there are: .*inner_lr"),
        ({"meta_batch_size": "many"}, "x.yaml: meta_batch_size must be an int, got 'many'"),
        ({"meta_batch_size": 2.5}, "meta_batch_size must be an int, got 2.5"),
        ({"meta_batch_size": True}, "meta_batch_size must be an int, got True"),
        ({"meta_batch_size": None}, "meta_batch_size must be an int, got None"),
        ({"name": 3}, "name must be a str, got 3"),
        ({"agent": {"name": "maml_ppo", "inner_lr": [1]}}, r"agent.inner_lr must be a float, got"),
        (
            {"agent": {"name": "maml_ppo", "inner_lr": "1e-3"}},
            "agent.inner_lr must be a float, got '1e-3'",
        ),
        (
            {"agent": {"name": "maml_ppo", "first_order": 1}},
            "first_order must be a bool .true or false., got 1",
        ),
        ({"agent": {"name": "maml_ppo", "hidden_sizes": 8}}, "hidden_sizes must be a list, got 8"),
        (
            {"agent": {"name": "maml_ppo", "hidden_sizes": ["8"]}},
            "hidden_sizes must be an int, got",
        ),
        ({"agent": {"name": "maml_ppo", "activation": "gelu"}}, "must be one of tanh, relu, got"),
        ({"tracking": {"mode": "sometimes"}}, "must be one of auto, online, offline, off, got 's"),
        ({"tracking": {"mode": True}}, "must be one of auto, online, offline, off, got True"),
        ({"evaluation": [1]}, r"evaluation must hold `key: value` lines, got \[1\]"),
        ({"agent": "maml_ppo"}, r"x.yaml must say `agent: \{name: maml_trpo\}` or the like"),
        (
            {"envs": {"horizon": 3}},
            r"must say `envs: \{name: point_navigation\}` or the like",
        ),
        ({"agent": {"name": "maml_trop"}}, "no 'maml_trop' in agents/; did you mean 'maml_trpo'?"),
        ({"agent_name": "maml_ppo"}, "unknown key 'agent_name'; there are: .*"),
        (
            {"version": 3},
            "x.yaml is a config of version 3, but this is meta-rl for versions 1 and 2;",
        ),
        ({"version": 0, "old_key": 1}, "config of version 0"),
    ],
)
def test_a_key_or_a_type_that_is_wrong_is_named_with_what_was_expected(changes, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        made(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta_iterations": 0}, "meta_iterations must be at least 1, got 0"),
        ({"meta_batch_size": 0}, "meta_batch_size must be at least 1, got 0"),
        ({"copies": -1}, "copies must be at least 1, got -1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"device": "tpu"}, "device must be cpu, cuda or cuda:N, got 'tpu'"),
        ({"rollouts": {"cuda_graph": True}}, "needs device cuda.*same, got cpu, local and same"),
        (
            {"device": "cuda", "rollouts": {"cuda_graph": True, "device": "cpu"}},
            "got cuda, local and cpu",
        ),
        ({"name": "a/b"}, "ends, got 'a/b'; the field runs"),
        ({"name": "../up"}, "name must be a plain folder name"),
        ({"name": " "}, "name must be a plain folder name, without blanks at its ends, got ' '"),
        ({"evaluation": {"goals": 0}}, "evaluation.goals must be at least 1, got 0"),
        ({"evaluation": {"adaptation_steps": -1}}, "adaptation_steps must be at least 0, got -1"),
        ({"envs": {"name": "point_navigation", "horizon": 0}}, "envs.horizon must be at least 1"),
        ({"agent": {"name": "maml_ppo", "inner_lr": 0}}, "agent.inner_lr must be above 0, got 0"),
        ({"agent": {"name": "maml_ppo", "inner_lr": float("nan")}}, "above 0, got nan"),
        (
            {"agent": {"name": "maml_ppo", "gamma": 1.1}},
            r"agent.gamma must be in \[0, 1\], got 1.1",
        ),
        ({"agent": {"name": "maml_ppo", "hidden_sizes": [8, -1]}}, "hidden_sizes must all be at"),
        (
            {"agent": {"name": "rl2_ppo", "encoder_sizes": [0]}},
            "encoder_sizes must all be at least",
        ),
        (
            {"agent": {"name": "rl2_ppo", "initial_std": 9.0}},
            "initial_std must lie between min_std",
        ),
        (
            {"agent": {"name": "maml_trpo", "trust_region": {"max_kl": -1}}},
            "agent.trust_region.max_kl must be above 0, got -1",
        ),
        (
            {"agent": {"name": "maml_trpo", "trust_region": {"backtrack_ratio": 1.5}}},
            "agent.trust_region.backtrack_ratio must lie between 0 and 1, got 1.5",
        ),
    ],
)
def test_a_number_out_of_range_is_named_with_its_bound(changes, message):
    with pytest.raises(UserError, match=message):
        made(**changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "cannot read .*expected ',' or ']'"),
        (b"- 1\n- 2\n", "must hold `key: value` lines"),
        (b"just words", "must hold `key: value` lines"),
        (b"", "must hold `key: value` lines"),
        (b"\xff\xfe\x00", "cannot read .*codec can't decode"),
        (
            b"agent: !!python/object/apply:os.system [touch executed]",
            "cannot read .*line 1: the tag .*os.system is not allowed",
        ),
    ],
)
def test_a_file_that_is_not_a_mapping_in_yaml_is_refused(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_experiment(str(path))
    assert not Path("executed").exists()


def test_another_agent_comes_with_its_own_defaults(small_config):
    path = str(small_config("maml_trpo", agent={"inner_lr": 0.3}))

    assert load_experiment(path).agent.inner_lr == 0.3
    assert load_experiment(path, agent_name="maml_trpo").agent.inner_lr == 0.3
    assert load_experiment(path, agent_name="rl2_ppo").agent == rl2_ppo.Config()
    assert load_experiment(path, envs_name="point_navigation").envs.horizon == 5


def test_plain_data_holds_every_field_and_the_names():
    data = to_dict(replace(made(), seed=4))
    assert data["agent"]["name"] == "maml_ppo" and data["envs"]["name"] == "point_navigation"
    assert data["agent"]["hidden_sizes"] == [128, 128]
    assert data["seed"] == 4 and data["version"] == 2
