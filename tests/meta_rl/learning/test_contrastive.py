from math import exp, log

import jaxtyping
import pytest
import torch

from meta_rl.learning.contrastive import info_nce, nearest_task


def test_info_nce_is_that_of_a_hand_made_example():
    # Two trials of task 0 at 0° and 90°, one of task 1 at 180°; τ = 1. The only positive pairs are
    # those two, whose similarity is 0; task 1 is at -1 to the first and at 0 to the second.
    embedding = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    loss = info_nce(embedding, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), 1.0)
    first, second = -log(1 / (1 + exp(-1))), -log(1 / (1 + 1))
    assert loss.item() == pytest.approx((first + second) / 2)


def test_a_trial_is_no_positive_of_itself():
    embedding = torch.nn.functional.normalize(torch.randn(6, 3), dim=-1).requires_grad_()
    task, trial = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 2, 2])
    similarity = embedding[:4] @ embedding.T
    negative = similarity[:, 4:].logsumexp(1)
    pairs = [(0, 2), (0, 3), (1, 2), (1, 3), (2, 0), (2, 1), (3, 0), (3, 1)]
    expected = sum(
        torch.nn.functional.softplus(negative[a] - similarity[a, b]) for a, b in pairs
    ) / len(pairs)
    torch.testing.assert_close(info_nce(embedding, task, trial, 1.0), expected)


def test_where_there_is_no_other_task_nothing_is_learned():
    embedding = torch.nn.functional.normalize(torch.randn(4, 3), dim=-1).requires_grad_()
    loss = info_nce(embedding, torch.zeros(4).long(), torch.arange(4), 0.1)
    (slope,) = torch.autograd.grad(loss, embedding)
    assert loss == 0 and not slope.any()


def test_descending_it_tells_tasks_apart():
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(40, 3, generator=generator).requires_grad_()
    task = torch.arange(40) % 4
    before = nearest_task(torch.nn.functional.normalize(raw.detach(), dim=-1), task)
    optimizer = torch.optim.Adam([raw], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        embedding = torch.nn.functional.normalize(raw, dim=-1)
        info_nce(embedding, task, torch.arange(40), 0.1).backward()
        optimizer.step()
    after = nearest_task(torch.nn.functional.normalize(raw.detach(), dim=-1), task)
    assert before.float().mean() < 0.6 and after.all()


def test_the_nearest_task_is_found_without_the_embedding_in_question():
    # Task 7 lies at 0 and 1, task 3 at 4 and 10: 4 is 6 away from its like and 3.5 from the others'
    # mean, so it is taken for one of task 7, though the mean of its own task with itself is 3 away.
    embedding = torch.tensor([[0.0], [1.0], [4.0], [10.0]])
    found = nearest_task(embedding, torch.tensor([7, 7, 3, 3]))
    assert found.tolist() == [True, True, False, True]


def test_who_is_alone_in_a_task_is_not_found():
    embedding = torch.tensor([[0.0], [0.1], [5.0]])
    assert nearest_task(embedding, torch.tensor([0, 0, 1])).tolist() == [True, True, False]


def test_tasks_that_lie_close_to_each_other_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    means = 1e-4 * torch.randn(20, 5, generator=generator, dtype=torch.float64)
    task = torch.arange(100) % 20
    noise = 1e-6 * torch.randn(100, 5, generator=generator, dtype=torch.float64)
    embedding = torch.nn.functional.normalize(torch.ones(5).double(), dim=0) + means[task] + noise
    assert nearest_task(embedding.float(), task).all()


def test_a_tensor_of_another_shape_than_annotated_is_refused_in_these_tests():
    with pytest.raises(jaxtyping.TypeCheckError, match="embedding"):
        nearest_task(torch.zeros(3), torch.zeros(3).long())
