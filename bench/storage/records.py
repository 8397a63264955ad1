"""The records: what a record's folder holds, how it is filed, and how its source is brought back.

`results/records/<date>-<track>-<name>/` holds `record.json`, the settings as `config.toml`, the contestant's and the
harness's source as `source.zip`, the weights of the median attempt, a README made from all that, and, once others have
replayed it, `reproductions.jsonl`.
"""

import dataclasses
import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import ValidationError

from bench.errors import UsageError, nearest_hint
from bench.provenance import harness_files, harness_sha256, source_files, source_sha256
from bench.storage.jsonl import JsonLines, replace_file
from bench.storage.schema import Record, Reproduction


@dataclasses.dataclass(frozen=True)
class RecordFolder:
    """A record and the folder that it lies in."""

    record: Record
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def reproductions(self) -> JsonLines[Reproduction]:
        return JsonLines(self.folder / "reproductions.jsonl", Reproduction)

    def machine_classes(self) -> set[str]:
        """Where the record has been reached: its own machine class, and those of its reproductions."""
        found, _ = self.reproductions.read()
        return {self.record.machine_class} | {each.machine_class for each in found if each.reproduced}


# -----------------------------------------------------------------------------
# the shelf


def records_folder(results: Path) -> Path:
    return results / "records"


def read_records(results: Path) -> tuple[list[RecordFolder], list[str]]:
    """All records, the oldest first, and a sentence about each folder that holds none."""
    filed, faults = [], []
    for folder in sorted(path for path in records_folder(results).glob("*") if path.is_dir()):
        try:
            filed.append(read_record(folder))
        except UsageError as problem:
            faults.append(str(problem))
    return sorted(filed, key=lambda each: each.record.started_at), faults


def read_record(folder: Path) -> RecordFolder:
    """Raises WrongRequest when there is no record in the folder, or its `record.json` is none."""
    path = folder / "record.json"
    try:
        return RecordFolder(Record.model_validate_json(path.read_bytes()), folder)
    except OSError:
        raise UsageError(f"{folder.name}: there is no record.json in it") from None
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{folder.name}/record.json: {where and where + ': '}{first['msg']}") from None


def is_record(name: str, results: Path) -> bool:
    return (Path(name) / "record.json").is_file() or (records_folder(results) / name / "record.json").is_file()


def find_record(name: str, results: Path) -> RecordFolder:
    """A record by its name or its folder.

    Raises:
        UsageError: there is none; names the nearest.
    """
    for folder in (records_folder(results) / name, Path(name)):
        if name and folder.is_dir():
            return read_record(folder)
    known = [filed.record.name for filed in read_records(results)[0]]
    raise UsageError(
        f"there is no record {name!r}{nearest_hint(name, known) if known else '; none has been filed yet'}"
    )


def standing_record(filed: Iterable[RecordFolder], track: str, clock: str, machine_class: str) -> RecordFolder | None:
    """The latest record of a board; each beat the one before it."""
    board = track, clock, machine_class
    same = [each for each in filed if (each.record.track, each.record.clock, each.record.machine_class) == board]
    return max(same, key=lambda each: each.record.started_at, default=None)


# -----------------------------------------------------------------------------
# filing


def file_record(
    results: Path, record: Record, weights: Path, source: Path, config_note: str, readme: Callable[[RecordFolder], str]
) -> RecordFolder:
    """Write a record's folder; `record.json` comes last, so that half a folder is no record.

    Args:
        weights: the median attempt's; copied.
        source: the tree that is kept as `source.zip`.
        config_note: a comment at the head of `config.toml`.
        readme: makes the Markdown, once all else is there.

    Raises:
        ValueError: the source or the weights are not those that the record names.
        OSError: the folder could not be written.
    """
    import tomli_w

    folder = records_folder(results) / record.name
    folder.mkdir(parents=True, exist_ok=True)
    content = weights.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.weights_sha256:
        raise ValueError(f"{weights.name}: these are not the weights of {record.median_run}")
    filed = RecordFolder(record, folder)
    filed.weights.write_bytes(content)
    settings = {key: value for key, value in record.settings.items() if value is not None}
    replace_file(filed.config, f"# {config_note}\n{tomli_w.dumps(settings)}")
    pack_source(folder / "source.zip", source)
    if packed_hashes(folder / "source.zip") != (record.source_sha256, record.harness_sha256):
        raise ValueError("the source has changed since the record's attempts were made")
    replace_file(folder / "README.md", readme(filed))
    replace_file(folder / "record.json", record.model_dump_json(indent=2) + "\n")
    return filed


def pack_source(archive: Path, root: Path) -> None:
    """The contestant's and the harness's files; the same bytes for the same files."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted([*source_files(root), *harness_files(root)]):
            entry = zipfile.ZipInfo(path.relative_to(root).as_posix())  # dated 1980, for whoever packs it
            packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)


def packed_hashes(archive: Path) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(archive).extractall(folder)
        return source_sha256(Path(folder)), harness_sha256(Path(folder))


def unpack_source(filed: RecordFolder, folder: Path) -> Path:
    """Bring a record's source back into an empty folder; returns its trainer's script.

    Raises:
        UsageError: the archive is missing or damaged, or holds another source than the record names.
    """
    archive = filed.folder / "source.zip"
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
    except (OSError, zipfile.BadZipFile) as problem:
        raise UsageError(f"{filed.record.name}: source.zip cannot be unpacked ({problem})") from None
    hashes = {"source": source_sha256(folder), "harness": harness_sha256(folder)}
    for what, digest in hashes.items():
        if digest != getattr(filed.record, f"{what}_sha256"):
            raise UsageError(f"{filed.record.name}: source.zip holds another {what} than record.json names")
    return folder / "speedrun.py"
