"""One flat frozen dataclass per command: each field is a flag with its type, default and help text.

The docstring of a config is its summary and examples, and that of a field its help text. A comment
such as `# Model` starts a group of `--help`. In `Annotated`, a string is the placeholder of the
value, and `Doc` the help text of a flag that several commands share. No torch here: `affectnet
--help` must be fast.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from typing_extensions import Doc
from tyro.conf import Positional, UseAppendAction

Dir = Annotated[Path, "DIR"]
File = Annotated[Path, "FILE"]
Name = Annotated[str, "NAME"]

Augment = Literal["none", "notebook", "standard", "photos", "strong"]
Cache = Literal["auto", "none", "ram", "device"]
Monitor = Literal[
    "val_accuracy",
    "val_balanced_accuracy",
    "val_f1_macro",
    "val_all_tasks",
    "val_loss",
    "val_valence_ccc",
    "val_arousal_ccc",
    "val_valence_rmse",
    "val_arousal_rmse",
]
Precision = Literal["auto", "32", "bf16"]
SplitName = Literal["train", "val", "test"]

RENAMED: Final = {"augment: described": "notebook"}
"""Lines of config.yaml in earlier runs whose value has another name now."""


def settings_of(config: object, *names: str) -> dict[str, Any]:
    """Return these settings of a config, as keyword arguments of the function that uses them."""
    return {name: getattr(config, name) for name in names}


Model = Annotated[
    str,
    "MODEL",
    Doc(
        "A run folder, its model/ folder, an .onnx file, owner/name on the Hugging Face Hub, or "
        "the name of a model that the package ships."
    ),
]
Faces = Annotated[
    Literal["detect", "none"],
    Doc("detect: find the faces in each image; none: each image is one face, already cropped."),
]
Margin = Annotated[
    float | None,
    Doc(
        "Fraction of the face box added on each side. Default: the value in the model's "
        "config.json."
    ),
]
MinScore = Annotated[float, Doc("Ignore detections with a score below this, 0 to 1.")]
Prior = Annotated[
    str | None,
    "train|uniform|FILE",
    Doc(
        "Correct the probabilities for these class fractions of the faces: those of the training "
        "faces, equal ones, or those of a JSON or CSV file. Default: no correction."
    ),
]
PriorTau = Annotated[float, Doc("Strength of --prior: 0 is no correction, 1 is Bayes' rule.")]
Truth = Annotated[
    Path | None,
    "PATH",
    Doc("Truth for --predictions: a dataset folder, or a CSV or Parquet file."),
]
Columns = Annotated[
    UseAppendAction[tuple[Annotated[str, "COLUMN=NAME"], ...]],
    Doc(
        "Name of a column in the file: `expression_pred=label`. `p=PREFIX` names all probabilities."
    ),
]
Classes = Annotated[
    tuple[Annotated[str, "CLASS"], ...],
    Doc(
        "Order of the classes in the file, if it is not that of AffectNet: `neutral,anger,...`. "
        "Words of the file: `happiness=glad`."
    ),
]
OutOfRange = Annotated[
    Literal["error", "clip", "keep"],
    Doc(
        "Predicted valence or arousal outside [-1, 1]: report an error, clip it, or score it "
        "unchanged."
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    Doc(
        "Device that runs the model: cpu (by ONNX Runtime if the model has an ONNX file), cuda "
        "(NVIDIA GPU) or mps (GPU of an Apple computer). auto uses cuda if there is one."
    ),
]
Provider = Annotated[
    str | None,
    "NAME",
    Doc(
        "Another provider of ONNX Runtime, where the installed one has it: openvino, coreml, "
        "tensorrt and others."
    ),
]
Accelerator = Annotated[
    Literal["auto", "cpu", "gpu", "mps"],
    Doc(
        "Kind of device; auto uses NVIDIA GPUs if there are any, mps is the GPU of an Apple "
        "computer."
    ),
]
Nodes = Annotated[int, Doc("Number of machines.")]
Strategy = Annotated[
    Literal["auto", "ddp", "fsdp"],
    Doc(
        "How several devices share the work. ddp (also auto): each holds the whole model; fsdp: "
        "each holds a part, for models too large for one GPU."
    ),
]
LoaderWorkers = Annotated[
    int | None,
    Doc("Data loading processes. Default: from the number of cores and the size of the data."),
]


@dataclass(frozen=True)
class IngestConfig:
    """Convert a release (tar files, folders or tables) into one dataset.

    affectnet ingest train_and_val_set.tar test_set.tar --out affectnet8
    affectnet ingest FERPlus/data --out ferplus --labels shares
    affectnet ingest faces/ --out mine --class-order 1=surprise,2=fear,3=drop
    affectnet ingest --verify affectnet8
    """

    # Data
    sources: Positional[tuple[Annotated[Path, "SOURCE"], ...]] = ()
    """Training part, test part or both, in any order: tar files, folders or tables."""
    out: Dir | None = None
    """Folder of the new dataset."""
    verify: Dir | None = None
    """Check instead that this dataset is as ingest wrote it: its content has the stored hash."""
    release: Literal[
        "auto",
        "affectnet",
        "affectnet_csv",
        "affectnet_plus",
        "ferplus",
        "rafdb",
        "folder",
        "table",
    ] = "auto"
    """Kind of release; auto detects it, and stops if the sources match two kinds."""
    overwrite: bool = False
    """Replace the dataset at --out. The old one is kept until the new one is complete."""
    # Split
    val_fraction: float = 0.2
    """Fraction of the training part that becomes the validation split, stratified by class."""
    seed: int = 42
    """Seed of the split. The same seed gives the same split on every machine."""
    max_per_class: int | None = None
    """Maximum number of training and validation faces per class."""
    group: Annotated[str, "COLUMN"] = "duplicates"
    """Faces that stay together in training or validation. duplicates: the same image, exactly or
    nearly; COLUMN: also faces with the same value in this column of the release, such as a person
    or a video; none: no search for duplicates."""
    # Labels
    without_contempt: bool = False
    """Use the seven classes of AffectNet-7: drop faces with contempt, and rescale soft labels to
    the other seven."""
    labels: Literal["majority", "shares"] = "majority"
    """Labels from the votes of FER+. majority: the expression with a majority; shares: also the
    vote shares, as soft labels."""
    soft: UseAppendAction[tuple[File, ...]] = ()
    """CSV file with a column `id` and one column of votes per class, stored as soft labels.
    `train=FILE` and `test=FILE` name the part."""
    class_order: tuple[Annotated[str, "CLASS"], ...] = ()
    """Meaning of the labels of a folder or table: `neutral,happiness,...` counted from 0,
    `1=surprise,2=fear,...`, or the order of affectnet, ferplus or rafdb."""
    allow_empty_classes: bool = False
    """Accept a class folder of which no image can be used; otherwise that is an error."""
    allow_outside: bool = False
    """Read images whose path in a table is absolute or contains `..`; otherwise such rows are
    dropped, since a table from someone else could name any file."""
    # Images
    check: Literal["decode", "header"] = "decode"
    """How images are checked. decode: decode each image; header: only its header and end marker
    (faster)."""
    margin: float = 0.1
    """Fraction of the face box added on each side when faces are cropped (affectnet_csv)."""
    align: bool = False
    """Rotate and scale each face by its landmarks so that the eyes are at fixed positions."""
    face_size: int = 224
    """Side in pixels of faces that are cropped or aligned; other images are stored unchanged."""


@dataclass(frozen=True)
class AuditConfig:
    """Check the counts, labels, images and duplicates of a dataset.

    affectnet audit affectnet8
    affectnet audit affectnet8 --out audit.html
    affectnet audit affectnet8 --predictions predictions.parquet --split val
    """

    # Data
    data: Positional[Dir]
    """Dataset folder written by `affectnet ingest`."""
    without_contempt: bool = False
    """Leave out faces with contempt, and compare with the published counts of seven classes. Always
    on for datasets that were ingested without contempt."""
    # Wrong labels
    predictions: File | None = None
    """Predictions of a model (Parquet or CSV) for faces that it was not trained on. They show which
    labels are most likely wrong."""
    split: SplitName | None = None
    """Split of --predictions, if their ids are not enough to find it."""
    # Output
    out: File | None = None
    """Output file: a page with images (.html), or all findings in full (.json)."""
    show: int = 10
    """Maximum rows per list in the terminal."""
    strict: bool = False
    """Exit with status 1 if there is a problem. Warnings do not count."""
    overwrite: bool = False
    """Replace the file at --out."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a model for expression, valence and arousal.

    affectnet train --data affectnet8 --recipe convnext_large
    affectnet train --data affectnet8 --backbone resnet50 --freeze backbone
    affectnet train --name resnet50 --resume
    affectnet train --config runs/resnet50/config.yaml --seed 1 --name seed1
    """

    # Data
    data: UseAppendAction[tuple[Dir, ...]]
    """Dataset folder written by `affectnet ingest`. Several are trained on together."""
    max_per_class: int | None = None
    """Maximum number of training faces per class; the same faces in every epoch."""
    leaks: Literal["keep", "drop"] = "keep"
    """Faces of which the test split of the dataset has a duplicate. drop: leave them out of
    training and validation."""
    sampler: Literal["natural", "sqrt", "balanced"] = "natural"
    """How often each class is drawn. natural: as in the data; sqrt: by the square root of its
    count; balanced: equally often."""
    without_contempt: bool = False
    """Use the seven classes of AffectNet-7: the model has no contempt, and faces with contempt are
    left out. Always on for datasets that were ingested without contempt."""
    cache: Cache = "auto"
    """Where decoded faces are cached: in memory (ram) or on the GPU (device). auto caches small
    datasets in memory."""
    workers: LoaderWorkers = None
    # Model
    backbone: Name = "cvnet"
    """cvnet, a named baseline (vgg19, resnet152, swin_v2, efficientnet_v2_l, regnet_y_32gf,
    convnext_large), or any timm model."""
    pretrained: bool = True
    """Start the backbone from pretrained weights. cvnet has none and starts from random weights."""
    weights: Annotated[Path, "PATH"] | None = None
    """Start from this file or folder instead: a timm checkpoint, the model/ folder of an earlier
    run, or the name of a model that the package ships (cvnet)."""
    image_size: int | None = None
    """Side of the square input in pixels. Default: that of the model that --weights names, or else
    of the backbone."""
    dropout: float = 0.2
    """Dropout probability before the heads."""
    drop_path: float = 0.0
    """Probability of stochastic depth in the backbone."""
    branches: Literal["all", "turns"] = "all"
    """cvnet only. all: both branches see every face; turns: they alternate, which costs 0.6 of the
    time per step but needs more epochs."""
    # Run
    recipe: Name | None = None
    """Use the settings of a recipe (`affectnet recipes` lists them) or of a YAML file. --config and
    other flags take precedence."""
    name: Name | None = None
    """Name of the run. Default: the name of the backbone."""
    runs: Dir = Path("runs")
    """Folder that contains the runs."""
    seed: int = 0
    """Seed of the weights, the order of the faces and the augmentation."""
    monitor: Monitor | None = None
    """Validation metric that selects the best epoch. val_all_tasks: the mean of balanced accuracy
    and both CCCs. Default: val_balanced_accuracy if the test split has equal classes and the
    training split does not, otherwise val_accuracy."""
    early_stop: int | None = None
    """Stop after this many epochs without a better --monitor. Default: train all epochs."""
    refit: Annotated[Path, "RUN"] | None = None
    """Train anew on the training and validation faces of a finished run together, with its settings
    and for the epochs that it chose. Nothing is validated or selected."""
    logger: UseAppendAction[tuple[Literal["tensorboard", "wandb", "mlflow", "csv"], ...]] = ()
    """Where metrics, settings and pictures are logged, besides metrics.csv. Default:
    tensorboard. wandb and mlflow need `pip install 'affectnet[wandb]'` or `'affectnet[mlflow]'`."""
    keep_checkpoints: Literal["last", "all"] = "last"
    """last: keep the latest and the best checkpoint; all: also keep one per epoch."""
    resume: bool = False
    """Continue the run of this name after its last finished epoch."""
    overwrite: bool = False
    """Replace the run of this name."""
    # Optimisation
    epochs: int = 10
    """Number of passes over the training split."""
    schedule_epochs: int | None = None
    """Number of epochs that --schedule is planned for. Default: --epochs."""
    batch_size: int = 64
    """Faces per batch, over all devices."""
    accumulate: int = 1
    """Number of batches per step, for steps larger than the memory allows."""
    optimizer: Literal["adam", "adamw", "sgd", "muon"] = "adamw"
    """Optimiser. sgd uses Nesterov momentum 0.9. muon needs the fewest epochs from random weights;
    it uses the learning rates of AdamW and takes slightly longer per step."""
    lr: float = 1e-3
    """Peak learning rate."""
    backbone_lr: float = 1.0
    """Learning rate of the backbone as a fraction of --lr."""
    layer_decay: float = 1.0
    """Factor between the learning rates of one layer of the backbone and the layer before it. 1 is
    off; typical values are 0.85 (15 layers) to 0.95 (50 layers)."""
    weight_decay: float = 0.01
    """Weight decay of weight matrices; biases and norms have none."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Learning rate schedule after the warm-up."""
    step_size: int = 40
    """Epochs between two steps of --schedule step."""
    gamma: float = 0.1
    """Factor of each step of --schedule step."""
    warmup_epochs: float = 0.5
    """Epochs of linear warm-up from zero."""
    clip_norm: float | None = 5.0
    """Maximum norm of the gradient; None turns clipping off."""
    sam: float | None = None
    """Radius of sharpness-aware minimisation, for example 0.05: each step follows the gradient at
    the worst point that near. A step costs twice as much. Default: off."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, for example 0.999. The average is then
    validated, saved and exported. Default: no average."""
    # Freezing
    freeze: Literal["backbone", "none"] = "none"
    """backbone: train only the heads; none: fine-tune the whole model."""
    features: Literal["once", "live"] = "once"
    """With --freeze backbone. once: compute features once, store them on disk and train the heads
    on them; live: run the backbone on augmented images in every epoch."""
    views: int = 0
    """With --features once: augmented views per training face, in addition to the original."""
    probe_epochs: int = 0
    """Train only the heads for this many epochs first, on features computed once, and then
    fine-tune the whole model for --epochs."""
    probe_lr: float = 1e-3
    """Learning rate during --probe-epochs."""
    head_epochs: int = 0
    """Number of epochs, at the start, that train only the heads, on augmented images."""
    unfreeze_every: int = 0
    """After --head-epochs: unfreeze another quarter of the backbone every this many epochs, the
    last layers first. 0 unfreezes all of it at once."""
    # Losses
    loss: Literal["cross_entropy", "logit_adjusted", "focal"] = "cross_entropy"
    """Loss of the expression."""
    logit_tau: float = 1.0
    """Strength of --loss logit_adjusted, from 0 (none) to 1 (equal classes)."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight each class by the inverse of its frequency in the training split."""
    label_smoothing: float = 0.0
    """Fraction of the target that is spread evenly over the classes."""
    soft_labels: bool = False
    """Train on the vote shares of the dataset, where it has them, instead of the majority label."""
    va_loss: Literal["both", "ccc", "mse", "none"] = "both"
    """Loss of valence and arousal. both: CCC + MSE."""
    va_weight: float = 1.0
    """Weight of the valence and arousal loss; the expression loss has weight 1."""
    task_weights: Literal["fixed", "learned"] = "fixed"
    """learned: learn the weights of expression, valence and arousal from their noise."""
    # Distillation
    teacher: UseAppendAction[tuple[Annotated[str, "MODEL"], ...]] = ()
    """Trained model (as --model of `affectnet predict`) whose predictions are additional targets.
    Several teachers each predict an equal part of every batch, in turn."""
    teacher_weight: float = 0.5
    """Weight of the teachers in the loss, 0 to 1."""
    teacher_temperature: float = 2.0
    """Temperature that softens the probabilities of teacher and student."""
    # Augmentation
    augment: Augment = "standard"
    """Set of augmentations. The flags below override single values of the set. `notebook` is the
    set of the original notebook, without its vertical flip."""
    hflip: float | None = None
    """Probability of a horizontal flip."""
    vflip: float | None = None
    """Probability of a vertical flip; 0 in every set, because faces are upright."""
    rotation: float | None = None
    """Maximum rotation in degrees, in both directions."""
    scale: float | None = None
    """Maximum relative change of size, in both directions (0.1 is 10%)."""
    shift: float | None = None
    """Maximum shift, in both directions, as a fraction of the side."""
    brightness: float | None = None
    """Maximum relative change of brightness."""
    contrast: float | None = None
    """Maximum relative change of contrast."""
    saturation: float | None = None
    """Maximum relative change of saturation."""
    grey: float | None = None
    """Probability of conversion to grey."""
    exposure: float | None = None
    """Probability of darker or lighter mid-tones."""
    low_resolution: float | None = None
    """Probability of downscaling and upscaling again, down to a quarter of the side."""
    motion: float | None = None
    """Probability of motion blur along a line, up to a fifth of the side."""
    blur: float | None = None
    """Probability of Gaussian blur (kernel 5)."""
    noise: float | None = None
    """Probability of Gaussian noise, with a standard deviation up to 0.08 of the range."""
    jpeg: float | None = None
    """Probability of strong JPEG compression (quality 5 to 50)."""
    glasses: float | None = None
    """Probability of drawn glasses."""
    erasing: float | None = None
    """Probability that a random rectangle is erased."""
    mixup: float = 0.0
    """Alpha of mixup, which blends each face and its labels with another. 0 is off, 0.2 is
    usual."""
    cutmix: float = 0.0
    """Alpha of CutMix, which pastes a part of another face and of its labels. 0 is off, 1 is
    usual."""
    mix_share: float = 1.0
    """Fraction of the faces to which --mixup and --cutmix apply."""
    # Devices
    accelerator: Accelerator = "auto"
    devices: int | None = None
    """Devices per machine. Default: all GPUs, or one CPU process."""
    nodes: Nodes = 1
    strategy: Strategy = "auto"
    precision: Precision = "auto"
    """auto: bf16 on GPUs and CPUs that support it, otherwise 32-bit."""
    compile: bool = False
    """Compile the model with torch.compile: starts more slowly, runs faster on large models and
    GPUs."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """Mode of --compile. reduce-overhead: replay the steps of the model as CUDA graphs, for small
    models, which a GPU finishes faster than the CPU can start them."""


@dataclass(frozen=True)
class RecipesConfig:
    """List the recipes of `affectnet train --recipe`, or print one.

    affectnet recipes
    affectnet recipes cvnet
    """

    # Recipe
    name: Positional[Name | None] = None
    """Recipe to print. Default: list all recipes, one per line."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Train and score several models and seeds, and write a leaderboard.

    affectnet benchmark --data affectnet8 --seeds 0,1,2 --out benchmark
    affectnet benchmark --data ferplus --backbones cvnet,resnet18 --out small
    """

    # Data
    data: UseAppendAction[tuple[Dir, ...]]
    """Dataset folder written by `affectnet ingest`. Several are trained on together; the first is
    scored."""
    out: Dir
    """Folder of the runs and the leaderboard. An unfinished benchmark in it is continued."""
    split: SplitName = "test"
    """Split to score."""
    flip: bool = False
    """Score the mean of the predictions for each face and its mirror image."""
    # Models
    backbones: UseAppendAction[tuple[Annotated[str, "NAME,..."], ...]] = ()
    """Backbones, separated by commas: `cvnet,resnet18`. all (the default) is cvnet and the six
    baselines of the original notebook."""
    seeds: UseAppendAction[tuple[Annotated[str, "INT,..."], ...]] = ()
    """Seeds, separated by commas: `0,1,2`. Default: 0."""
    pretrained: bool = True
    """Start the backbones from pretrained weights."""
    # Training (default: the setting of the recipe, or of `affectnet train`)
    recipe: Name = "none"
    """Recipe of each training: none, notebook or default (one per backbone), or the name of a
    recipe for all."""
    epochs: int | None = None
    """Number of passes over the training split."""
    image_size: int | None = None
    """Side of the square input in pixels."""
    freeze: Literal["backbone", "none"] | None = None
    """backbone: train only the heads; none: fine-tune the whole model."""
    batch_size: int | None = None
    """Faces per batch."""
    set: UseAppendAction[tuple[Annotated[str, "SETTING=VALUE"], ...]] = ()
    """Any other setting of `affectnet train`: `lr=0.01`, `soft-labels=true`."""
    # Devices
    accelerator: Accelerator = "auto"
    devices: int | None = None
    """Devices per machine, for training."""
    precision: Precision | None = None
    """Precision of training."""
    cache: Cache | None = None
    """Where decoded faces are cached: in memory (ram) or on the GPU (device)."""
    workers: int | None = None
    """Data loading processes."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Score trained models, or someone else's predictions.

    affectnet evaluate runs/convnext --data affectnet8
    affectnet evaluate runs/convnext runs/cvnet --data affectnet8 --ensemble
    affectnet evaluate --predictions theirs.csv --truth affectnet8
    """

    # Models
    runs: Positional[tuple[Annotated[Path, "RUN"], ...]] = ()
    """Run folders, saved models, the name of a model that the package ships (cvnet), or files of
    predictions. With two or more, each is compared with the first on the faces that both have."""
    flip: bool = False
    """Predict each face and its mirror image, and use the mean."""
    calibrate: bool = False
    """Fit a temperature on the val split of --data first, weighted to the class fractions of
    --split, and save it in the model of the run."""
    prior: Prior = None
    prior_tau: PriorTau = 1.0
    ensemble: bool = False
    """Also score the mean of all given predictions."""
    # Data
    data: Dir | None = None
    """Dataset folder to predict on."""
    split: SplitName = "test"
    """Split to predict on."""
    without_contempt: bool = False
    """Score the seven classes of AffectNet-7: leave out faces with contempt, and rescale the other
    seven probabilities to sum to one. Always on for models and datasets without contempt."""
    # Predictions from a file
    predictions: File | None = None
    """Predictions to score (CSV or Parquet), instead of runs."""
    truth: Truth = None
    columns: Columns = ()
    classes: Classes = ()
    out_of_range: OutOfRange = "error"
    # Scores
    zero_rule: Literal["sign", "positive", "drop"] = "sign"
    """SAGR of values equal to zero. sign: zero is a sign of its own; positive: zero counts as
    positive; drop: such faces are left out."""
    slices: tuple[Annotated[str, "COLUMN"], ...] = ()
    """Columns whose values are also scored separately. brightness and sharpness are computed from
    --data."""
    resamples: int = 1000
    """Bootstrap resamples for the 95% intervals; 0 turns them off."""
    interval: Literal["percentile", "bca"] = "percentile"
    """Kind of bootstrap interval."""
    stratified: bool = False
    """Resample within each true class."""
    seed: int = 0
    """Seed of the bootstrap."""
    # Output
    out: Annotated[Path, "PATH"] | None = None
    """Output: a .json file, or a folder that is laid out like a run. Default: evaluation/SPLIT of
    the run; the scores of a saved model are only printed."""
    figures: bool = True
    """Write the figures of each evaluation to its figures/ folder."""
    explain: bool = True
    """Include Grad-CAM and the feature map in the figures; slow models use fewer faces."""
    card: bool = True
    """Write the model card, model/README.md, from the scores of the run."""
    overwrite: bool = False
    """Replace earlier scores of the same split."""
    # Devices
    accelerator: Accelerator = "auto"
    devices: int = 1
    """Processes per machine, which share the faces. The predictions do not depend on this
    number."""
    nodes: Nodes = 1
    strategy: Strategy = "auto"
    batch_size: int = 128
    """Faces per forward pass."""
    workers: LoaderWorkers = None


@dataclass(frozen=True)
class ReportConfig:
    """Write a report on evaluated runs: an HTML page, a PDF or Markdown.

    affectnet report runs/convnext runs/cvnet --out report.html
    affectnet report --predictions theirs.csv --truth affectnet8
    """

    # Content
    runs: Positional[tuple[Annotated[Path, "RUN"], ...]] = ()
    """Evaluated run folders."""
    split: SplitName = "test"
    """Split whose evaluation is shown."""
    data: UseAppendAction[tuple[Dir, ...]] = ()
    """Dataset folder with the faces, if it has moved since the evaluation."""
    explain: bool = True
    """Include Grad-CAM and the feature map. Both need the model of the run, and take some seconds
    the first time."""
    # Predictions from a file
    predictions: File | None = None
    """Predictions to score and to report, alone or next to runs (CSV or Parquet)."""
    truth: Truth = None
    columns: Columns = ()
    classes: Classes = ()
    out_of_range: OutOfRange = "error"
    # Output
    out: File | None = None
    """Output file. Default: report.html. The figures of a Markdown report are written next to it,
    to NAME_figures/."""
    format: Literal["html", "pdf", "md"] | None = None
    """Format of the report; html is one self-contained page. Default: the suffix of --out."""
    overwrite: bool = False
    """Replace the report at --out."""


@dataclass(frozen=True)
class PredictConfig:
    """Predict expression, valence and arousal in images and videos.

    affectnet predict photos/ --out faces.csv
    affectnet predict film.mp4 --annotate annotated/
    affectnet predict 0 --show
    affectnet predict 0 --seconds 10 --model runs/convnext
    """

    # Input and output
    inputs: Positional[tuple[Annotated[str, "INPUT"], ...]]
    """Images, videos, folders (searched recursively), quoted glob patterns, or the number of a
    camera."""
    out: File | None = None
    """Output file, one row per face: .csv, .json, .jsonl or .parquet. Default: a table in the
    terminal."""
    annotate: Dir | None = None
    """Folder for images and videos with the faces drawn in, and plots of valence and arousal over
    time."""
    show: bool = False
    """Show a camera or a video in a window, with the faces drawn in, while it is processed. Closing
    the window ends it."""
    summary: File | None = None
    """CSV file for one row per person of a video: time in sight, fractions and episodes of each
    expression, valence and arousal. The episodes go to NAME_episodes.csv."""
    report: File | None = None
    """HTML page of one video: curves, expressions, episodes and summary of all persons."""
    overwrite: bool = False
    """Replace the files at --out, --summary and --report, and those of the same names in
    --annotate."""
    resume: bool = False
    """Continue a prediction to the same --out that was stopped or killed, after the last finished
    input."""
    embedding: bool = False
    """Write the backbone's features of each face, too, in 16-bit floats; for --out FILE.parquet."""
    escape_formulas: bool = False
    """In a CSV file, put an apostrophe before texts that spreadsheets may run as formulas."""
    # Model
    model: Model = "cvnet"
    without_contempt: bool = False
    """Use seven classes: a model with eight classes never predicts contempt, and its other
    probabilities are rescaled to sum to one."""
    flip: bool = False
    """Use the mean of the predictions for each face and its mirror image: more accurate, takes
    twice the time."""
    prior: Prior = None
    prior_tau: PriorTau = 1.0
    # Faces
    faces: Faces = "detect"
    margin: Margin = None
    min_score: MinScore = 0.7
    detect_size: int | None = None
    """Length in pixels of the long side at which faces are detected. A larger value finds smaller
    faces and takes longer. Default: 1024 for images, 640 for videos."""
    # Video
    smoothing: Literal["one-euro", "ema", "none"] = "one-euro"
    """Filter that smooths the values of each face over time; none writes the values of each
    frame."""
    stride: int = 1
    """Process every n-th frame."""
    fps: float | None = None
    """Maximum number of frames to process per second of video."""
    seconds: float | None = None
    """Stop a video or a camera after this many seconds. Without it a camera runs until Ctrl-C."""
    search: Literal["follow", "every"] = "follow"
    """follow searches whole frames of a video five times per second and follows the faces in
    between; every searches every frame, which takes longer. Cameras are searched in every frame."""
    baseline: str | None = None
    """Also compare each face with the person's own neutral face: that of the first SECONDS, auto
    for the calmest tenth of the faces, or a picture FILE (1=anna.jpg,2=ben.jpg for several
    persons). Summary and report then use these values."""
    people: int | None = None
    """Number of persons in a video. Faces that were out of sight or after a cut are joined to them
    by the colours of head and clothes and by place, at its end. Without it they get new numbers."""
    min_episode: float = 0.3
    """Seconds for which an expression is shown at least to be an episode of the summary."""
    video: Literal["auto", "mp4", "webm"] = "auto"
    """Format of annotated videos: mp4 (H.264) or webm (VP9, VP8). auto is mp4 where FFmpeg encodes
    it. Browsers play both."""
    # Speed
    device: Device = "auto"
    provider: Provider = None
    batch_size: int = 32
    """Faces per forward pass."""
    workers: int | None = None
    """Threads that read images and detect faces. Default: the number of cores, at most 8."""


