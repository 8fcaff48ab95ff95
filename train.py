"""Train SegIC: `python train.py --config emoji_tiny --workdir DIR`, as `segic train`."""

import sys

from segic_jax.commands.command_line import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
