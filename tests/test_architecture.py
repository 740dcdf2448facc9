import re

import grimp

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


def test_no_agent_imports_another_agent_s_file():
    """What several share is in files with an underscore, so that each can be read by itself."""
    graph = grimp.build_graph("agents", cache_dir=None)
    agents = {each for each in graph.modules if re.match(r"agents\.[^_]", each)}
    imported = {each: graph.find_modules_directly_imported_by(each) & agents for each in agents}
    assert "agents.maml_trpo" in agents
    assert not {each: others for each, others in imported.items() if others}
