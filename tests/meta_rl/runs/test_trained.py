import torch

from meta_rl.commands.cli import main
from meta_rl.runs import checkpoint


def test_an_agent_with_other_parts_than_the_checkpoint_has_is_told(small_config, tmp_path, capsys):
    """As of a run by a version whose agent of the same name had another network."""
    assert main(["train", str(small_config("maml_ppo")), "--runs", str(tmp_path)]) == 0
    path = tmp_path / "small" / "checkpoints" / "latest.pt"
    state = checkpoint.load(path)
    whole = {"agent": state["agent"]}
    lacking = {name: value for name, value in state["agent"].items() if name != "theta"}
    reshaped = state["agent"] | {"theta": {"other": torch.zeros(1)}}
    for agent in (lacking, reshaped):
        checkpoint.save(state | {"agent": agent}, path)
        for words in (["evaluate", str(tmp_path / "small")], ["train", "--resume"]):
            if words[0] == "train":
                words += [str(tmp_path / "small"), "--meta-iterations", "3"]
            capsys.readouterr()
            assert main(words) == 1
            told = capsys.readouterr().err
            assert "the checkpoint's maml_ppo has other parts than this version's" in told
    checkpoint.save(state | whole, path)
    assert main(["evaluate", str(tmp_path / "small")]) == 0
