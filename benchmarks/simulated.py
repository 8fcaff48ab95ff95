"""Measure one point of the device curve for `benchmarks.growth`, which starts this process with XLA_FLAGS.

The arguments are a ModelConfig as JSON, the number of images, and the seconds to time them.
"""

import json
import sys

import jax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.measure import alternating, clocked
from benchmarks.stages import STAGES, Size, filled
from segic_jax.config import model_config_from_dict
from segic_jax.runtime.distributed import make_mesh, replicated


def main(config: str, batch: str, seconds: str) -> None:
    """Shard images and prototypes over all devices, replicate the weights, and print JSON."""
    size = Size(model_config_from_dict(json.loads(config)), batch=int(batch))
    function, arguments = STAGES["whole"](size)
    mesh = make_mesh()
    split = NamedSharding(mesh, PartitionSpec("data"))
    places = (
        replicated(mesh),
        replicated(mesh),
        split,
        split,
        split,
    )  # backbone, head, images, sizes, Context
    program = jax.jit(function, in_shardings=places).lower(*arguments).compile()
    arrays = jax.block_until_ready(jax.device_put(filled(arguments), places))

    def run():
        jax.block_until_ready(program(*arrays))

    run()
    times = alternating({"ours": clocked(run)}, float(seconds))["ours"]
    point = {"at": mesh.size, "seconds": times.median}
    memory = program.memory_analysis()
    assert memory
    print(json.dumps(point | {"temporary": memory.temp_size_in_bytes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
