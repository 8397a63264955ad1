"""Record folders: reading and writing them, and unpacking the source of a record.

`results/records/<date>-<track>-<name>/` contains `record.json`, the settings as `config.toml`, the source of contestant
and harness as `source.zip`, the weights of the median attempt, a generated README, and after a replay
`reproductions.jsonl`.
"""

import dataclasses
import hashlib
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from bench.clock import ClockName
from bench.config import config_toml
from bench.errors import UsageError, nearest_hint
from bench.provenance import ROOT, harness_files, harness_sha256, source_files, source_sha256
from bench.storage.comparison_schema import Record, Reproduction
from bench.storage.jsonl import JsonLines, describe_invalid, replace_file

PROJECT_RESULTS = ROOT / "results"  # whose records every command finds by name


@dataclasses.dataclass(frozen=True)
class RecordFolder:
    """A record and its folder."""

    record: Record
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def results(self) -> Path:
        """The results folder in which the record was filed."""
        return self.folder.parent.parent

    @property
    def reproductions(self) -> JsonLines[Reproduction]:
        return JsonLines(self.folder / "reproductions.jsonl", Reproduction)

    def machine_classes(self) -> set[str]:
        """The machine class of the record, and those of its successful reproductions."""
        reproductions, _ = self.reproductions.read()
        return {self.record.machine_class} | {replay.machine_class for replay in reproductions if replay.reproduced}


def records_folder(results: Path) -> Path:
    return results / "records"


def read_records(results: Path) -> tuple[list[RecordFolder], list[str]]:
    """All records, the oldest first, and a message about each folder without a valid record."""
    records, faults = [], []
    for folder in sorted(path for path in records_folder(results).glob("*") if path.is_dir()):
        try:
            records.append(read_record(folder))
        except UsageError as problem:
            faults.append(str(problem))
    return sorted(records, key=lambda folder: folder.record.started_at), faults


def read_record(folder: Path) -> RecordFolder:
    """The record in a folder; raises UsageError if it has no valid `record.json`."""
    path = folder / "record.json"
    try:
        return RecordFolder(Record.model_validate_json(path.read_bytes()), folder)
    except OSError:
        raise UsageError(f"{folder.name}: there is no record.json in it") from None
    except ValidationError as problem:
        raise UsageError(f"{folder.name}/record.json: {describe_invalid(problem)}") from None


def candidate_folders(name: str, results: Path) -> list[Path]:
    """Where the record of a name or a folder may be: in a results folder, among the project's records, at the path."""
    return [records_folder(results) / name, records_folder(PROJECT_RESULTS) / name, Path(name)] if name else []


def is_record(name: str, results: Path) -> bool:
    """Whether `name` is the name or the folder of a record."""
    return any((folder / "record.json").is_file() for folder in candidate_folders(name, results))


def record_names(results: Path) -> set[str]:
    """The names of the records in a results folder and of those of the project."""
    return {folder.record.name for where in (results, PROJECT_RESULTS) for folder in read_records(where)[0]}


def find_record(name: str, results: Path) -> RecordFolder:
    """The record of a name or a folder; raises UsageError, with the nearest name, if there is none."""
    for folder in candidate_folders(name, results):
        if folder.is_dir():
            return read_record(folder)
    names = record_names(results)
    hint = nearest_hint(name, names, "the folder results/records") if names else "; none has been filed yet"
    raise UsageError(f"there is no record {name!r}{hint}")


def find_record_of_source(digest: str, results: Path) -> RecordFolder | None:
    """A record in a results folder or of the project whose source has this sha256; None without one."""
    folders = (folder for where in (results, PROJECT_RESULTS) for folder in read_records(where)[0])
    return next((folder for folder in folders if folder.record.source_sha256 == digest), None)


def standing_record(
    folders: Iterable[RecordFolder], track: str, clock: ClockName, machine_class: str
) -> RecordFolder | None:
    """The latest record of a board, which is the fastest, as each record beat the previous one."""
    board = track, clock, machine_class
    on_board = [
        folder for folder in folders if (folder.record.track, folder.record.clock, folder.record.machine_class) == board
    ]
    return max(on_board, key=lambda folder: folder.record.started_at, default=None)


def file_record(results: Path, record: Record, weights: Path, source: Path, config_note: str) -> RecordFolder:
    """Write a record's folder; `record.json` is written last, so that an incomplete folder is not a record.

    It gets the weights of the median attempt, the source tree below the root `source`, and a config that begins with a
    comment. Raises ValueError if the hash of the source or of the weights differs from that in the record.
    """
    record_folder = RecordFolder(record, records_folder(results) / record.name)
    folder = record_folder.folder
    folder.mkdir(parents=True, exist_ok=True)
    content = weights.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.weights_sha256:
        raise ValueError(f"{weights.name}: these are not the weights of {record.median_run}")
    record_folder.weights.write_bytes(content)
    replace_file(record_folder.config, f"# {config_note}\n{config_toml(record.settings)}")
    pack_source(folder / "source.zip", source)
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(folder / "source.zip") as packed:
        packed.extractall(unpacked)  # the archive itself is checked, not the tree that it was made from
        hashes = source_sha256(Path(unpacked)), harness_sha256(Path(unpacked))
    if hashes != (record.source_sha256, record.harness_sha256):
        raise ValueError("the source has changed since the record's attempts were made")
    replace_file(folder / "record.json", record.model_dump_json(indent=2) + "\n")
    return record_folder


def pack_source(archive: Path, root: Path) -> None:
    """Zip the source of contestant and harness; equal files give an equal archive."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted([*source_files(root), *harness_files(root)]):
            entry = zipfile.ZipInfo(path.relative_to(root).as_posix())  # dated 1980, always
            packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)


def unpack_source(record_folder: RecordFolder, folder: Path) -> Path:
    """Unpack a record's source into an empty folder, with its hashes checked; returns the path of its trainer."""
    record, archive = record_folder.record, record_folder.folder / "source.zip"
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
    except (OSError, zipfile.BadZipFile) as problem:
        raise UsageError(f"{record.name}: source.zip cannot be unpacked ({problem})") from None
    if source_sha256(folder) != record.source_sha256:
        raise UsageError(f"{record.name}: source.zip holds another source than record.json names")
    if harness_sha256(folder) != record.harness_sha256:
        raise UsageError(f"{record.name}: source.zip holds another harness than record.json names")
    return folder / "speedrun.py"
