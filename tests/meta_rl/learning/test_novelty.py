import torch

from meta_rl.learning.novelty import Novelty


def test_what_is_visited_becomes_known_and_what_is_not_stays_new():
    novelty = Novelty(4, seed=0)
    generator = torch.Generator().manual_seed(0)
    visited = torch.randn(64, 4, generator=generator) * 0.3 + torch.tensor([1.0, 1.0, -1.0, 0.0])
    elsewhere = -visited
    before = [novelty(rows).mean().item() for rows in (visited, elsewhere)]
    random = [parameter.clone() for parameter in novelty.random.parameters()]

    optimizer = torch.optim.Adam(novelty.predictor.parameters(), lr=3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        novelty(visited).mean().backward()
        optimizer.step()

    after = [novelty(rows).mean().item() for rows in (visited, elsewhere)]
    assert after[0] < 0.1 * before[0] and after[1] > 0.8 * before[1]
    assert all(map(torch.equal, random, novelty.random.parameters()))


def test_its_networks_follow_from_the_seed_alone():
    torch.manual_seed(1)
    one, drawn = Novelty(3, seed=5), torch.rand(())
    torch.manual_seed(1)
    assert drawn == torch.rand(())  # the global generator was left alone
    other = Novelty(3, seed=5)
    rows = torch.randn(2, 3)
    assert torch.equal(one(rows), other(rows))
    assert not torch.equal(one(rows), Novelty(3, seed=6)(rows))
