import json
import math
from dataclasses import replace

import pytest
import torch

from agents import maml_trpo, rl2_ppo
from envs.point_navigation import PointEnv
from meta_rl.core.protocols import Surrogate
from meta_rl.core.types import Rollout
from meta_rl.diagnosis.checks_of_experience import _exploration_of_choices
from meta_rl.diagnosis.doctor import CHECKS
from meta_rl.diagnosis.maths import compare, gradient_error, returns_less_baseline
from meta_rl.learning import inner_loop, samples, trials
from meta_rl.learning.trials import TrialConfig

CONFIGS = ("point_navigation_maml_trpo", "point_navigation_maml_ppo", "point_navigation_rl2_ppo")
TRPO, PPO, RL2 = CONFIGS
QUICK = "--threads 1 --workers 1 --meta-batch-size 6 --copies 10 --envs.horizon 50"


@pytest.fixture
def doctor(meta_rl):
    """Examine quickly; return the exit code, the alarms and notes, and all findings by name."""

    def examine(source, *flags, iterations=1):
        outcome = meta_rl("doctor", source, *flags, "--iterations", iterations, "--json")
        assert outcome.code in (0, 3), outcome.err
        report = json.loads(outcome.out)
        assert report["healthy"] is (outcome.code == 0)
        found = {finding["check"]: finding for finding in report["checks"]}
        assert len(found) == len(CHECKS)
        told = {
            status: [
                finding["problem"] for finding in found.values() if finding["status"] == status
            ]
            for status in ("alarm", "note")
        }
        return outcome.code, told["alarm"], told["note"], found

    return examine


def quick(doctor, source, *flags, **options):
    return doctor(source, *QUICK.split(), *flags, **options)


def only(alarms, phrase):
    assert len(alarms) == 1 and phrase in alarms[0], alarms


@pytest.mark.parametrize("config", CONFIGS)
def test_it_is_silent_on_a_healthy_experiment(doctor, config):
    code, alarms, _, found = quick(doctor, config, iterations=2)
    assert (code, alarms) == (0, [])
    measured = [finding for finding in found.values() if finding["status"] != "skipped"]
    assert len(measured) >= 15
    assert all(finding["advice"] == "" for finding in measured if finding["status"] == "healthy")


def test_outer_steps_that_are_too_few_for_their_env_steps_are_an_alarm(doctor):
    few = ("--agent.epochs", "1", "--agent.outer-lr", "1e-5")
    _, alarms, _, found = quick(doctor, PPO, *few, iterations=2)
    only(alarms, "The outer steps are too few or too short")
    movement = found["movement of θ per million env steps, in its lengths"]["measured"]
    assert 0 < movement <= 0.1

    _, alarms, _, found = quick(doctor, PPO, *few, "--agent.outer-lr", "1e-3", iterations=2)
    assert alarms == []
    moved = found["movement of θ per million env steps, in its lengths"]["measured"]
    assert moved / movement == pytest.approx(100, rel=0.1)  # Adam's steps are as long as their rate


def test_a_memory_recomputed_in_pieces_is_examined_in_double_precision(doctor):
    _, _, _, found = quick(doctor, RL2, "--agent.bptt-steps", "7", iterations=1)
    for check in (
        "meta-gradient's error by finite differences",
        "correlation of advantage and return",
        "cosine of update and policy gradient",
    ):
        assert found[check]["status"] == "healthy"


def test_an_inner_step_that_is_too_small_is_not_taken_for_a_missing_signal(doctor, monkeypatch):
    code, alarms, notes, found = quick(doctor, TRPO, "--agent.inner-lr", "1e-4")
    assert code == 3
    only(alarms, "though its gradient is sound: the inner step is too small")
    assert "Raise agent.inner_lr" in found["inner KL, nats a step"]["advice"]
    assert any("gains nothing" in note for note in notes)

    step = PointEnv.step

    def constant(self, action):
        return replace(step(self, action), reward=torch.ones(action.shape[:2]))

    monkeypatch.setattr(PointEnv, "step", constant)
    _, alarms, _, _ = quick(doctor, TRPO)
    # On the others, a point came to its goal by chance, and earned less for it.
    assert any(alarm.startswith("The reward never changes on ") for alarm in alarms)


def test_an_inner_step_that_diverges_is_found(doctor):
    _, alarms, _, found = quick(doctor, TRPO, "--agent.inner-lr", "1e2")
    assert any("The inner step throws the policy" in alarm for alarm in alarms)
    assert any("Adaptation lowers the return" in alarm for alarm in alarms)
    assert found["inner KL, nats a step"]["advice"] == "Lower agent.inner_lr."
    for check in ("cosine of update and policy gradient", "correlation of advantage and return"):
        # A step too long is no wrong sign; where it drives all copies alike, there is none.
        assert found[check]["status"] in ("healthy", "skipped")


