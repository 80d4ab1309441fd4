"""The shipped recipes: each is read, checked, and trains where that is affordable."""

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg

from affectnet.cli import main, parse
from affectnet.commands.train import train
from affectnet.commands.train_settings import check, run_name, write_config
from affectnet.errors import ConfigError
from affectnet.models.backbones import BASELINES, CVNET, layer_depths, resolve_name
from affectnet.recipes import find_recipe, recipe_text, shipped_recipes, title
from affectnet.run import RunFolder, folder_name

MODELS = (CVNET, *BASELINES)


def test_every_model_has_the_notebooks_recipe_and_a_better_one() -> None:
    assert set(shipped_recipes()) >= {*MODELS, *(f"notebook-{name}" for name in MODELS)}


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_is_read_and_passes_every_check(name: str) -> None:
    config = parse("train", ["--recipe", name, "--data", "D"])
    check(config)
    assert config.recipe == name
    # `finetune` is for any backbone, whose name the run has.
    assert run_name(config) in (name.removeprefix("notebook-"), folder_name(config.backbone))
    assert get_pretrained_cfg(resolve_name(config.backbone)) or config.backbone == CVNET
    assert 20 < len(title(shipped_recipes()[name])) < 100


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if not n.endswith(CVNET)])
def test_the_network_takes_the_recipes_size_and_drop_path(name: str) -> None:
    """On the meta device, which computes shapes alone."""
    config = parse("train", ["--recipe", name, "--data", "D"])
    full = resolve_name(config.backbone)
    size = config.image_size or get_pretrained_cfg(full).input_size[-1]
    options = {"img_size": size} if get_pretrained_cfg(full).fixed_input_size else {}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    with torch.device("meta"):
        network = timm.create_model(full, num_classes=0, **options).eval()
        features = network(torch.empty(2, 3, size, size))
    assert features.ndim == 2
    if config.layer_decay != 1:
        depths = layer_depths(network)
        assert depths.keys() == {key for key, _ in network.named_parameters()}
        # The layers nearest to the picture still learn.
        assert config.layer_decay ** (1 + max(depths.values())) > 0.05


def test_the_six_baselines_are_fine_tuned_by_one_recipe() -> None:
    """They change what depends on the network: rates, sizes, epochs, regularisation."""
    own = {"backbone", "name", "recipe", "image_size", "epochs", "batch_size", "accumulate", "lr"}
    own |= {"layer_decay", "weight_decay", "drop_path", "dropout"}
    common = dataclasses.asdict(parse("train", ["--recipe", "finetune", "--data", "D"]))
    for name in (*BASELINES, "finetune-112"):
        config = dataclasses.asdict(parse("train", ["--recipe", name, "--data", "D"]))
        assert {key for key in common if config[key] != common[key]} <= own


def test_finetune_takes_any_backbone() -> None:
    config = parse("train", ["--recipe", "finetune", "--backbone", "resnet18", "--data", "D"])
    assert run_name(config) == "resnet18"
    assert config.image_size is None


PUBLISHED = {
    # lr, batch size, epochs, optimiser, SAM, correction of the class frequencies
    "published-emotiefflib": (1e-4, 32, 6, "adam", 0.05, "balanced", "natural"),
    "published-cage": (4e-5, 128, 20, "adamw", None, "balanced", "natural"),
    "published-qcs": (4e-6, 24, 50, "adam", 0.05, "none", "balanced"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_has_the_settings_of_its_source(name: str) -> None:
    config = parse("train", ["--recipe", name, "--data", "D"])
    assert PUBLISHED[name] == (
        *(config.lr, config.batch_size, config.epochs, config.optimizer, config.sam),
        *(config.class_weights, config.sampler),
    )
    assert config.clip_norm is None
    assert "github.com/" in shipped_recipes()[name].read_text()


@pytest.mark.parametrize("name", MODELS)
def test_the_notebooks_recipes_have_its_settings(name: str) -> None:
    config = parse("train", ["--recipe", f"notebook-{name}", "--data", "D"])
    assert (config.optimizer, config.lr, config.schedule) == ("adam", 1e-3, "step")
    assert (config.step_size, config.gamma) == (40, 0.1)
    assert (config.batch_size, config.epochs, config.warmup_epochs) == (64, 10, 0)
    assert (config.weight_decay, config.clip_norm, config.loss) == (0, None, "cross_entropy")
    assert config.freeze == ("none" if name == CVNET else "backbone")


def test_the_notebooks_recipes_have_its_weights_and_the_better_ones_those_of_more_data() -> None:
    """Of the same network: ImageNet-1k as in torchvision, and what timm has beyond it."""
    for name in BASELINES:
        plain, better = (
            parse("train", ["--recipe", recipe, "--data", "D"]).backbone
            for recipe in (f"notebook-{name}", name)
        )
        assert plain == name
        of_notebook = resolve_name(plain)
        assert of_notebook.partition(".")[2] in {
            "tv_in1k",
            "tv2_in1k",
            "fb_in1k",
            "in1k",
            "ms_in1k",
        }
        # VGG-19 has no other weights.
        assert better == ("vgg19" if name == "vgg19" else resolve_name(better)) != of_notebook
        assert better.startswith(of_notebook.partition(".")[0].partition("_window")[0])
        assert get_pretrained_cfg(resolve_name(better)).hf_hub_id


def test_recipes_select_the_epoch_by_what_the_test_split_measures() -> None:
    for name in MODELS:
        config = parse("train", ["--recipe", name, "--data", "D"])
        assert config.monitor == (None if name == CVNET else "val_balanced_accuracy")
        notebook = parse("train", ["--recipe", f"notebook-{name}", "--data", "D"])
        assert notebook.monitor == "val_accuracy"


QUICK = ("cvnet", "notebook-cvnet", "notebook-resnet152", "resnet152")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in shipped_recipes()
    ],
)
def test_a_recipe_trains(name: str, drawn: Path, tmp_path: Path) -> None:
    """With a small network in place of a large one, whose size is all that differs."""
    small = name.endswith(CVNET)
    config = dataclasses.replace(
        parse("train", ["--recipe", name, "--data", str(drawn)]),
        backbone=CVNET if small else "resnet10t",
        image_size=48 if small else 32,
        drop_path=0.0,
        epochs=1,
        probe_epochs=min(1, parse("train", ["--recipe", name, "--data", "D"]).probe_epochs),
        views=0,
        batch_size=16,
        pretrained=False,
        workers=0,
        accelerator="cpu",
        runs=tmp_path,
    )
    run = train(config)
    assert (run.model / "model.safetensors").is_file()
    assert f"recipe: {name}" in run.config.read_text()


