"""Connect the processes of a run and place arrays on their devices.

The mesh has one axis, "data". A batch is sharded over it and everything else is replicated; a large frozen
backbone can be sharded too.
"""

import json
import math
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from segic_jax.config import Hosts
from segic_jax.errors import ConfigError, InputError

_VARIABLES = {
    "--coordinator": "JAX_COORDINATOR_ADDRESS",
    "--num-hosts": "JAX_NUM_PROCESSES",
    "--host-id": "JAX_PROCESS_ID",
}


def initialize(hosts: Hosts | None = None) -> None:
    """Join the other processes of this run, if there are any; call it before any other JAX call.

    A single process needs no settings. Several processes find each other by `hosts`, else by the environment:
    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID, or the variables that `srun`,
    `mpirun` and TPU pods set.

    Raises:
        ConfigError: only some of the three settings are given, or the other processes do not connect.
    """
    hosts = hosts or Hosts()
    values = {
        flag: os.environ.get(variable) if value is None else value
        for (flag, variable), value in zip(
            _VARIABLES.items(), (hosts.coordinator, hosts.num_hosts, hosts.host_id), strict=True
        )
    }
    present = [flag for flag, value in values.items() if value not in (None, "")]
    if present and len(present) < len(_VARIABLES):
        missing = next(flag for flag in _VARIABLES if flag not in present)
        raise ConfigError(
            f"{present[0]} is given but {missing} ({_VARIABLES[missing]}) is not: give all three or none."
        )
    try:
        if present:
            address, processes, index = (str(value) for value in values.values())
            if not (processes.isdecimal() and index.isdecimal() and int(index) < int(processes)):
                raise ConfigError(f"--host-id {index} must be from 0 to --num-hosts {processes} - 1.")
            jax.distributed.initialize(address, int(processes), int(index))
        elif _in_cluster():
            jax.distributed.initialize()
        if jax.distributed.is_initialized():
            _connect_devices()
    except RuntimeError as error:  # no process answers, or the port is taken
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(
            f"The processes of this run cannot connect to each other ({reason}): check that the "
            "coordinator's port is free and reachable, and that the command was started on every host."
        ) from error


def _connect_devices() -> None:
    """Run the first collectives of all groups of devices while all processes are here.

    Gloo waits 30 s for the others at the first collective of a group, and compiling the training step may
    take one process that much longer than another.
    """
    barrier("initialize")  # between corresponding devices of the processes
    mesh = make_mesh()
    ones = shard_batch(mesh, {"ones": np.ones(jax.local_device_count(), np.float32)})["ones"]
    jax.block_until_ready(jax.jit(jnp.sum, out_shardings=replicated(mesh))(ones))  # between all devices


def _in_cluster() -> bool:
    # Not SLURM_JOB_ID: it is also set in an interactive allocation, where one process runs alone.
    counts = (os.environ.get("SLURM_STEP_NUM_TASKS", "1"), os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    return any(int(count) > 1 for count in counts) or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def is_main_host() -> bool:
    """Return whether this process is the one that writes logs and results."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process has reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gather_json(value) -> list:
    """Return the JSON values of all processes, in their order; every process must call it."""
    if jax.process_count() == 1:
        return [value]
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(content)], np.int32)).ravel()
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(content)] = content
    parts = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [json.loads(part[:length].tobytes()) for part, length in zip(parts, lengths, strict=True)]


@contextmanager
def raise_on_all_hosts() -> Iterator[None]:
    """Run a block on every host and raise on all of them, after their own blocks have ended, if any failed.

    Without it the other hosts would wait forever for the failed one.

    Raises:
        InputError: another host failed; the message is that of its exception.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    messages = [message for message in gather_json(error and (str(error) or repr(error))) if message]
    if error is not None:
        raise error
    if messages:
        raise InputError(messages[0])


def make_mesh() -> Mesh:
    """Return a mesh of all devices of all processes along one axis."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that keeps the full array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree):
    """Place a pytree of arrays that are equal in every process on every device."""
    place = partial(jax.make_array_from_process_local_data, replicated(mesh))
    return jax.tree.map(lambda value: place(np.asarray(value)), tree)


def shard_batch(mesh: Mesh, rows: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Place this process's rows of a batch as global arrays, sharded over the devices along axis 0."""
    place = partial(jax.make_array_from_process_local_data, NamedSharding(mesh, PartitionSpec("data")))
    return {name: place(value) for name, value in rows.items()}


def parameter_sharding(mesh: Mesh, shape: Sequence[int], min_size: int = 2**20) -> NamedSharding:
    """Return how a large frozen parameter is split: along its longest axis that the devices divide evenly.

    The compiler gathers a layer when it is used, so each device stores its shard only.

    Args:
        min_size: arrays with fewer elements are replicated.
    """
    axes = [axis for axis in np.argsort(shape)[::-1] if shape[axis] % mesh.devices.size == 0]
    names: list[str | None] = [None] * len(shape)
    if math.prod(shape) >= min_size and axes:
        names[axes[0]] = "data"
    return NamedSharding(mesh, PartitionSpec(*names))


def shard(mesh: Mesh, value: np.ndarray) -> jax.Array:
    """Place a parameter, the same full array in every process, as `parameter_sharding` splits it."""
    sharding = parameter_sharding(mesh, value.shape)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


class StopRequest:
    """Turn SIGTERM and Ctrl-C into a request that the training loop checks after every step.

    With several processes a SIGTERM to any of them stops all of them after the same step. A second signal
    acts as usual.
    """

    def __init__(self):
        self._received = False
        self._previous = {}
        # With several processes JAX's own handler informs the others.
        if not jax.distributed.is_initialized():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        self.close()

    def reached(self, step: int) -> bool:
        """Return whether to save and stop after `step`; every process must ask at every step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received

    def close(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
