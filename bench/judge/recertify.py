"""Certifies a weights file again in a process of its own: `python -m bench.judge.recertify PATH SEED`."""

import sys
from pathlib import Path

import torch

from bench.judge.certificate import certify
from bench.judge.stored import read_weights
from bench.processes import json_lines, last_error_line, run_python
from bench.storage.schema import Certificate, SchemaModel
from bench.storage.weights_file import tensor_sizes
from bench.streams import print_data


class Recertification(SchemaModel):
    """The results of certifying a weights file."""

    certificate: Certificate
    sentences: list[str]  # about the first mistakes
    parameters: int  # numbers in the file


class UnusableWeights(Exception):
    """The weights file could not be certified; the message is one line."""


def recertify(path: Path, seed: int) -> Recertification:
    """Certify a weights file, with the test set of the run's seed; UnusableWeights if that is impossible.

    It runs on the CPU, and without the shared sums of `shared_prefixes`.
    """
    process = run_python(["-m", "bench.judge.recertify", str(path.resolve()), str(seed)])
    if process.returncode:
        raise UnusableWeights(last_error_line(process.stderr))
    return Recertification.model_validate_json(*json_lines(process.stdout))


def main(path: Path, seed: int) -> int:
    device = torch.device("cpu")
    models, track = read_weights(path, device)
    certificate, sentences = certify(models, track, device, seed, is_plain=True)
    parameters = sum(tensor_sizes(path).values())
    print_data(Recertification(certificate=certificate, sentences=sentences, parameters=parameters).model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
