"""Resources that an attempt holds: empty caches of torch.compile."""

import os
from dataclasses import replace
from pathlib import Path

from bench.attempt.plan import make_plan
from bench.attempt.resources import empty_compile_caches
from settings import Settings


def test_an_attempt_that_compiles_has_empty_caches(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    names = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
    plan = make_plan(Settings, ["--device", "cpu", "--kernel", "torch", "--no-compile"], "")
    with empty_compile_caches(plan):
        assert [os.environ.get(name) for name in names] == ["mine", None]
    compiling = replace(plan, settings=replace(plan.settings, compile=True))
    used = set()
    for _ in range(2):
        with empty_compile_caches(compiling):
            folders = [Path(os.environ[name]) for name in names]
            assert not any(folder.exists() for folder in folders)
            folders[0].mkdir()
            used |= set(folders)
        assert not folders[0].exists()
    assert len(used) == 4
    assert [os.environ.get(name) for name in names] == ["mine", None]
