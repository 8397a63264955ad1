"""Which optimizer and updater the settings select, and what is imported for them."""

import subprocess
import sys

import pytest

from optim import AdamW, Updater
from recipes.choice import optimizer_class, updater
from recipes.optimizers import Adam, Lion
from recipes.updates import RecipeUpdater
from settings import Settings
from tests.support.examples import ROOT
from tests.support.models import random_model


@pytest.mark.parametrize(("name", "kind"), [("muon", AdamW), ("adamw", AdamW), ("adam", Adam), ("lion", Lion)])
def test_every_optimizer_has_a_class(name, kind) -> None:
    assert optimizer_class(Settings(matrix_optimizer=name)) is kind


@pytest.mark.parametrize("changes", [{"grad_scaler": True}, {"grokfast_lambda": 1.0}, {"max_row_norm": 1.0}])
def test_an_option_of_recipes_selects_their_updater(changes: dict) -> None:
    weights = list(random_model().parameters())
    assert type(updater(Settings(**changes), weights, lambda: None)) is RecipeUpdater
    assert type(updater(Settings(), weights, lambda: None)) is Updater


def test_without_an_option_of_recipes_none_of_their_modules_is_imported() -> None:
    code = (
        "import sys; from tests.support.small_trainer import build, Monitor; build().train(Monitor());"
        "print(sorted(name for name in sys.modules if name.startswith('recipes.')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "['recipes.choice']"
