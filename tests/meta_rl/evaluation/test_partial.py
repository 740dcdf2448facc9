import numpy as np

from meta_rl.evaluation.partial import Cells


def test_a_damaged_unfinished_evaluation_costs_no_more_than_to_measure_again(tmp_path):
    path = tmp_path / "partial-x.npz"
    shape = (1, 2, 3, 4)
    cells = Cells(["loss"], shape, path)
    cells.fill([1], {"loss": np.ones((1, 2, 1, 4))})
    content = path.read_bytes()
    assert Cells(["loss"], shape, path).missing == [0, 2]
    for at in range(0, len(content), 5):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        assert Cells(["loss"], shape, path).missing in ([0, 2], [0, 1, 2])
        path.write_bytes(content[:at])
        assert Cells(["loss"], shape, path).missing == [0, 1, 2]
