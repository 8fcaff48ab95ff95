"""Compile the programs of a configuration for a target, and estimate what they need there.

Nothing runs and no array is made: programs are traced with shapes and compiled for devices that exist only
for the compiler.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct
from jax.errors import JaxRuntimeError
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from segic_jax.config import Config, ModelConfig
from segic_jax.data.pipeline import CANDIDATES
from segic_jax.inference.engine import extract
from segic_jax.inference.matching import KINDS, PATCHES, ConceptSlots, match_concepts
from segic_jax.models.backbones import backbone_template
from segic_jax.models.encoding import Prototypes
from segic_jax.models.head import head_template
from segic_jax.runtime.distributed import parameter_sharding, replicated
from segic_jax.runtime.hlo_cost import Cost, program_cost
from segic_jax.runtime.topology import Target, compile_only_devices
from segic_jax.train.flops import Products, products_of
from segic_jax.train.kernel_traffic import repeated_reads
from segic_jax.train.optim import make_optimizer, trainable_names
from segic_jax.train.packing import CHUNK
from segic_jax.train.step import Frozen, check_batch, init_state, make_train_step

# Parts of the program, by the innermost file in the call of an operation whose path contains one of these.
PARTS = {
    "models/vit.py": "backbone",
    "models/efficientnet.py": "backbone",
    "models/dinov3.py": "backbone",
    "models/prompt_encoder.py": "prompt encoder",
    "models/mask_decoder.py": "mask decoder",
    "models/correspondence.py": "similarity maps",
    "train/losses.py": "losses",
    "train/optim.py": "optimizer",
    "/optax/": "optimizer",
    "models/encoding.py": "pixels and prototypes",
    "models/head.py": "neck and tokens",
    "models/segic.py": "neck and tokens",
}
CONCEPTS = 4.5  # of a pair of the recipe: one where it is semantic, about eight where it shows instances
PROMPTS = 232  # rows of the text table: classes of COCO and ADE20K, instances, the empty prompt
BACKBONE_DTYPE = jnp.bfloat16  # on every accelerator
Shapes = Any  # a pytree of ShapeDtypeStructs with shardings


@dataclass(frozen=True)
class Plan:
    """Hold what one compiled program needs on each device."""

    program: str
    target: Target
    devices: int  # that one call runs on
    rows: int  # pairs or images of a call
    unit: str  # pairs or images
    memory: Mapping[str, int]  # part -> bytes a device
    products: Products  # operations of all devices together
    cost: Cost  # of a device
    parts: Mapping[str, float]  # part of the code -> its bytes of the memory traffic
    compile_seconds: float
    steps: int = 0  # of the recipe
    chunks: int = 1  # of concepts: how often a loop counts whose length depends on the batch
    failure: str = ""  # the compiler's words, if the program does not fit
    is_estimate: bool = False  # of `plan_quick`: only a backbone of one and two layers was compiled

    @property
    def memory_left(self) -> int:
        """Return the bytes of a device that nothing uses; negative if the program does not fit."""
        return self.target.chip.memory - sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Return whether the program fits into a device's memory."""
        return not self.failure and self.memory_left >= 0

    @property
    def flops(self) -> int:
        """Return the operations of all devices together."""
        return sum(self.products.values())

    @property
    def seconds(self) -> dict[str, float]:
        """Return the time of a call if only compute, memory or network took time, each at its peak rate."""
        chip = self.target.chip
        operations = sum(flops * chip.slowdown(*kind) for kind, flops in self.products.items())
        return {
            "compute": operations / self.devices / chip.flops,
            "memory": self.cost.bytes / chip.memory_bandwidth,
            "network": self.cost.sent_bytes / self.target.network_bandwidth,
        }

    @property
    def roofline_seconds(self) -> float:
        """Return the time of a call at the roofline: the longest of the three times."""
        return max(self.seconds.values())


