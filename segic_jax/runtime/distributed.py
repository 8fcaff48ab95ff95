"""Processes, devices and how arrays lie on them: one mesh axis, "data".

A batch is split over the axis, everything else is replicated; a large frozen backbone can be split too.
"""

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from segic_jax.config import Hosts
from segic_jax.errors import ConfigError, InputError

_NAMES = {
    "--coordinator": "JAX_COORDINATOR_ADDRESS",
    "--num-hosts": "JAX_NUM_PROCESSES",
    "--host-id": "JAX_PROCESS_ID",
}


def initialize(hosts: Hosts | None = None) -> None:
    """Join the other processes of this run, if there are any; call it before any other JAX call.

    One process needs nothing. Several are found in `hosts`, else in the environment: in
    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID, or in what `srun`, `mpirun` and
    TPU pods set.

    Raises:
        ConfigError: only some of the three are given, or the others do not come.
    """
    given = hosts or Hosts()
    values = {
        flag: os.environ.get(variable) if value is None else value
        for (flag, variable), value in zip(
            _NAMES.items(), (given.coordinator, given.num_hosts, given.host_id), strict=True
        )
    }
    known = [flag for flag, value in values.items() if value not in (None, "")]
    if known and len(known) < len(_NAMES):
        flag = next(flag for flag in _NAMES if flag not in known)
        raise ConfigError(f"{known[0]} is given but {flag} ({_NAMES[flag]}) is not: give all three or none.")
    try:
        if known:
            address, processes, index = (str(value) for value in values.values())
            if not (processes.isdecimal() and index.isdecimal() and int(index) < int(processes)):
                raise ConfigError(f"--host-id {index} must be from 0 to --num-hosts {processes} - 1.")
            jax.distributed.initialize(address, int(processes), int(index))
        elif _in_cluster():
            jax.distributed.initialize()
    except RuntimeError as error:  # nobody there, or the port is taken
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(
            f"The processes of this run do not find each other ({reason}): is the coordinator's port "
            "free and reachable, and was the command started on every host?"
        ) from error


def _in_cluster() -> bool:
    # Not SLURM_JOB_ID: it is also set in an interactive allocation, where one process runs alone.
    counts = (os.environ.get("SLURM_STEP_NUM_TASKS", "1"), os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    return any(int(count) > 1 for count in counts) or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def is_main_host() -> bool:
    """Whether this process writes the logs."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gather_json(value) -> list:
    """A JSON value of every process, in the order of processes, on all of them; a collective call."""
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
    """A block that every host runs; where one fails, all of them do, once their own blocks have ended.

    Without it the others would wait for ever for that host.

    Raises:
        InputError: what another host's error said.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    said = [one for one in gather_json(error and (str(error) or repr(error))) if one]
    if error is not None:
        raise error
    if said:
        raise InputError(said[0])


def make_mesh() -> Mesh:
    """All devices of all processes in one row."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree):
    """Arrays that are the same in every process (any pytree of them), on every device."""
    place = partial(jax.make_array_from_process_local_data, replicated(mesh))
    return jax.tree.map(lambda value: place(np.asarray(value)), tree)


def shard_batch(mesh: Mesh, rows: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of a batch -> global arrays, split over the devices along axis 0."""
    place = partial(jax.make_array_from_process_local_data, NamedSharding(mesh, PartitionSpec("data")))
    return {name: place(value) for name, value in rows.items()}


def split_parameters(
    mesh: Mesh, params: Mapping[str, np.ndarray], at_least: int = 2**20
) -> dict[str, jax.Array]:
    """Frozen parameters, each large one split over the devices along its longest axis that divides evenly.

    The compiler gathers a layer when it is used, so each device holds its share only. `at_least` counts
    numbers; smaller arrays are replicated. Every process holds the same full `params`.
    """
    devices = mesh.devices.size

    def place(value):
        value = np.asarray(value)
        axes = [axis for axis in np.argsort(value.shape)[::-1] if value.shape[axis] % devices == 0]
        names = [None] * value.ndim
        if value.size >= at_least and axes:
            names[axes[0]] = "data"
        sharding = NamedSharding(mesh, PartitionSpec(*names))
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return {name: place(value) for name, value in params.items()}


class StopRequest:
    """SIGTERM or Ctrl-C, turned into a question that the loop asks after every step.

    With several processes a SIGTERM to any one of them stops all of them after the same step.
    A second signal acts as usual.
    """

    def __init__(self):
        self._received = False
        self._previous = {}
        # With several processes JAX's own handler tells the others.
        if not jax.distributed.is_initialized():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        self.close()

    def reached(self, step: int) -> bool:
        """Whether to save and stop after `step`; every process asks at every step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received

    def close(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
