"""Score a model on a benchmark: `python eval.py --benchmark fss1000 --data-root DIR`, as `segic eval`."""

import sys

from segic_jax.commands.command_line import main

if __name__ == "__main__":
    main(["eval", *sys.argv[1:]])