@dataclass(frozen=True)
class ExportConfig:
    """Export a model as one ONNX file without PyTorch, or as a web page.

    affectnet export runs/convnext
    affectnet export runs/convnext --out convnext.onnx
    affectnet export cvnet --int8 --out cvnet-int8.onnx
    affectnet export cvnet --format web --int8 --out site/
    """

    # Model
    model: Positional[Annotated[str, "MODEL"]]
    """A run folder, its model/ folder, owner/name on the Hugging Face Hub, or the name of a model
    that the package ships."""
    # Output
    out: Annotated[Path | None, "PATH"] = None
    """Output file, with suffix .onnx, or the folder of the web page. Default: model.onnx next to
    the weights of a run, where `predict` and `serve` use it in place of PyTorch."""
    format: Literal["onnx", "web"] = "onnx"
    """onnx: one file; web: a folder for any web host with a page that finds and classifies faces in
    the visitor's browser, without a server."""
    runtime: Dir | None = None
    """For --format web: folder of the npm package onnxruntime-web, whose files are then part of the
    page. Default: the page loads them from cdn.jsdelivr.net, at a fixed version and hash."""
    int8: bool = False
    """Use 8-bit integers: a quarter of the size and faster on a CPU, with slightly different
    predictions."""
    fp16: bool = False
    """Use 16-bit floats: half the size, for GPUs."""
    preprocess: bool = False
    """Include scaling and normalisation: the input is then uint8 RGB faces (n, S, S, 3) instead of
    normalised float32 faces (n, 3, S, S)."""
    features: bool = False
    """Also output the backbone's features (n, F), which predict --embedding needs."""
    prior: Prior = None
    prior_tau: PriorTau = 1.0
    overwrite: bool = False
    """Replace the file or folder at --out."""
    # Comparison with PyTorch
    data: Dir | None = None
    """Dataset folder whose faces are used. Default: drawn faces."""
    faces: int = 256
    """Maximum number of faces."""


