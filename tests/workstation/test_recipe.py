"""Recipes: read, refused with the nearest key, and changed without lying."""

from __future__ import annotations

import pytest
import recipe_page

from edgecnn.errors import RecipeError
from edgecnn.workstation import recipe as recipes

SMALL = """
name = "small"
[input]
height_px = 8
width_px = 8
[model]
topology = "lenet"
[train]
epochs = 3
seed = 5
"""


@pytest.mark.parametrize("name", recipes.built_in())
def test_every_recipe_that_ships_is_valid(name: str) -> None:
    recipe, _ = recipes.load(name)

    assert recipe.name == name


@pytest.mark.parametrize(
    ("broken", "fix"),
    [
        (SMALL.replace("epochs", "epoch"), "Did you mean 'train.epochs'?"),
        (SMALL.replace("name =", "nam ="), "Did you mean 'name'?"),
        (SMALL + "[augmnt]\nflip = true", "Did you mean 'augment'?"),
        (
            SMALL.replace('"lenet"', '"layers"\n[[model.layers]]\nkind = "conv"\nfilter = 3'),
            "layers[0].filters'?",
        ),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest_valid_one(broken: str, fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.parse(broken)

    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "broken",
    [
        "name = ",
        SMALL.replace('"lenet"', '"lanet"'),
        SMALL.replace("epochs = 3", 'epochs = "three"'),
        SMALL.replace("height_px = 8", "height_px = 0"),
        SMALL.replace("epochs = 3", "epochs = -1"),
        SMALL.replace("seed = 5", "seed = -1"),
        SMALL.replace("seed = 5", "warmup_epochs = -2"),
        SMALL + "[augment]\nrotate_degrees = inf",
        SMALL + "[augment]\nblur_px = nan",
        SMALL.replace('"lenet"', '"lenet"\ndropout = 1.5'),
        SMALL.replace('"lenet"', '"layers"'),
        SMALL.replace('"lenet"', '"vgg16"\nnormalization = "lrn"'),
        SMALL.replace('"lenet"', '"lenet"\nnormalization = "batch_norm"'),
        SMALL.replace('"lenet"', '"mobilenet_v2"\ntop_down = true'),
        SMALL.replace("epochs = 3", 'epochs = 3\nfreeze = "all_but_heatmaps"'),
        SMALL.replace("seed = 5", "height_px = 16"),
    ],
)
def test_a_value_that_cannot_be_is_refused(broken: str) -> None:
    with pytest.raises(RecipeError):
        recipes.parse(broken)


def test_a_label_of_two_heads_has_the_same_folders_in_both() -> None:
    heads = """
[[heads]]
name = "fire"
kind = "sigmoid"
classes = { fire = ["fire", "flare"] }
negatives = { fire = ["no_fire"] }

[[heads]]
name = "place"
kind = "heatmap"
classes = { fire = ["fire"] }
negatives = { fire = ["no_fire", "flare"] }
"""
    with pytest.raises(RecipeError, match="'fire' has other folders in head 'place' than in 'fire'"):
        recipes.parse(SMALL + heads)

    same = heads.replace('["fire", "flare"]', '["fire"]').replace('["no_fire"]', '["flare", "no_fire"]')
    assert len(recipes.parse(SMALL + same).heads) == 2


def test_the_page_of_the_recipes_has_every_key_with_its_default() -> None:
    text = recipe_page.PAGE.read_text(encoding="utf-8")

    assert recipe_page.page(text) == text, "run 'make docs'"
    assert "| `ema` | Momentum of" in text


def test_changing_the_epochs_changes_the_text_that_the_model_file_will_carry() -> None:
    recipe, text = recipes.with_epochs(recipes.parse(SMALL), SMALL, 9)

    assert recipes.parse(text) == recipe
    assert (recipe.train.epochs, recipe.train.seed) == (9, 5)


@pytest.mark.parametrize("table", ["[train]  # short", "  [train]"])
def test_the_epochs_are_found_below_a_table_with_a_comment(table: str) -> None:
    text = SMALL.replace("[train]", table)

    assert recipes.with_epochs(recipes.parse(text), text, 9)[0].train.epochs == 9


def test_a_text_that_cannot_be_changed_is_refused_with_the_key_to_change() -> None:
    dotted = "train.epochs = 1\n" + SMALL.split("[train]")[0]
    several = 'leave_out = [\n  "a*",\n]\n' + SMALL

    with pytest.raises(RecipeError, match=r"^train\.epochs cannot be changed") as caught:
        recipes.with_epochs(recipes.parse(dotted), dotted, 9)
    assert "--epochs" in caught.value.fix
    with pytest.raises(RecipeError, match=r"^leave_out cannot be changed"):
        recipes.with_leave_out(recipes.parse(several), several, ["b*"])


def test_a_glob_of_any_script_is_left_out() -> None:
    assert recipes.with_leave_out(recipes.parse(SMALL), SMALL, ["äé*"])[0].leave_out == ("äé*",)


def test_a_recipe_that_does_not_exist_is_refused_with_the_names_of_those_that_do() -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.load("scnes")

    assert "scenes" in caught.value.fix
