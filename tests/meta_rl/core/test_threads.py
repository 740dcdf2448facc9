"""Work that is shared out over threads by hand."""

import pytest
import torch

from meta_rl.core.threads import one_thread, side_by_side


@pytest.mark.parametrize("threads", [1, 3])
def test_work_side_by_side_keeps_its_order_and_records_no_derivatives(with_threads, threads):
    x = torch.ones((), requires_grad=True)

    results = with_threads(threads, lambda: side_by_side(lambda i: i * x, range(20)))

    assert torch.stack(results).tolist() == list(range(20))
    assert not any(result.requires_grad for result in results)


def test_an_error_in_a_piece_is_raised_and_leaves_the_number_of_threads(with_threads):
    def fail(item):
        raise ValueError(f"piece {item}")

    def attempt():
        with pytest.raises(ValueError, match="piece 0"):
            side_by_side(fail, range(5))

    with_threads(3, attempt)


def test_one_thread_lasts_as_long_as_its_block(with_threads):
    def numbers():
        with pytest.raises(KeyError), one_thread():
            inside = torch.get_num_threads()
            raise KeyError
        return inside, torch.get_num_threads()

    assert with_threads(3, numbers) == (1, 3)