def plan_training(config: Config, target: Target) -> Plan:
    """Compile the training step for all devices of a target.

    Arrays lie as `train.loop` places them. The step is traced and compiled inside `jax.set_mesh`.

    Raises:
        ConfigError: the batch cannot be split over the devices.
        InputError: the target cannot be compiled for.
    """
    check_batch(config.train, target.size)
    mesh = Mesh(np.array(compile_only_devices(target)), ("data",), axis_types=(AxisType.Auto,))
    optimizer = make_optimizer(config.optim, config.train.steps)
    state, frozen, batch = training_shapes(config, optimizer, mesh)
    with jax.set_mesh(mesh):
        step = make_train_step(config, optimizer, mesh)
        concepts = min(CONCEPTS, config.data.max_concepts) * config.train.batch_size
        chunks = math.ceil(concepts / config.train.accumulate / target.size / CHUNK)
        compiled = _compile(step, state, frozen, batch, chunks=chunks)
    groups = {
        "frozen backbone": frozen.backbone,
        "head and text table": (state["params"], frozen.untrained, frozen.text_table),
        "optimizer state": (state["opt_state"], state["step"], state["queue"]),
        "batch": batch,
    }
    memory = compiled.memory(groups)
    memory["next batch"] = memory["batch"]  # sent while the devices compute
    return compiled.plan(
        program="training step",
        target=target,
        devices=target.size,
        rows=config.train.batch_size,
        unit="pairs",
        memory=memory,
        steps=config.train.steps,
    )


def training_shapes(config: Config, optimizer, mesh: Mesh) -> tuple[dict, Frozen, dict]:
    """Return the arguments of the training step as shapes, with the shardings of `train.loop`."""
    everywhere, over_rows = replicated(mesh), NamedSharding(mesh, PartitionSpec("data"))
    head = head_template(config.model).shapes
    trainable = set(trainable_names(head, score=config.data.negative > 0))
    params = {name: shape for name, shape in head.items() if name in trainable}
    untrained = {name: shape for name, shape in head.items() if name not in trainable}
    state = jax.eval_shape(lambda params: init_state(config, optimizer, params, PROMPTS, mesh), params)

    def place_weight(shape: ShapeDtypeStruct) -> ShapeDtypeStruct:
        split = config.train.split_backbone
        sharding = parameter_sharding(mesh, shape.shape) if split else everywhere
        return ShapeDtypeStruct(shape.shape, BACKBONE_DTYPE, sharding=sharding)

    frozen = Frozen(
        backbone={
            name: place_weight(shape)
            for name, shape in backbone_template(config.model.backbone).shapes.items()
        },
        untrained=_placed(untrained, everywhere),
        text_table=ShapeDtypeStruct((PROMPTS, config.model.text_width), jnp.float32, sharding=everywhere),
    )
    return _placed(state, everywhere), frozen, _placed(batch_shapes(config), over_rows)


