"""Print plans as one table, or turn them into JSON."""

from collections.abc import Sequence

from segic_jax.runtime.topology import Target
from segic_jax.train.plan import Plan

GIB = 2**30
LEAST_SHARE = 0.02  # of the memory traffic: smaller parts of the code are not listed


def to_json(plans: Sequence[Plan]) -> dict:
    """Return everything that the table shows, in bytes, operations and seconds."""
    target = plans[0].target
    chip = target.chip
    return {
        "target": str(target),
        "chip": {
            "name": chip.name,
            "flops_per_second": chip.flops,
            "memory_bytes": chip.memory,
            "memory_bytes_per_second": chip.memory_bandwidth,
            "network_bytes_per_second": target.network_bandwidth,
            "source": chip.source,
        },
        "programs": [_program_to_json(plan) for plan in plans],
    }


def _program_to_json(plan: Plan) -> dict:
    return {
        "program": plan.program,
        "devices": plan.devices,
        plan.unit: plan.rows,
        "fits": plan.fits,
        "estimate": plan.is_estimate,
        "failure": plan.failure or None,
        "memory_bytes_per_device": dict(plan.memory),
        "memory_bytes_left": plan.memory_left,
        "flops": plan.flops,
        "flops_by_type": {" ".join(kind).lower(): flops for kind, flops in plan.products.items()},
        "traffic_bytes_per_device": plan.cost.bytes,
        "traffic_bytes_by_part": dict(plan.parts),
        "loops_of_unknown_length": plan.cost.unknown_loops,
        "trips_of_unknown_loops": plan.chunks,
        "collectives": {
            kind: {"count": count, "bytes": plan.cost.collective_bytes[kind]}
            for kind, count in plan.cost.collectives.items()
        },
        "sent_bytes_per_device": plan.cost.sent_bytes,
        "seconds": None if plan.failure else plan.seconds,
        "roofline_seconds": None if plan.failure else plan.roofline_seconds,
        f"{plan.unit}_per_second": None if plan.failure else plan.rows / plan.roofline_seconds,
        "recipe_hours": _hours(plan),
        "compile_seconds": plan.compile_seconds,
    }


def table(plans: Sequence[Plan]) -> str:
    """Return a Markdown table with a column a program, and the figures behind it."""
    columns = [_column(plan) for plan in plans]
    names = list(dict.fromkeys(name for column in columns for name in column))
    names.sort(key=_section)  # stable: a part that only one program has stays in its section
    rows = [["", *(plan.program for plan in plans)]]
    rows += [[name.partition("|")[2], *(column.get(name, "") for column in columns)] for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, _line(["-" * width for width in widths], widths))
    return "\n".join([*lines, "", *_notes(plans)])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _digits(value: float) -> str:
    """Return three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{float(f'{value:.3g}'):g}"


def _section(name: str) -> int:
    return int(name.partition("|")[0])


def _column(plan: Plan) -> dict[str, str]:
    """Return the cells of a program by "section|name"."""
    cost, seconds, limit = plan.cost, plan.seconds, plan.target.chip.memory
    rows = {
        "0|devices": f"{plan.devices} x {plan.target.chip.name}",
        "1|a call": f"{plan.rows} {plan.unit}",
        "2|memory of a device, GiB": f"{limit / GIB:.2f}",
    }
    rows |= {f"3|- {part}": f"{size / GIB:.2f}" for part, size in plan.memory.items() if size >= 0.005 * GIB}
    if plan.failure:
        return rows | {"4|- left": "does not fit"}
    share = f"{100 * plan.memory_left / limit:.0f} %"
    fitting = f"{plan.memory_left / GIB:.2f} ({share})"
    rows["4|- left"] = fitting if plan.fits else f"does not fit: {fitting}"
    float32 = sum(flops for (dtype, _), flops in plan.products.items() if dtype == "float32")
    rows |= {
        "5|operations, TFLOP": _digits(plan.flops / 1e12),
        "6|- of them in float32": _digits(float32 / 1e12),
        "7|memory traffic of a device, GB": _digits(cost.bytes / 1e9),
    }
    for part, moved in plan.parts.items():
        if moved >= LEAST_SHARE * cost.bytes:
            rows[f"8|- {part}"] = _digits(moved / 1e9)
    for kind, count in cost.collectives.items():
        rows[f"9|{kind}, MB"] = f"{count} with {_digits(cost.collective_bytes[kind] / 1e6)}"
    rows |= {f"10|{name} time, ms": _digits(1000 * value) for name, value in seconds.items()}
    bound = max(seconds, key=lambda name: seconds[name])
    rows["11|roofline time, ms"] = f"{_digits(1000 * plan.roofline_seconds)} ({bound})"
    rows[f"12|{plan.unit} a second at the roofline"] = _digits(plan.rows / plan.roofline_seconds)
    hours = _hours(plan)
    if hours is not None:
        rows["13|hours of the recipe at the roofline"] = f"{_digits(hours)} ({plan.steps} steps)"
    return rows | {"14|compiled in, s": f"{plan.compile_seconds:.0f}"}


def _hours(plan: Plan) -> float | None:
    return plan.steps * plan.roofline_seconds / 3600 if plan.steps and not plan.failure else None


def _notes(plans: Sequence[Plan]) -> list[str]:
    target: Target = plans[0].target
    chip = target.chip
    notes = [
        f"Peak of a {chip.name}: {chip.flops / 1e12:g} TFLOP/s in bfloat16, "
        f"{chip.memory_bandwidth / 1e9:g} GB/s of memory, {target.network_bandwidth / 1e9:g} GB/s sent to "
        f"other devices ({chip.source})."
    ]
    if any(plan.is_estimate for plan in plans):
        notes.append("Estimated: only backbones of one and of two layers were compiled.")
    prediction = [plan for plan in plans if plan.unit == "images" and not plan.failure]
    if len(prediction) > 1:
        seconds = sum(plan.roofline_seconds for plan in prediction)
        notes.append(
            f"Both prediction programs: {prediction[0].rows / seconds:.1f} images a second and device."
        )
    for plan in plans:
        if plan.failure:
            notes.append(f"The {plan.program} does not fit: {plan.failure[:400]}")
        if plan.cost.unknown_loops:
            notes.append(
                f"The {plan.program} has {plan.cost.unknown_loops} loops of unknown length, counted "
                f"{plan.chunks} times each: the chunks of concepts of a device with average pairs."
            )
    return notes
