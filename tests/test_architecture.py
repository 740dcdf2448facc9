import re

from meta_rl.experiment import catalog


def test_the_kernel_does_not_know_metaworld():
    """What the kernel says of Meta-World would be wrong for every other family."""
    found = [
        f"{path.relative_to(catalog.ROOT)}:{number}: {line.strip()}"
        for path in sorted((catalog.ROOT / "meta_rl").rglob("*"))
        if path.suffix in (".py", ".j2")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"meta.?world", line, re.IGNORECASE)
    ]
    assert not found