def test_flags_and_config_files_take_precedence_over_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("lr: 0.5\nepochs: 3\n")
    args = ["--recipe", "notebook-cvnet", "--config", str(file), "--epochs", "4", "--data", "D"]
    for given in (args, ["--epochs", "4", *args[:4], "--data", "D"]):
        config = parse("train", given)
        assert (config.lr, config.epochs, config.optimizer) == (0.5, 4, "adam")


def test_a_config_file_may_name_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: notebook-cvnet\nlr: 0.5\n")
    config = parse("train", ["--config", str(file), "--data", "D"])
    assert (config.recipe, config.lr, config.optimizer) == ("notebook-cvnet", 0.5, "adam")


def test_a_recipe_may_be_a_file_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("# Mine\nbackbone: resnet18\nlr: 0.25\n")
    config = parse("train", ["--recipe", str(file), "--data", "D"])
    assert (config.backbone, config.lr) == ("resnet18", 0.25)


def test_the_error_for_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'notebook-cvnet'"):
        find_recipe("notebok-cvnet")
    with pytest.raises(ConfigError, match="no such file"):
        find_recipe("nowhere.yaml")


def test_the_command_lists_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    assert main(["recipes", "cvnet"]) == 0
    assert capsys.readouterr().out == shipped_recipes()["cvnet"].read_text()
    assert main(["recipes", "cvnett"]) == 2
    assert "did you mean 'cvnet'" in capsys.readouterr().err


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_printed_recipe_can_be_used_as_a_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", name]) == 0
    file = tmp_path / "own.yaml"
    file.write_text(capsys.readouterr().out)
    keys = [line.split(":")[0] for line in file.read_text().splitlines() if line[:1].isalpha()]
    assert len(keys) == len(set(keys))
    assert "base" not in keys
    own, shipped = (
        parse("train", ["--recipe", given, "--data", "D"]) for given in (str(file), name)
    )
    assert dataclasses.replace(own, recipe=name) == shipped


def test_a_recipe_overrides_its_base(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("# Mine\nbase: notebook-frozen\nbackbone: resnet18\nlr: 0.25\nviews: 2")
    config = parse("train", ["--recipe", str(file), "--data", "D"])
    assert (config.backbone, config.lr, config.views) == ("resnet18", 0.25, 2)
    assert (config.optimizer, config.freeze, config.vflip) == ("adam", "backbone", 0.5)
    assert recipe_text(file).count("lr:") == 1
    # Where all settings below a comment are overridden, so is the comment.
    assert "Adam, learning rate" in recipe_text(file)
    whole = [line.split(":")[0] for line in recipe_text(find_recipe("notebook-vgg19")).splitlines()]
    file.write_text("# Mine\nbase: notebook\nva_loss: none\nloss: focal\n")
    assert "Plain cross entropy" not in recipe_text(file)
    assert {"loss", "va_loss"} < set(whole)
    file.write_text("# base: notebook\nbase: notebook\n")
    assert recipe_text(file).startswith("# base: notebook\n\n# Adam")
    file.write_text("# Mine\nbase: nowhere\n")
    with pytest.raises(ConfigError, match="choose notebook-frozen, notebook, convnext_large"):
        recipe_text(file)


@pytest.mark.parametrize(
    ("args", "new"),
    [
        (["train", "--recipe", "described-vgg19", "--data", "D"], "give --recipe notebook-vgg19"),
        (["benchmark", "--recipe", "described", "--data", "D", "--out", "O"], "--recipe notebook"),
        (["train", "--augment", "described", "--data", "D"], "give --augment notebook"),
    ],
)
def test_the_error_for_an_old_name_gives_the_new_one(
    args: list[str], new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    assert new in capsys.readouterr().err


def test_a_run_is_repeated_without_its_recipes_file(drawn: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("# Mine\nlr: 0.25\n")
    config = parse("train", ["--recipe", str(recipe), "--data", str(drawn)])
    run = RunFolder(tmp_path / "run")
    write_config(config, run, {})
    recipe.unlink()
    again = parse("train", ["--config", str(run.config)])
    assert (again.lr, again.recipe) == (0.25, str(recipe))
