"""Which processes there are, and whose children they are."""

from pathlib import Path


def processes():
    """Return all processes' parents and command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text().replace("\0", " ")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        found[int(folder.name)] = (parent, command)
    return found


def descendants(pid):
    """Return the command lines of a process's children, of theirs, and so on."""
    found, running = [pid], processes()
    for ancestor in found:
        found += [child for child, (parent, _) in running.items() if parent == ancestor]
    return {child: running[child][1] for child in found[1:] if child in running}