def test_an_inner_step_beyond_all_numbers_is_found_by_the_rejected_updates(doctor):
    _, alarms, _, found = quick(doctor, TRPO, "--agent.inner-lr", "1e30")
    assert any("1 of 1 meta-updates here had to be rejected" in alarm for alarm in alarms)
    assert found["outer KL, nats a step"]["status"] == "skipped"


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        (TRPO, "--agent.initial-std 1e-3"),
        (RL2, "--agent.initial-std 1e-3 --agent.min-std 1e-3"),
    ],
)
def test_a_collapsed_standard_deviation_is_found(doctor, config, flags):
    _, alarms, _, found = quick(doctor, config, *flags.split())
    assert any("standard deviation has collapsed to 0.001" in alarm for alarm in alarms)
    check = found["standard deviation / half the action range"]
    assert check["measured"] == pytest.approx(1e-3, rel=0.05)  # from the actions' density alone


def test_a_policy_that_chooses_is_judged_by_the_options_that_it_tries(doctor):
    _, alarms, notes, found = doctor("bandit_5x10_rl2_ppo", "--meta-batch-size", "20")
    tried = found["options that are tried (perplexity)"]
    assert tried["status"] == "healthy" and 4 < tried["measured"] <= 5.001
    assert not alarms and any("All observations are alike" in note for note in notes)
    collapsed = _exploration_of_choices([-1e-3, -2e-3])
    assert "tries 1.002 options" in collapsed.problem


def test_a_baseline_of_too_few_steps_is_told(doctor):
    flags = ("--envs.horizon", "2", "--copies", "2", "--agent.episodes-per-phase", "2")
    _, _, notes, _ = quick(doctor, TRPO, *flags)
    assert any("A task has 8 steps" in note and "features (8)" in note for note in notes)
    _, _, notes, _ = quick(doctor, TRPO, *flags[:4], "--agent.episodes-per-phase", "3")
    assert not any("features" in note for note in notes)


def test_a_critic_is_examined_in_place_of_the_baseline(doctor):
    _, _, _, found = quick(doctor, RL2, "--agent.critic")
    baseline = found["variance explained by the baseline"]
    critic = found["half the critics' squared error, in variances of their targets"]
    assert baseline["status"] == "skipped" and critic["measured"] is not None
    _, _, _, found = quick(doctor, RL2)
    assert found["variance explained by the baseline"]["measured"] is not None


@pytest.mark.parametrize(("config", "module"), [(TRPO, samples), (RL2, trials)])
def test_a_wrong_sign_in_the_advantage_is_found(doctor, monkeypatch, config, module):
    right = module.baseline_advantage
    monkeypatch.setattr(module, "baseline_advantage", lambda *given: -right(*given))
    code, alarms, _, _ = quick(doctor, config)
    assert code == 3
    assert any("Advantages do not rise with the returns" in alarm for alarm in alarms)


def test_a_wrong_sign_in_the_loss_is_found(doctor, monkeypatch):
    right = maml_trpo.outer_loss

    def wrong(theta, stages):
        loss, policies = right(theta, stages)
        return -loss, policies

    monkeypatch.setattr(maml_trpo, "outer_loss", wrong)
    _, alarms, _, found = quick(doctor, TRPO)
    only(alarms, "points against its own policy gradient (cosine -1.00)")
    assert found["meta-gradient's error by finite differences"]["status"] == "healthy"


def test_a_lost_derivative_is_an_alarm_and_a_first_order_gradient_a_note(doctor, monkeypatch):
    _, alarms, notes, _ = quick(doctor, TRPO, "--agent.first-order")
    assert alarms == []
    assert any("as the config wants: first-order bias" in note for note in notes)

    right = inner_loop.task_gradient

    def lost(*given):
        return {name: x.detach() for name, x in right(*given).items()}

    monkeypatch.setattr(inner_loop, "task_gradient", lost)
    _, alarms, _, _ = quick(doctor, TRPO)
    only(alarms, "is not the derivative of the agent's loss")


def test_a_log_probability_of_another_policy_is_found(doctor, monkeypatch):
    act = rl2_ppo.RL2PPO.act

    def wrong(self, *given):
        action, log_prob, context = act(self, *given)
        return action, log_prob + 0.1, context

    monkeypatch.setattr(rl2_ppo.RL2PPO, "act", wrong)
    _, alarms, _, _ = quick(doctor, RL2)
    only(alarms, "other probabilities than acting did (log ratio up to 0.1)")