@dataclass(frozen=True)
class ServeConfig:
    """Serve a web page and an HTTP API for images, videos and the camera.

    affectnet serve
    affectnet serve --host 0.0.0.0 --password-file password.txt
    """

    # Model
    model: Model = "cvnet"
    prior: Prior = None
    prior_tau: PriorTau = 1.0
    device: Device = "auto"
    provider: Provider = None
    # Server
    host: Annotated[str, "ADDRESS"] = "127.0.0.1"
    """Address to listen on. 0.0.0.0 allows connections from other machines."""
    port: int = 7860
    """Port to listen on. 0 chooses a free port."""
    allow_host: UseAppendAction[tuple[Name, ...]] = ()
    """Further name under which the server answers, such as that of a reverse proxy."""
    proxy: UseAppendAction[tuple[Annotated[str, "ADDRESS"], ...]] = ()
    """Address of a reverse proxy, from which X-Forwarded-For and X-Forwarded-Proto are believed."""
    password: Annotated[str, "PASSWORD"] | None = None
    """Password for the page and the API. Other users of this machine can see it in the list of
    processes."""
    password_file: File | None = None
    """File that contains the password. The variable AFFECTNET_PASSWORD can be used as well."""
    # Faces
    faces: Faces = "detect"
    margin: Margin = None
    min_score: MinScore = 0.7
    detect_size: int | None = None
    """Length in pixels of the long side at which faces are detected in images. Default: 1024."""
    # Limits
    max_mb: float = 20
    """Maximum size of an uploaded image in MB."""
    max_pixels: int = 40_000_000
    """Maximum number of pixels of an image."""
    max_video_mb: float = 100
    """Maximum size of an uploaded video in MB."""
    max_seconds: float = 120
    """Maximum number of seconds of a video that are processed."""
    max_frames: int = 3000
    """Maximum number of frames of a video that are processed."""
    fps: float = 25
    """Maximum number of frames per second of video that are processed."""
    workers: int = 2
    """Number of images processed at the same time. Videos are processed one at a time."""
    waiting: int = 32
    """Number of requests that can wait in addition; further requests are asked to try again."""
    streams: int = 16
    """Maximum number of live streams."""
    timeout: float = 60
    """Maximum seconds per image, including waiting."""
    video_timeout: float = 600
    """Maximum seconds per video, including waiting."""


@dataclass(frozen=True)
class DemoConfig:
    """Predict a photo, then run every step on drawn faces, offline.

    affectnet demo
    """

    # Output
    out: Dir = Path("demo")
    """Folder for everything that the demo writes."""
    without_contempt: bool = False
    """Use seven classes, without contempt."""
    overwrite: bool = False
    """Replace an earlier demo at --out."""
