"""Train SegIC: `python train.py --config configs/X.py --workdir DIR [--optim.learning-rate 3e-4 ...]`.

Every field of the configuration can be overridden. Run again with the same arguments to go on after a stop;
the finished model is DIR/model.safetensors. On several hosts run the same line on each: SLURM, MPI and TPU
pods are detected, elsewhere add --coordinator HOST:PORT --num-hosts N --host-id I.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from segic_jax.config import Config, Hosts, load_config
from segic_jax.runtime.command_line import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; see `segic_jax.train.run`. Slow imports wait until Ctrl-C is heard."""
    return run_command(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> int:
    config, workdir, hosts = parse(arguments)
    from segic_jax.train.run import run

    return run(config, workdir, hosts)


def parse(arguments: Sequence[str]) -> tuple[Config, Path, Hosts]:
    """Configuration with its overrides, work directory and hosts; a wrong argument exits with code 2."""
    parser = argparse.ArgumentParser(usage=__doc__.split("`")[1], add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--coordinator")
    parser.add_argument("--num-hosts", type=int)
    parser.add_argument("--host-id", type=int)
    known, rest = parser.parse_known_args(arguments)
    if not {"-h", "--help"} & set(rest) and not (known.config and known.workdir):
        parser.error("--config and --workdir are required.")
    read = functools.partial(tyro.cli, Config, args=rest, description=__doc__)
    config = read(default=load_config(known.config)) if known.config else read()
    return config, known.workdir.resolve(), Hosts(known.coordinator, known.num_hosts, known.host_id)


if __name__ == "__main__":
    sys.exit(main())
