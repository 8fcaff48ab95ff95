"""Choose the cells that the benchmark measures: each factor varies around a common default."""

from collections.abc import Iterator
from itertools import product

from benchmarks.stages import HOST, Size
from segic_jax.config import ModelConfig

BATCHES, CONCEPTS, SHOTS, PRECISIONS = (1, 8, 32), (1, 5, 20), (1, 5), ("float32", "bfloat16")
QUICK = {"batches": (1, 8), "concepts": (1, 20), "shots": (1,)}  # also one canvas
ALL = (
    *(
        "backbone",
        "products",
        "references",
        "neck",
        "correspondence",
        "prompts",
        "decoder",
        "up-sampling",
        HOST,
    ),
    *("head", "head, each alone", "whole", "whole with references"),
)


def cells(model: ModelConfig, stages: tuple[str, ...], quick: bool) -> Iterator[tuple[str, Size]]:
    """Yield stage and size; small sizes come first, since they tell how long the large ones would take.

    The head runs in float32 in every command; its products (neck, decoder) are measured in bfloat16 as well.
    "whole" in bfloat16 has the backbone in bfloat16, as the commands have on an accelerator.
    """
    batches, concepts, shots = (QUICK.values()) if quick else (BATCHES, CONCEPTS, SHOTS)
    precisions = [{"precision": precision} for precision in PRECISIONS]
    by_batch = [{"batch": batch} for batch in batches]
    by_concepts = [{"concepts": count} for count in concepts]
    by_shots = [{"shots": count} for count in shots]
    cross = [a | b for a, b in product(by_batch, by_concepts)]
    concepts_and_batches = by_concepts + by_batch[1:]
    sizes = {
        "backbone": [a | b for a, b in product(precisions, by_batch)],
        "products": [a | b for a, b in product(precisions, by_batch)],
        "neck": [a | b for a, b in product(precisions, by_batch)],
        "references": [a | b for a, b in product(by_shots, by_concepts[::2])] + by_batch[1:],
        "correspondence": concepts_and_batches,
        "prompts": concepts_and_batches,
        "decoder": [
            *cross,
            *({"concepts": 5} | a for a in by_shots[1:]),
            *(a | precisions[1] for a in by_batch),
        ],
        "up-sampling": concepts_and_batches,
        HOST: concepts_and_batches,
        "head": [*concepts_and_batches, *({"concepts": 5} | a for a in by_shots[1:])],
        "head, each alone": concepts_and_batches,
        "whole": [*by_concepts[::2], *by_batch[1:], *(a | precisions[1] for a in by_batch)],
        "whole with references": [*by_shots, *by_batch[1:], precisions[1]],
    }
    for stage in stages or ALL:
        for fields in sizes[stage]:
            yield stage, Size(model, **fields)