@pytest.mark.parametrize(
    ("field", "change", "phrase"),
    [
        ("reward", lambda x: x * torch.nan, "100.0% of the rewards are NaN or infinite"),
        ("next_obs", lambda x: x * torch.nan, "of the observations are NaN or infinite"),
        ("next_obs", lambda x: x * 1000, "of the observations' components exceed ±10"),
        ("next_obs", lambda x: x * 1e-5, "No component of the observation varies by more than"),
        ("reward", lambda x: x * 0, "The reward never changes on 100% of the tasks"),
    ],
)
def test_faults_of_a_family_are_found(doctor, monkeypatch, field, change, phrase):
    step = PointEnv.step

    def faulty(self, action):
        happened = step(self, action)
        changed = replace(happened, **{field: change(getattr(happened, field))})
        self.position = changed.next_obs  # what the next observation is
        return changed

    monkeypatch.setattr(PointEnv, "step", faulty)
    code, alarms, _, _ = quick(doctor, "point_navigation_maml_ppo")
    assert code == 3
    assert any(phrase in alarm for alarm in alarms), alarms


def test_large_observations_are_worth_a_note_where_the_agent_normalizes_them(doctor, monkeypatch):
    step = PointEnv.step

    def large(self, action):
        happened = step(self, action)
        return replace(happened, next_obs=happened.next_obs * 1000)

    monkeypatch.setattr(PointEnv, "step", large)
    monkeypatch.setattr(PointEnv, "reset_ended", lambda self: self.position * 1000)
    _, alarms, notes, _ = quick(doctor, PPO, "--agent.normalize-observations")
    assert not any("exceed ±10" in alarm for alarm in alarms), alarms
    assert any("exceed ±10" in note and "inputs are normalized" in note for note in notes)


def test_an_oracle_need_not_explore(doctor):
    flags = ("--agent.name", "scripted", "--meta-batch-size", "4")
    code, alarms, _, found = doctor("bandit_5x10_rl2_ppo", *flags)
    assert (code, alarms) == (0, [])
    assert found["options that are tried (perplexity)"]["status"] == "skipped"


def test_an_agent_that_offers_no_surrogate_is_examined_without(doctor, monkeypatch):
    class Closed(maml_trpo.MAMLTRPO):
        surrogate = None

    monkeypatch.setattr(maml_trpo, "MAMLTRPO", Closed)
    code, alarms, _, found = quick(doctor, TRPO)
    assert (code, alarms) == (0, [])
    skipped = found["meta-gradient's error by finite differences"]
    assert skipped["status"] == "skipped" and "offers no surrogate" in skipped["problem"]


def test_a_run_is_examined_as_trained_with_what_it_logged(
    doctor, meta_rl, small_config, run_at, tmp_path
):
    config = small_config("maml_trpo", envs={"horizon": 20}, meta_batch_size=4, copies=4)
    meta_rl("train", config).succeeds()
    run = run_at(tmp_path / "runs" / "small")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    for checkpoint in ("latest", "best"):
        code, alarms, _, _ = doctor(run.path, "--checkpoint", checkpoint)
        assert (code, alarms) == (0, [])
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before

    rejected = {"train/rejected_in_a_row": 1.0}
    fruitless = {"train/rejected_in_a_row": 0.0, "outer/accepted": 0.0, "success/after": 0.0}
    with (run.path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in [rejected, *[fruitless] * 10])
    _, alarms, _, _ = doctor(run.path)
    told = " ".join(alarms)
    assert "1 of the run's 13 meta-updates were rejected" in told
    assert "The line search rejected 77% of 13 outer steps whole" in told

    meta_rl("doctor", run.path, "--agent.inner-lr", 3).fails_with("trained with another agent")
    assert doctor(run.path, "--meta-batch-size", 2, "--copies", 2)[0] in (0, 3)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"train/rej')  # a kill while it was being written
    assert doctor(run.path)[1] == alarms
    (run.path / "metrics.jsonl").write_text("{\n")
    meta_rl("doctor", run.path).fails_with("cannot read", "metrics.jsonl")


def test_on_meta_world_it_finds_the_fault_and_nothing_else(doctor):
    flags = "--threads 1 --workers 1 --meta-batch-size 3 --envs.horizon 100"
    _, alarms, _, _ = doctor("ml1_reach_maml_trpo", *flags.split(), "--agent.inner-lr", "1e-4")
    only(alarms, "the inner step is too small")


