"""Write any benchmark's data as a TFDS data set in array_record files, without TensorFlow.

<out>/<name>/<version>/
    <name>-<split>.array_record-00000-of-00012    ITEMS images or frames each
    dataset_info.json, features.json              for TFDS
    segic_jax.json.gz                             what TFDS has no field for (info.py); written last
    manifests/<protocol>_fold<f>_<k>shot.jsonl.gz the episodes, drawn from the original data
    parts/                                        the index of each finished file, until all are finished

A file appears under its name when it is complete, so a build that was killed continues with the next file.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segic_jax.data.benchmark_spec import BenchmarkSpec
from segic_jax.data.build.info import VERSION, DataSetInfo, VideoInfo, find_built
from segic_jax.data.build.items import Item, items, records
from segic_jax.data.build.records import FrameRecord, ImageRecord, encode, features
from segic_jax.data.image_files import record_reads
from segic_jax.errors import DataError
from segic_jax.runtime import progress
from segic_jax.runtime.atomic_write import atomic_path, atomic_write
from segic_jax.runtime.prefetch import prefetch_results

ITEMS = 256  # images or frames in a file


class _Encoded(NamedTuple):
    examples: list[bytes]
    index: list  # as in DataSetInfo.records
    sources: dict[str, str]


def build(
    benchmark: BenchmarkSpec,
    source,
    root: Path | None,
    out: Path,
    *,
    read: Mapping[Path, str],
    shots: Sequence[int],
    threads: int = 4,
) -> Path:
    """Write the data set and return its folder; files that an earlier call finished are kept.

    Args:
        source: the source that `benchmark` opens in `root`.
        read: the files that were read to open it, with their SHA-256 (`image_files.record_reads`).
        shots: the numbers of references for which episodes are drawn and stored, if the benchmark has them.

    Raises:
        DataError: a file is missing or damaged, or `out` holds a build of other data. Finished files stay.
    """
    folder = out / benchmark.name / VERSION
    if find_built(folder):
        _write_manifests(benchmark, source, folder / "manifests", shots)
        return folder
    work = list(items(benchmark.kind, source))
    if not work:
        raise DataError(f"{root} holds no data of {benchmark.name}.")
    _claim(folder / "parts" / "build.json", benchmark, work)
    base = root.resolve() if root else Path()

    def relative(files: Mapping[Path, str]) -> dict[str, str]:
        return {_relative(path, base): digest for path, digest in files.items()}

    def encoded(item: Item) -> _Encoded:
        with record_reads() as files:
            content = records(benchmark.kind, source, item)
        examples = [encode(record, files) for record in content]
        return _Encoded(examples, [_index(record) for record in content], relative(files))

    splits = {split: [item for item in work if item.split == split] for split in {w.split: 0 for w in work}}
    with progress.bar(total=len(work), desc=benchmark.name, unit="image") as bar:
        for split, split_items in splits.items():
            for number, start in enumerate(range(0, len(split_items), ITEMS)):
                path = folder / _file_name(benchmark.name, split, number, len(split_items))
                chunk = split_items[start : start + ITEMS]
                if not path.exists():
                    _write_file(path, prefetch_results(encoded, chunk, threads=threads, limit=2 * threads))
                bar.update(len(chunk))
    _finish(benchmark, source, folder, splits, relative(read), shots)
    return folder


def _claim(path: Path, benchmark: BenchmarkSpec, work: Sequence[Item]) -> None:
    """Raise DataError if the folder holds a build of other data."""
    digest = hashlib.sha256(repr([(item.split, item.content) for item in work]).encode()).hexdigest()
    identity = {"benchmark": benchmark.name, "items": len(work), "sha256": digest, "items_a_file": ITEMS}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(identity))
    elif path.read_text() != json.dumps(identity):
        raise DataError(
            f"{path.parent.parent} holds a build of other data: delete it, or choose another --out."
        )


def _write_file(path: Path, content: Iterator[_Encoded]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    index, sources, size = [], {}, 0
    with atomic_path(path) as part:
        writer = ArrayRecordWriter(str(part), "group_size:1")  # records are read one by one
        try:
            for encoded in content:
                for example in encoded.examples:
                    writer.write(example)
                    size += len(example)
                index += encoded.index
                sources |= encoded.sources
        finally:
            writer.close()
        atomic_write(_part_file(path), json.dumps({"records": index, "sources": sources, "bytes": size}))


def _finish(
    benchmark: BenchmarkSpec,
    source,
    folder: Path,
    splits: dict[str, list[Item]],
    sources: dict[str, str],
    shots: Sequence[int],
) -> None:
    import tensorflow_datasets as tfds

    index: dict[str, list] = {}
    notes: dict[str, list] = {}
    split_infos = []
    for split, split_items in splits.items():
        paths = [
            folder / _file_name(benchmark.name, split, number, len(split_items))
            for number in range(-(-len(split_items) // ITEMS))
        ]
        parts = [json.loads(_part_file(path).read_text()) for path in paths]
        described = [record for part in parts for record in part["records"]]
        index[split] = [record[:2] for record in described]
        notes[split] = [
            [number, *note]
            for number, record in enumerate(described)
            for found in record[2:]
            for note in found
        ]
        for part in parts:
            sources |= part["sources"]
        split_infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(part["records"]) for part in parts],
                num_bytes=sum(part["bytes"] for part in parts),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features("frame" if benchmark.kind == "video" else "image"),
        split_infos=split_infos,
        version=VERSION,
        check_data=False,  # the check needs TensorFlow
        description=benchmark.title,
        homepage=benchmark.download,
    )
    _write_manifests(benchmark, source, folder / "manifests", shots)
    info = DataSetInfo(
        benchmark=benchmark.name,
        kind=benchmark.kind,
        records=index,
        class_names=_class_names(benchmark, source, index),
        sources=dict(sorted(sources.items())),
        videos=_videos(source) if benchmark.kind == "video" else [],
        notes=notes,
        left_out=list(source.left_out) if benchmark.kind == "video" else [],
    )
    info.write(folder)
    shutil.rmtree(folder / "parts")


def _write_manifests(benchmark: BenchmarkSpec, source, folder: Path, shots: Sequence[int]) -> None:
    if benchmark.kind != "episodes":
        return
    folder.mkdir(exist_ok=True)
    for protocol in benchmark.protocols:
        for fold in range(benchmark.folds):
            for count in shots:
                path = folder / manifest_name(protocol, fold, count)
                if path.exists():
                    continue
                try:
                    manifest = source.manifest(protocol, fold, count)
                except DataError:
                    continue  # the benchmark has no such episodes
                manifest.write(path)


def manifest_name(protocol: str, fold: int, shots: int) -> str:
    """Return the name of a file in manifests/."""
    return f"{protocol}_fold{fold}_{shots}shot.jsonl.gz"


def _class_names(benchmark: BenchmarkSpec, source, index: dict[str, list]) -> list | None:
    if benchmark.kind == "video":
        return None
    if benchmark.kind == "semseg":
        return list(enumerate(source.classes))
    ids = dict.fromkeys(
        class_id for records in index.values() for _, views in records for class_id, _ in views
    )
    try:
        return [(class_id, source.class_name(class_id)) for class_id in ids]
    except DataError:
        return None


def _videos(source) -> list[VideoInfo]:
    return [
        VideoInfo(
            name=clip.name,
            frames=[path.stem for path in clip.frames],
            annotations=sorted(clip.annotations),
            required=sorted(clip.required),
            scored=clip.scored,
            palette=source.palette(clip),
            notes=list(clip.notes),
        )
        for clip in source.videos()
    ]


def _index(record: ImageRecord | FrameRecord) -> list:
    """Return the record's entry in the description, and the notes that are moved to their own place there."""
    if isinstance(record, FrameRecord):
        return [record.video, record.frame]
    notes = [[number, concept.note] for number, concept in enumerate(record.concepts) if concept.note]
    notes += [[None, record.note]] if record.note else []
    return [record.image_name, [[concept.class_id, concept.instance] for concept in record.concepts], notes]


def _relative(path: Path, base: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _file_name(name: str, split: str, number: int, count: int) -> str:
    """Return the name that TFDS gives to a file of a split with `count` items."""
    return f"{name}-{split}.array_record-{number:05}-of-{-(-count // ITEMS):05}"


def _part_file(path: Path) -> Path:
    return path.parent / "parts" / f"{path.name}.json"
