"""A fake trainer, which speaks the protocol of `bench/experiments/launcher.py` and answers in a few milliseconds.

A test copies it to `speedrun.py` beside a copy of `bench/`. The folder in ARENA holds a run as `template.json`, and
`behaviours.json` with the behaviour of each config:
- `train`: seconds to report; `noise`: their standard deviation; `solves`: the share of seeds that solve the track;
- `sleep`: seconds that an attempt really takes;
- `dies`: `early`, before it writes its start mark, or `late`, after it;
- `class`: the machine class; `refused`: the reason for refusing the config; `settings`: further settings;
- `when`: other behaviour for an option, by `--option value`. Options that are not listed there are settings.
"""

# Tests start this file hundreds of times: modules that are slow to import, or that few need, are imported where needed.
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ARENA = Path(os.environ.get("ARENA", ROOT))  # a snapshot does not hold what a test has written beside the source

SETTINGS = {  # beside `behaviour`, with their defaults
    "track": "add3",
    "control": "none",
    "max_seconds": 100.0,
    "batch_size": 256,
    "rate": 0.1,
    "momentum": 0.5,
}


def provenance(settings):
    """The hashes that a run holds, and the seed that follows from them.

    They are computed by `bench.provenance` once for each state of the source, and kept in a file: its imports take
    five times as long as everything else here.
    """
    files = [os.path.join(folder, name) for folder, _, names in os.walk(ROOT) for name in names]
    source = [(path, os.stat(path).st_mtime_ns) for path in sorted(files) if path.endswith((".py", ".c", ".jinja"))]
    key = hashlib.sha256(json.dumps([source, settings]).encode()).hexdigest()
    kept = ARENA / "provenance" / f"{key}.json"
    if not kept.exists():
        sys.path.insert(0, str(ROOT))
        from bench.provenance import config_hash, first_seed, harness_sha256, source_sha256

        hashes = {"config_hash": config_hash(settings), "source_sha256": source_sha256(ROOT)}
        values = hashes | {"harness_sha256": harness_sha256(ROOT), "seed": first_seed(*hashes.values())}
        kept.parent.mkdir(exist_ok=True)
        draft = kept.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(values))
        os.replace(draft, kept)
    return json.loads(kept.read_text())


def read_request(arguments):
    """The options of the harness, the behaviour, and the planned run; raises ValueError: the config is refused."""
    arguments = [argument for argument in arguments if argument != "--plan"]
    others = dict(zip(arguments[::2], arguments[1::2], strict=True))
    given = {option: others.pop(option, None) for option in ("--config", "--results", "--device", "--seed")}
    behaviours = json.loads((ARENA / "behaviours.json").read_text())
    name = given["--config"]
    if name.endswith(".toml"):
        import tomllib

        name = tomllib.loads(Path(name).read_text())["behaviour"]
    if name not in behaviours:
        raise ValueError(f"there is no such config {name!r}")
    behaviour = {"train": 10.0, "solves": 1.0, "noise": 0.03, "sleep": 0.0, "dies": None} | behaviours[name]
    options = {}
    for option, value in others.items():
        key = option.removeprefix("--").replace("-", "_")
        options[key] = type(SETTINGS.get(key, ""))(value)  # type: ignore[call-arg]
        behaviour |= behaviour.get("when", {}).get(f"{option} {options[key]}", {})
    if behaviour.get("refused"):
        raise ValueError(behaviour["refused"])
    settings = SETTINGS | {"behaviour": name} | behaviour.get("settings", {}) | options
    line = json.loads((ARENA / "template.json").read_text()) | {
        "config": Path(given["--config"]).stem,
        "settings": settings,
        **provenance(settings),
        "outcome": "lost",
        "seconds": dict.fromkeys(("import", "setup", "warmup", "train", "certify", "total")),
    }
    if "class" in behaviour:
        line["machine"] = line["machine"] | {"class": behaviour["class"]}
    return given, behaviour, line


def main():
    if sys.argv[1:] == ["--plans"]:
        for arguments in json.load(sys.stdin):
            try:
                print(json.dumps(read_request(arguments)[2]))
            except ValueError as problem:
                print(json.dumps({"refused": str(problem), "not_here": "this machine" in str(problem)}))
        return 0
    try:
        given, behaviour, line = read_request(sys.argv[1:])
    except ValueError as problem:
        print(f"speedrun.py: {problem}", file=sys.stderr)
        return 2
    name = line["settings"]["behaviour"]
    if "--plan" in sys.argv:
        print(json.dumps(line))
        return 0
    if behaviour["dies"] == "early":
        os.kill(os.getpid(), signal.SIGKILL)
    results, seed = Path(given["--results"]), int(given["--seed"])
    line |= {"seed": seed, "batch": json.loads(os.environ["ADDITION_SPEEDRUN_BATCH"])}
    batch = line["batch"] = {"side": None} | line["batch"]
    line["run_id"] = "-".join(map(str, (batch["id"], name, batch["side"], batch["index"])))
    mark = results / "started" / f"{line['run_id']}.json"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(line))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with open(results / "calls.txt", "a") as calls:
        calls.write(f"{line['run_id']}\n")
    time.sleep(behaviour["sleep"])
    if behaviour["dies"] == "late":
        os.kill(os.getpid(), signal.SIGKILL)
    chance = random.Random(f"{name} {seed}")
    train = behaviour["train"] * chance.lognormvariate(0, behaviour["noise"])
    line["outcome"] = "solved" if chance.random() < behaviour["solves"] else "missed"
    line["seconds"] = {"import": 1.0, "setup": 0.5, "warmup": 0.5, "train": train, "certify": 2.0, "total": train + 4}
    weights = results / "weights" / f"{line['run_id']}.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.write_text(line["run_id"])
    line |= {
        "weights": f"weights/{weights.name}",
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    draft = mark.with_suffix(".draft")
    draft.write_text(json.dumps(line))
    os.replace(draft, mark)
    return 0 if line["outcome"] == "solved" else 1


if __name__ == "__main__":
    sys.exit(main())
