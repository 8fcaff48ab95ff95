"""Adapt a model to your own images: `python finetune.py --data DIR --workdir OUT`, as `segic finetune`."""

import sys

from segic_jax.commands.command_line import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
