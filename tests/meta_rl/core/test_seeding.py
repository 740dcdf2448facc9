from itertools import product

import torch

from meta_rl.core.seeding import (
    GivenNoise,
    SharedNoise,
    Streams,
    TaskStreams,
    derive_seed,
    make_generator,
)
from meta_rl.core.types import Task, Tasks

CPU = torch.device("cpu")


def draws(streams):
    return [
        torch.rand(4, generator=streams.tasks).tolist(),
        torch.rand(4, generator=streams.acting).tolist(),
        torch.rand(4, generator=streams.env).tolist(),
        [streams.env_seed(), streams.env_seed()],
    ]


def test_every_seed_and_purpose_has_a_seed_of_its_own():
    purposes = ("", "init", "train/tasks", "train/acting", "train/env", "evaluation/tasks")

    seeds = {derive_seed(seed, purpose) for seed, purpose in product(range(100), purposes)}

    assert len(seeds) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_and_a_purpose_give_the_same_stream_again():
    first, again = (torch.rand(8, generator=make_generator(5, "init")) for _ in range(2))

    assert torch.equal(first, again)


def test_the_streams_of_a_loop_differ_from_each_other_and_from_another_purpose_s():
    train, evaluation = Streams(0, CPU), Streams(0, CPU, "evaluation")

    numbers = [
        tuple(torch.rand(4, generator=g).tolist())
        for s in (train, evaluation)
        for g in (s.tasks, s.acting, s.env)
    ]

    assert len(set(numbers)) == 6


def test_drawing_from_one_stream_leaves_the_others_alone():
    busy, idle = Streams(0, CPU), Streams(0, CPU)
    torch.rand(100, generator=busy.acting)

    assert torch.equal(torch.rand(4, generator=busy.tasks), torch.rand(4, generator=idle.tasks))
    assert busy.env_seed() == idle.env_seed()


def test_streams_continue_from_their_saved_states():
    streams = Streams(0, CPU)
    draws(streams)
    state = streams.state_dict()
    expected = draws(streams)
    other = Streams(1, CPU)
    other.load_state_dict(state)

    assert draws(other) == expected


def test_a_tasks_noise_does_not_depend_on_its_company():
    tasks = Tasks.stack([Task("f", name, i, (0.0,)) for name in "ab" for i in range(3)])
    together, alone = TaskStreams(0, CPU, "x").noise(tasks), TaskStreams(0, CPU, "x")
    drawn = [together.normal((6, 4, 2)) for _ in range(3)]

    for m in range(6):
        own = alone.noise(tasks[[m]])
        for noise in drawn:
            assert torch.equal(own.normal((1, 4, 2))[0], noise[m])
    assert torch.cat(drawn).unique().numel() == 3 * 6 * 4 * 2
    for other in (TaskStreams(1, CPU, "x"), TaskStreams(0, CPU, "y")):
        assert (other.noise(tasks).normal((6, 4, 2)) != drawn[0]).all()
        assert other.env_seed() != alone.env_seed()


def test_shared_noise_is_the_generators_own():
    noise = SharedNoise(torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(noise.normal((4, 2)), torch.randn(4, 2, generator=generator))
    assert torch.equal(noise.uniform((4, 2)), torch.rand(4, 2, generator=generator))
    assert noise.normal((2,), torch.float64).dtype == torch.float64


def test_given_noise_is_uniform_by_its_own_distribution_function():
    numbers = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    noise = GivenNoise(numbers)
    assert torch.equal(noise.normal((4000,)), numbers)
    shares = noise.uniform((4000,)).histc(4, 0, 1) / 4000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.03, rtol=0)
    assert (GivenNoise(torch.zeros(3)).uniform((3,)) == 0.5).all()


def test_given_noise_leaves_what_a_policy_supposes_at_its_mode():
    noise = GivenNoise(torch.ones(1, 3, 2))
    assert torch.equal(noise.latent((1, 3, 2)), torch.zeros(1, 3, 2))
    shared = (SharedNoise(torch.Generator().manual_seed(3)) for _ in range(2))
    latent, normal = (draw((4, 2)) for draw in (next(shared).latent, next(shared).normal))
    assert torch.equal(latent, normal)
