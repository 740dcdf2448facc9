import torch

from envs.tabular_mdp import Config, action_values, build, expert, tables
from meta_rl.core.types import Tasks

CPU = torch.device("cpu")


def mdps_of(reward, transition):
    """Tasks of hand-made MDPs: rewards (M, S, A) and transitions (M, S, A, S)."""
    params = torch.cat([reward.flatten(1), transition.flatten(1)], dim=1).double()
    return Tasks("tabular_mdp", ("mdp",) * len(params), torch.arange(len(params)), params)


def chain():
    """An MDP whose action 1 pays nothing in state 0 and leads to 1, where all pays 5."""
    reward = torch.tensor([[[1.0, 0.0], [5.0, 5.0]]])
    transition = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]])
    return mdps_of(reward, transition)


def act(choice, shape=(1, 1), actions=2):
    return torch.nn.functional.one_hot(torch.full(shape, choice), actions).float()


def test_the_tables_are_what_the_tasks_hold():
    family = build(Config(states=3, actions=2))
    tasks = family.sample(4, "train", torch.Generator().manual_seed(0))

    reward, transition = tables(tasks.params, 3)

    assert reward.shape == (4, 3, 2) and transition.shape == (4, 3, 2, 3)
    torch.testing.assert_close(transition.sum(-1), torch.ones_like(reward))
    assert torch.equal(mdps_of(reward, transition).params, tasks.params)


def test_mdps_are_drawn_from_the_paper_s_distribution():
    tasks = build(Config()).sample(2000, "train", torch.Generator().manual_seed(0))

    reward, transition = tables(tasks.params, 10)

    # Flat Dirichlet of 10: mean 1/10, variance (1/10)(9/10)/11; mean rewards have N(1, 1)
    assert abs(reward.mean() - 1) < 0.01 and abs(reward.std() - 1) < 0.01
    assert abs(transition.mean() - 0.1) < 1e-9
    assert abs(transition.var() - 0.09 / 11) < 1e-4


def test_worlds_move_and_pay_as_their_tables_say():
    tasks = build(Config()).sample(2, "train", torch.Generator().manual_seed(0))
    reward, transition = tables(tasks.params, 10)
    env = build(Config()).make_env(CPU, 1)

    obs = env.start(tasks, 20_000, seed=0)
    step = env.step(act(3, (2, 20_000), 5))

    assert (obs.argmax(-1) == 0).all()  # every episode begins in state 0
    # The standard errors are at most 0.5 / sqrt(20000) = 0.0035, and 1 / sqrt(20000) = 0.007.
    torch.testing.assert_close(
        step.next_obs.mean(1), transition[:, 0, 3].float(), atol=0.015, rtol=0
    )
    torch.testing.assert_close(step.reward.mean(1), reward[:, 0, 3].float(), atol=0.03, rtol=0)
    noise = step.reward - reward[:, 0, 3].float().unsqueeze(1)
    assert abs(noise.std() - 1) < 0.02
    moved = torch.corrcoef(torch.stack([noise.flatten(), step.next_obs[..., 0].flatten()]))
    assert moved[0, 1].abs() < 0.03


def test_an_episode_ends_at_the_horizon_and_the_next_begins_in_state_0():
    env = build(Config(states=2, actions=2, horizon=3)).make_env(CPU, 1)
    env.start(chain(), 1, seed=0)

    steps = []
    for _ in range(3):
        steps.append(env.step(act(1)))
        obs = env.reset_ended()

    assert [step.truncated.item() for step in steps] == [False, False, True]
    assert [int(step.next_obs.argmax()) for step in steps] == [1, 0, 1]
    assert int(obs.argmax()) == 0


def test_action_values_look_ahead_to_the_end_of_the_episode():
    reward, transition = tables(chain().params, 2)

    values = action_values(reward, transition, 3)

    # In state 0: one step is worth 1 or 0, two 1 + 1 or 0 + 5, three 1 + 5 or 0 + 5 + 1.
    assert values[2, 0].tolist() == [[1, 0], [5, 5]]
    assert values[1, 0].tolist() == [[2, 5], [6, 6]]
    assert values[0, 0].tolist() == [[6, 6], [10, 10]]


def test_the_expert_gives_up_a_reward_for_a_larger_one():
    player = expert()

    action = player.act(player.knowledge(chain()), torch.eye(2).unsqueeze(0))

    assert action[0].argmax(-1).tolist()[0] == 1


def test_the_expert_earns_nearly_what_the_optimum_does():
    config = Config()
    family, player = build(config), expert()
    tasks = family.tasks("test")[:100]
    env, knowledge, total = family.make_env(CPU, 1), player.knowledge(tasks), 0.0
    obs = env.start(tasks, 20, seed=0)
    for _ in range(config.horizon):
        step = env.step(player.act(knowledge, obs))
        total, obs = total + step.reward.mean(), step.next_obs

    optimum = action_values(*tables(tasks.params, 10), config.horizon)[0, :, 0].amax(-1).mean()
    # 2000 episodes of 10 steps of unit noise and the luck of transitions: about 0.1
    assert 0.95 * optimum < total < 1.02 * optimum


def test_tied_training_mdps_have_rewards_in_common_and_held_out_ones_never_do():
    family = build(Config(tied=0.5, test_tasks=100))

    def different(tasks):
        """How many rows of mean rewards each MDP has."""
        reward = tables(tasks.params, 10)[0]
        return torch.tensor([len(each.unique(dim=0)) for each in reward])

    fresh = family.sample(400, "train", torch.Generator().manual_seed(0))

    assert (different(fresh)[200:] == 10).all()
    # A tied MDP has 1 to 10 groups, some of which may stay empty.
    assert (different(fresh)[:200] == 1).float().mean() > 0.08
    assert 2 < different(fresh)[:200].float().mean() < 6
    for split in ("train", "validation", "test"):
        assert (different(family.tasks(split)) == 10).all()
    untied = build(Config(test_tasks=100)).tasks("test")
    assert torch.equal(untied.params, family.tasks("test").params)


def test_worlds_that_change_often_keep_their_tables_and_no_others():
    family = build(Config(states=3, actions=2, test_tasks=50))
    tasks, env = family.tasks("test"), family.make_env(CPU, 1)
    env.start(tasks[:2], copies=2, seed=0)
    for number in range(10):
        env.change([0, 3], tasks[[2 * number, 2 * number + 1]])
        env.step(torch.nn.functional.one_hot(torch.zeros(2, 2, dtype=torch.long), 2).float())

    assert len(env.reward) <= 2 * 4
    lived = tasks[[18, 0, 1, 19]]
    expected, _ = tables(lived.params, 3)
    assert torch.equal(env.reward[env.mdp].flatten(0, 1), expected)
