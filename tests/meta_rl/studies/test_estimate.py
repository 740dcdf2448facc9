from dataclasses import replace

import pytest
import torch

from meta_rl.evaluation.measuring import evaluate
from meta_rl.experiment.building import build_agent, build_distribution
from meta_rl.experiment.config import load_experiment
from meta_rl.studies.estimate import evaluation_steps


@pytest.mark.parametrize(
    "measured", [{}, {"evaluation_episodes": 3}, {"actions": "deterministic"}, {"copies": 4}]
)
def test_the_steps_of_an_evaluation_are_those_that_it_plays(small_config, measured):
    config = small_config(evaluation={"every": 0, "adaptation_steps": 2, **measured})
    experiment = load_experiment(str(config))
    distribution = build_distribution(experiment)
    agent = build_agent(experiment, distribution.spec, torch.device("cpu"))
    collector = distribution.make_collector(torch.device("cpu"), 1)
    copies = experiment.evaluation.copies or experiment.copies
    options = (experiment.evaluation, copies, None, 0, 0)
    evaluate(agent, distribution, collector, torch.device("cpu"), *options)
    collector.close()
    spared = evaluation_steps(experiment, agent, distribution) - collector.env_steps
    assert 0 <= spared < 5  # a point that reaches its goal ends its episode of five steps


@pytest.mark.parametrize(
    ("choose_on", "every", "evaluations"),
    [("validation", 2, 3 + 1), ("validation", 5, 1 + 1), ("test", 2, 3), ("test", 0, 1)],
)
def test_the_last_evaluation_while_training_is_of_the_end(
    small_config, choose_on, every, evaluations
):
    tasks = {"test_goals": 3, "validation_goals": 3}
    evaluation = {"every": every, "choose_on": choose_on}
    config = small_config(meta_iterations=5, envs=tasks, evaluation=evaluation)
    experiment = load_experiment(str(config))
    distribution = build_distribution(experiment)
    agent = build_agent(experiment, distribution.spec, torch.device("cpu"))
    alone = replace(experiment, evaluation=replace(experiment.evaluation, every=0))
    one = evaluation_steps(alone, agent, distribution)
    assert evaluation_steps(experiment, agent, distribution) == evaluations * one
