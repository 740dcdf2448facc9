"""`python -m meta_rl COMMAND ...`."""

import sys

from meta_rl.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
