"""Which optimizer and which updater the settings ask for; those of recipes are imported on use."""

from collections.abc import Callable, Iterable

from torch import Tensor

from optim import AdamW, Updater
from settings import Settings


def optimizer_class(settings: Settings) -> type[AdamW]:
    """Return the optimizer of the weights that Muon does not have."""
    if settings.matrix_optimizer in ("muon", "adamw"):
        return AdamW
    from recipes.optimizers import OPTIMIZERS

    return OPTIMIZERS[settings.matrix_optimizer]


def updater(settings: Settings, weights: Iterable[Tensor], update_weights: Callable[[], None]) -> Updater:
    """Return what updates the weights: `update_weights` alone, or with what a recipe does around it."""
    if not settings.has_recipe_update:
        return Updater(update_weights)
    from recipes.updates import RecipeUpdater

    return RecipeUpdater(settings, weights, update_weights)
