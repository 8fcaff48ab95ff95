"""Write the log of a training: `metrics.jsonl`, TensorBoard if asked for, and lines or a bar on the screen.

`metrics.jsonl` gets a line per log interval, with the mean metrics of its steps and
    learning_rate
    pairs_per_second
    step_seconds, step_seconds_median
    input_wait                      share of the time in which the loop waited for its next batch
    chunks                          of concepts that a device decodes in a pass (train/packing.py)
    flops_per_second                of all devices together (train/flops.py says what counts)
    flops_utilisation               share of the devices' peak, where that is known
    memory_bytes, memory_peak_bytes current and highest use of the fullest local device, where it is known
    unreadable                      images so far that could not be read
and a line with "validation/..." per validation. Process 0 writes; in the others the calls do nothing.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import jax
import numpy as np

from segic_jax.config import TrainConfig
from segic_jax.runtime import progress
from segic_jax.runtime.distributed import gather_json, is_main_host
from segic_jax.runtime.metric_writer import MetricWriter, read_metrics
from segic_jax.runtime.topology import peak_flops


class TrainingLog:
    """Write the log of one training, whose content the module describes."""

    def __init__(self, config: TrainConfig, workdir: Path, *, start: int):
        """Continue the log of `workdir` after step `start`.

        Raises:
            ConfigError: `config.tensorboard` without tensorboardX installed.
        """
        self._config, self._workdir = config, workdir
        self._flops: tuple[float, float] | None = None
        self._from = start
        self._bar = self._writer = None
        if is_main_host():
            self._writer = MetricWriter(workdir, start_step=start, tensorboard=config.tensorboard)
            if sys.stdout.isatty():
                self._bar = progress.bar(
                    total=config.steps,
                    initial=start,
                    file=sys.stdout,
                    dynamic_ncols=True,
                    bar_format="step {n_fmt}/{total_fmt} |{bar}|{postfix}",
                )
        self.restart_clock()

    def begin(self, without_chunks: float, with_chunk: float) -> None:
        """Start timing: steps follow now.

        Args:
            without_chunks: operations of a step over all devices, if they decode nothing.
            with_chunk: the same, if each decodes one chunk of concepts in each of its loops.
        """
        self._flops = without_chunks, with_chunk - without_chunks
        self.restart_clock()

    def validated(self, step: int) -> bool:
        """Return whether the log has the scores of this step; every process must call it."""
        lines = [] if self._writer is None else read_metrics(self._workdir)
        logged = any(line["step"] == step and any("validation/" in name for name in line) for line in lines)
        return any(gather_json(logged))

    def restart_clock(self) -> None:
        """Exclude the time since the last report: compilation, validation, saving."""
        self._since = time.monotonic()
        self._waited = 0.0
        self._marks: list[float] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the block that gets the next batch."""
        begin = time.monotonic()
        yield
        self._waited += time.monotonic() - begin

    def stepped(self) -> None:
        """Mark a step, once the loop has waited for the step before it."""
        self._marks.append(time.monotonic())
        if self._bar is not None:
            self._bar.update()

    def steps(
        self,
        step: int,
        metrics: Sequence[Mapping[str, np.ndarray | np.floating]],
        *,
        learning_rate: float,
        unreadable: int,
    ) -> None:
        """Report the steps since the last report; all of them have finished.

        Args:
            metrics: of each of these steps.
            learning_rate: of the last one.
            unreadable: images so far.
        """
        now = time.monotonic()
        count, seconds = step - self._from, max(now - self._since, 1e-9)
        # The first mark comes before any step has finished, the last step's end after the last mark.
        each = np.diff([*self._marks, now]) if self._marks else [seconds / count]
        waited = self._waited
        self._from = step
        self.restart_clock()
        if self._writer is None:
            return
        means = {
            name: float(np.mean([step_metrics[name] for step_metrics in metrics])) for name in metrics[0]
        }
        speed = {
            "pairs_per_second": count * self._config.batch_size / seconds,
            "step_seconds": seconds / count,
            "step_seconds_median": float(np.median(each)),
            "input_wait": waited / seconds,
        }
        device = self._compute(seconds / count, means["chunks"]) | _memory()
        line = {**means, "learning_rate": learning_rate, **speed, **device, "unreadable": unreadable}
        self._writer.write(step, line)
        left = timedelta(seconds=round((self._config.steps - step) * seconds / count))
        if self._bar is not None:
            pairs = speed["pairs_per_second"]
            self._bar.set_postfix_str(f"loss {means['loss']:.4f}, {pairs:.1f} pairs/s, {left} left")
        else:
            print(f"{self._at(step)}  {_summary(line)}  {left} left", flush=True)

    def validation(self, step: int, scores: Mapping[str, float]) -> None:
        """Report the scores of a validation; names may be paths, such as 'coco20i/miou'."""
        if self._writer is None:
            return
        self._writer.write(step, {f"validation/{name}": value for name, value in scores.items()})
        headline = [f"{name} {value:.2f}" for name, value in scores.items() if name.split("/")[-1] == "miou"]
        text = f"{self._at(step)}  validation {', '.join(headline)}"
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Close the files, and leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def _at(self, step: int) -> str:
        return f"step {step}/{self._config.steps}"

    def _compute(self, step_seconds: float, chunks: float) -> dict[str, float]:
        if self._flops is None:
            return {}
        without_chunks, chunk = self._flops
        reached = {"flops_per_second": (without_chunks + chunks * chunk) / step_seconds}
        peak = peak_flops(jax.devices()[0].device_kind)
        if peak is not None:
            reached["flops_utilisation"] = reached["flops_per_second"] / (peak * jax.device_count())
        return reached


def _memory() -> dict[str, int]:
    """Return the memory use of the fullest device of this process."""
    stats = [values for device in jax.local_devices() if (values := device.memory_stats())]
    names = {"memory_bytes": "bytes_in_use", "memory_peak_bytes": "peak_bytes_in_use"}
    return {
        name: max(values[key] for values in stats)
        for name, key in names.items()
        if stats and all(key in values for values in stats)
    }


def _summary(line: Mapping[str, float]) -> str:
    """Return the numbers for the screen."""
    parts = [
        f"loss {line['loss']:.4f}",
        f"learning rate {line['learning_rate']:.1e}",
        f"{line['pairs_per_second']:.1f} pairs/s",
        f"{line['step_seconds']:.3g} s a step",
        f"{line['input_wait']:.0%} waiting for input",
    ]
    if "flops_utilisation" in line:
        parts.append(f"{line['flops_utilisation']:.0%} of the peak FLOP/s")
    if line["unreadable"]:
        parts.append(f"{line['unreadable']} images unreadable")
    return "  ".join(parts)