def test_the_table_tells_what_is_wrong_and_what_to_try(meta_rl):
    flags = [*QUICK.split(), "--iterations", "1", "--agent.inner-lr", "1e-4"]
    outcome = meta_rl("doctor", TRPO, *flags)
    assert outcome.code == 3
    assert "│ inner KL, nats a step" in outcome.out
    assert "ALARM  Adaptation hardly moves the policy" in outcome.out
    assert "the inner step is too small. Raise agent.inner_lr, by a factor of about" in outcome.out
    assert outcome.out.endswith("1 alarm\n")


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        ("--json", "the config or run comes first"),
        ("none", "no 'none' in configs/"),
        ("runs/none", "no run folder runs/none"),
        ("pretrained/none", "no 'none' in pretrained/"),
        (". --threads 1", ". is not a run folder"),
        (f"{TRPO} --iterations 0", "--iterations must be at least 1, got 0"),
        (f"{TRPO} --checkpoint best", "--checkpoint is for run folders"),
        (". --checkpoint bset", "did you mean 'best'?"),
    ],
)
def test_mistakes_are_told(meta_rl, words, phrase):
    meta_rl("doctor", *words.split()).fails_with(phrase)


def test_finite_differences_see_a_component_that_a_gradient_lacks():
    theta = {"x": torch.full((50,), 0.5).double(), "y": torch.full((50,), 0.5).double()}

    def right(theta):
        return (theta["x"] ** 3).sum() + (theta["y"] ** 3).sum()

    def lacking(theta):  # g = (∇x, 0) has the right slope along itself
        return (theta["x"] ** 3).sum() + (theta["y"].detach() ** 3).sum()

    assert gradient_error(right, theta) < 1e-5
    assert 0.3 < gradient_error(lacking, theta) < 3  # |∇ - g| / |g| = 1, by four directions
    assert math.isnan(gradient_error(lambda theta: (0 * theta["x"]).sum(), theta))


def test_returns_run_to_the_ends_they_are_given_and_no_further():
    # One world, γ = ½, two episodes of two steps, rewards 8 4 2 1; with one constant observation
    # and time 0 1 0 1 the baseline is the mean at each time.
    column = torch.zeros(4, 1, 1)
    reward = torch.tensor([8.0, 4.0, 2.0, 1.0]).view(4, 1, 1)
    flag = torch.tensor([False, True, False, True]).view(4, 1, 1)
    rollout = Rollout(
        obs=torch.zeros(4, 1, 1, 1),
        prev_action=torch.zeros(4, 1, 1, 1),
        prev_reward=column,
        first=~flag,
        valid=torch.ones_like(flag),
        action=torch.zeros(4, 1, 1, 1),
        log_prob=column,
        reward=reward,
        terminated=flag,
        truncated=torch.zeros_like(flag),
        next_obs=torch.zeros(4, 1, 1, 1),
        metrics={},
    )

    within = returns_less_baseline(rollout, flag, 0.5, across_episodes=False).flatten()
    end = flag & (torch.arange(4) == 3).view(4, 1, 1)
    across = returns_less_baseline(rollout, end, 0.5, across_episodes=True).flatten()

    # Returns to go 10 4 2.5 1, means 6.25 and 2.5. Across episodes 10.625 5.25 2.5 1, of mean
    # 4.84375, which takes the place of a fit: the time in the trial would leave nothing.
    torch.testing.assert_close(within, torch.tensor([3.75, 1.5, -3.75, -1.5]).double())
    expected = torch.tensor([5.78125, 0.40625, -2.34375, -3.84375]).double()
    torch.testing.assert_close(across, expected)


@pytest.mark.parametrize(("horizon", "episodes", "copies"), [(20, 5, 4), (4, 1, 1)])
def test_advantages_of_trials_rise_with_what_followed_whatever_the_time(horizon, episodes, copies):
    # Each step costs 1, less a tenth of what was done: returns tell mostly the time in the trial.
    steps, shape = horizon * episodes, (horizon * episodes, 2, copies)
    action = torch.randn(*shape, 1, generator=torch.Generator().manual_seed(0)).double()
    true = torch.ones(shape, dtype=torch.bool)
    clock = torch.arange(steps).view(-1, 1, 1).expand(shape)
    column, obs = torch.zeros(shape).double(), torch.zeros(*shape, 2).double()
    rollout = Rollout(
        obs=obs,
        prev_action=action,
        prev_reward=column,
        first=clock % horizon == 0,
        valid=true,
        action=action,
        log_prob=column,
        reward=0.1 * action.squeeze(-1) - 1,
        terminated=~true,
        truncated=clock % horizon == horizon - 1,
        next_obs=obs,
        metrics={},
    )
    found = compare(
        Surrogate(
            theta={"mean": torch.zeros(1)},
            loss=lambda theta: -(action.squeeze(-1) * theta["mean"]).mean(),
            log_ratio=lambda theta: action.squeeze(-1) * theta["mean"],
            advantage=trials.trial_advantage(rollout, TrialConfig(gae_lambda=1.0)),
            rollout=rollout,
            gamma=0.99,
            across_episodes=True,
            approximation=None,
        )
    )
    assert found.advantage_correlation > 0.9
    if steps > found.baseline_features:
        assert found.explained_variance > 0.9