def batch_shapes(config: Config) -> dict[str, ShapeDtypeStruct]:
    """Return the shapes of a global batch; see `data.pipeline.training_batches`."""
    rows, side, concepts = config.train.batch_size, config.model.canvas, config.data.max_concepts
    each = {
        "image": ((side, side, 3), np.uint8),
        "size": ((2,), np.int32),
        "masks": ((concepts, side, -(-side // 8)), np.uint8),
        "prompt": ((), np.int32),
    }
    shapes = {f"{which}_{name}": kind for which in ("target", "reference") for name, kind in each.items()} | {
        "valid": ((concepts,), bool),
        "class_row": ((), np.int32),
        "negative_rows": ((CANDIDATES,), np.int32),
        "use_box": ((2,), bool),
        "use_cross": ((2,), bool),
        "unreadable": ((), np.int32),
    }
    return {name: ShapeDtypeStruct((rows, *shape), dtype) for name, (shape, dtype) in shapes.items()}


def plan_prediction(config: Config, target: Target, rows: int) -> list[Plan]:
    """Compile the inference programs for one device of a target: the backbone, and decoding one concept.

    Args:
        rows: images of a program.

    Raises:
        InputError: the target cannot be compiled for.
    """
    model = config.model
    device = SingleDeviceSharding(compile_only_devices(target)[0])
    backbone = {
        name: ShapeDtypeStruct(shape.shape, BACKBONE_DTYPE)
        for name, shape in backbone_template(model.backbone).shapes.items()
    }
    head = head_template(model).shapes
    images = ShapeDtypeStruct((rows, model.canvas, model.canvas, 3), np.uint8)
    sizes = ShapeDtypeStruct((rows, 2), np.int32)
    features = jax.eval_shape(partial(extract, model), backbone, images, sizes)
    slots = concept_shapes(model, 1)
    programs: dict[str, tuple[Callable, dict[str, Shapes]]] = {
        "backbone": (partial(extract, model), {"backbone": backbone, "images": images, "sizes": sizes}),
        "head, 1 concept": (
            partial(_match_concepts, model),
            {"head": head, "features": features, "sizes": sizes, "concepts": slots},
        ),
    }
    plans = []
    for name, (function, groups) in programs.items():
        groups = {name: _placed(tree, device) for name, tree in groups.items()}
        compiled = _compile(jax.jit(function), *groups.values())
        plans.append(
            compiled.plan(
                program=f"prediction: {name}",
                target=target,
                devices=1,
                rows=rows,
                unit="images",
                memory=compiled.memory(groups),
            )
        )
    return plans


def concept_shapes(model: ModelConfig, concepts: int) -> ConceptSlots:
    """Return the shapes of concepts that are decoded together."""
    width = model.backbone.width
    return ConceptSlots(
        context=Prototypes(
            pooled=ShapeDtypeStruct((1, concepts, width), jnp.float32),
            visual=ShapeDtypeStruct((1, concepts, 1, width), jnp.float32),
            visual_valid=ShapeDtypeStruct((1, concepts, 1), bool),
            text=ShapeDtypeStruct((1, concepts, model.text_width), jnp.float32),
        ),
        patches=ShapeDtypeStruct((concepts, KINDS, PATCHES, width), jnp.float32),
        patches_valid=ShapeDtypeStruct((concepts, KINDS, PATCHES), bool),
    )


def traffic_parts(cost: Cost) -> dict[str, float]:
    """Return the bytes that each part of the code moves, the largest first."""
    parts: Counter[str] = Counter()
    for source, moved in cost.by_source.items():
        names = (name for file in source.files for part, name in PARTS.items() if part in file)
        name = next(names, "rest")
        parts[f"{name}, gradient" if source.is_backward else name] += moved
    return dict(parts.most_common())


def _match_concepts(model: ModelConfig, *arguments):
    with jax.default_matmul_precision("highest"):  # as the engine does
        return match_concepts(model, *arguments)


@dataclass(frozen=True)
class _Compiled:
    """Hold a program after the compiler has seen it."""

    products: Products
    kernels: Mapping  # of `kernel_traffic.repeated_reads`
    seconds: float
    chunks: int
    executable: Any = None
    failure: str = ""

    def memory(self, groups: Mapping[str, Shapes]) -> dict[str, int]:
        """Return the bytes a device by part: arguments in groups, and what the compiler adds."""
        parts = {name: _bytes_per_device(tree) for name, tree in groups.items()}
        if self.executable is not None:
            stats = self.executable.memory_analysis()
            parts["padding"] = max(stats.argument_size_in_bytes - sum(parts.values()), 0)
            parts["temporaries"] = stats.temp_size_in_bytes
            parts["results"] = max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)
            parts["program"] = stats.generated_code_size_in_bytes
        return parts

    def plan(self, *, devices: int, **settings) -> Plan:
        """Return the plan of the program."""
        cost = Cost()
        if self.executable is not None:
            cost = program_cost(
                self.executable.as_text(),
                devices=devices,
                kernels=self.kernels,
                unknown_trips=self.chunks,
            )
        return Plan(
            products=self.products,
            cost=cost,
            parts=traffic_parts(cost),
            compile_seconds=self.seconds,
            failure=self.failure,
            devices=devices,
            chunks=self.chunks,
            **settings,
        )


def _compile(function: jax.stages.Wrapped, *arguments: Shapes, chunks: int = 1) -> _Compiled:
    """Trace and compile; a program that does not fit is a result, too.

    Args:
        chunks: see `Plan`.
    """
    begin = time.perf_counter()
    traced = function.trace(*arguments)
    platform = _platform(arguments)
    program = traced.jaxpr.jaxpr
    products, kernels = products_of(program, platform, chunks), repeated_reads(program, platform)
    try:
        executable, failure = traced.lower().compile(), ""
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        executable, failure = None, " ".join(str(error).partition(": ")[2].split())
    return _Compiled(products, kernels, time.perf_counter() - begin, chunks, executable, failure)


def _platform(arguments: Shapes) -> str:
    sharding = jax.tree.leaves(arguments)[0].sharding
    platform = next(iter(sharding.device_set)).platform
    return "cuda" if platform == "gpu" else platform


def _placed(tree: Shapes, sharding: jax.sharding.Sharding) -> Shapes:
    return jax.tree.map(lambda x: ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _bytes_per_device(tree: Shapes) -> int:
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
