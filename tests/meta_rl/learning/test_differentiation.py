import torch
from torch.func import grad

from meta_rl.learning.differentiation import grad_and_value

THETA = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor(3.0), "unused": torch.zeros(2)}


def cubic(theta):
    return (theta["x"] ** 3).sum() * theta["y"]


def test_it_returns_the_gradient_of_the_first_result_that_result_and_the_other():
    gradient, value, other = grad_and_value(lambda t: (cubic(t), {"twice": 2 * t["x"]}), THETA)

    torch.testing.assert_close(gradient, grad(cubic)(THETA))
    assert list(gradient) == list(THETA) and gradient["unused"].tolist() == [0, 0]
    assert value == 27 and other["twice"].tolist() == [2, 4]


def test_what_it_returns_is_data_even_where_nothing_is_recorded_around_it():
    with torch.no_grad():
        results = grad_and_value(lambda t: (cubic(t), [t["x"] ** 2, "a word"]), THETA)

    gradient, value, (squared, word) = results
    assert word == "a word" and gradient["y"] == 9
    assert not any(each.requires_grad for each in [*gradient.values(), value, squared])
    assert not any(each.requires_grad for each in THETA.values())
