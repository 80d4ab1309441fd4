"""One flat frozen dataclass a command: each field is the flag, its default, its type and its help.

No torch here: `affectnet --help` must answer at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional, UseAppendAction

Augment = Literal["none", "notebook", "standard", "photos", "strong"]
Monitor = Literal[
    "val_accuracy",
    "val_f1_macro",
    "val_loss",
    "val_valence_ccc",
    "val_arousal_ccc",
    "val_valence_rmse",
    "val_arousal_rmse",
]


@dataclass(frozen=True)
class IngestConfig:
    """Read a release (tar files, folders or tables) into one dataset."""

    sources: Positional[tuple[Path, ...]]
    """The release: its training part, its test part, or both, in any order."""
    out: Path
    """Folder of the new dataset."""
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
    """What the sources are; auto looks inside, and asks where they may be two things."""
    val_fraction: float = 0.2
    """Share of the training part that becomes the validation split, class by class."""
    seed: int = 42
    """Seed of the split; the same seed gives the same ids on every machine."""
    max_per_class: int | None = None
    """Keep at most this many training and validation faces of a class."""
    without_contempt: bool = False
    """Seven classes, as AffectNet-7: drop the faces of contempt, and scale the soft labels of the
    others to the seven."""
    check: Literal["decode", "header"] = "decode"
    """How images are checked: decode each one, or only its header and end marker (faster)."""
    soft: UseAppendAction[tuple[Path, ...]] = ()
    """CSV file with `id` and one column a class: vote shares kept as soft labels (repeatable)."""
    class_order: tuple[str, ...] = ()
    """What the labels of a folder or table mean: `neutral,happiness,...` counted from 0, or
    `1=surprise,2=fear,...`, or affectnet, ferplus or rafdb for their orders."""
    labels: Literal["majority", "shares"] = "majority"
    """FER+'s votes: an expression where there is a majority, or their shares as soft labels too."""
    margin: float = 0.1
    """Share of the face box added on each side, where ingest crops the faces (affectnet_csv)."""
    align: bool = False
    """Turn and scale each face by its landmarks so that the eyes come to fixed places."""
    face_size: int = 224
    """Side in pixels of faces that ingest crops or aligns; others stay as they are."""
    overwrite: bool = False
    """Replace the dataset at --out; the old one stays whole until the new one is complete."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a backbone with heads for expression, valence and arousal."""

    data: UseAppendAction[tuple[Path, ...]]
    """Dataset folder made by `affectnet ingest` (repeat the flag to train on several)."""
    backbone: str = "cvnet"
    """cvnet, a named baseline (vgg19, resnet152, swin_v2, efficientnet_v2_l, regnet_y_32gf,
    convnext_large) or any timm model."""
    recipe: str | None = None
    """Settings by name (`affectnet recipes` lists them), or a YAML file; flags win over them."""
    epochs: int = 10
    """Passes over the training split."""
    image_size: int | None = None
    """Side of the square input in pixels; the backbone's own where not given."""
    freeze: Literal["backbone", "none"] = "none"
    """backbone: train only the heads; none: fine-tune everything."""
    features: Literal["once", "live"] = "once"
    """With a frozen backbone: compute features once, keep them on disk and train the heads on them
    (once), or run the backbone over augmented images in every epoch (live)."""
    views: int = 0
    """Augmented views of each training face kept beside the plain one, with --features once."""
    probe_epochs: int = 0
    """Train the heads alone so many epochs first, on features computed once, and fine-tune the
    whole from there."""
    probe_lr: float = 1e-3
    """Learning rate of the epochs of --probe-epochs."""
    head_epochs: int = 0
    """Staged unfreezing: the backbone learns nothing in the first so many epochs."""
    unfreeze_every: int = 0
    """After --head-epochs, free a quarter of the backbone more every so many epochs, its last
    layers first; 0 frees it at once."""
    pretrained: bool = True
    """Start the backbone from its pretrained weights (cvnet has none: it always starts fresh)."""
    weights: Path | None = None
    """Start from this file or folder instead: a timm checkpoint, an earlier run's model/, or the
    name of a model that the package ships (cvnet)."""
    name: str | None = None
    """Name of the run; the backbone's where not given."""
    runs: Path = Path("runs")
    """Folder that holds the runs."""
    resume: bool = False
    """Go on from the last finished epoch of the run of this name."""
    overwrite: bool = False
    """Replace the run of this name."""
    seed: int = 0
    """Seed of the weights, the order of the faces and the augmentation."""
    without_contempt: bool = False
    """Seven classes, as AffectNet-7: the model has no contempt, and faces of contempt are neither
    trained nor validated on; so always on datasets that were ingested without contempt."""

    batch_size: int = 64
    """Faces a step, over all devices."""
    accumulate: int = 1
    """Batches whose gradients make one step, where memory holds no larger batch."""
    max_per_class: int | None = None
    """Train on at most this many faces of a class, the same ones in every epoch."""
    optimizer: Literal["adam", "adamw", "sgd", "muon"] = "adamw"
    """Optimiser; sgd has Nesterov momentum 0.9; muon learns in fewest epochs from fresh weights, at
    AdamW's rates and a little more time a step."""
    lr: float = 1e-3
    """Peak learning rate."""
    backbone_lr: float = 1.0
    """Learning rate of the backbone as a share of the heads'."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer of the backbone to the one before it; 1 for none,
    0.85 (15 layers) to 0.95 (50 layers) are usual."""
    weight_decay: float = 0.01
    """Weight decay, on weight matrices only (biases and norms have none)."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Learning-rate schedule after the warm-up."""
    step_size: int = 40
    """Epochs between two steps of --schedule step."""
    gamma: float = 0.1
    """Factor of each step of --schedule step."""
    warmup_epochs: float = 0.5
    """Epochs in which the learning rate rises from zero."""
    clip_norm: float | None = 5.0
    """Clip the gradient to this norm; None for no clipping."""
    ema: float | None = None
    """Keep an exponential moving average of the weights with this decay (0.999, say), and
    validate, save and export the average."""

    loss: Literal["cross_entropy", "logit_adjusted", "focal"] = "cross_entropy"
    """Expression loss."""
    logit_tau: float = 1.0
    """With --loss logit_adjusted, how far towards equal classes: 0 not at all, 1 all the way."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight each class by the inverse of its frequency in the training split."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes."""
    soft_labels: bool = False
    """Train on the dataset's vote shares where it has them, instead of the majority label."""
    va_loss: Literal["both", "ccc", "mse", "none"] = "both"
    """Valence and arousal loss: CCC + MSE, one of them, or none."""
    va_weight: float = 1.0
    """Weight of the valence and arousal loss against the expression loss."""
    task_weights: Literal["fixed", "learned"] = "fixed"
    """learned: weigh expression, valence and arousal by what the training finds of their noise."""
    teacher: UseAppendAction[tuple[str, ...]] = ()
    """A trained model (as --model of `affectnet predict`) whose answers are targets as well (repeat
    the flag for several: each answers its share of every batch, by turns)."""
    teacher_weight: float = 0.5
    """Share of the teachers in the loss, 0 to 1."""
    teacher_temperature: float = 2.0
    """Softens the probabilities of both sides before they are compared."""
    sampler: Literal["natural", "sqrt", "balanced"] = "natural"
    """How often a class is drawn: as in the data, by the square root of it, or evenly."""
    dropout: float = 0.2
    """Dropout before the heads."""
    drop_path: float = 0.0
    """Stochastic depth in the backbone."""
    branches: Literal["all", "turns"] = "all"
    """CVNet's two branches in training: both see all faces, or they take turns, which makes a step
    cost 0.6 of that and wants more epochs. Other backbones have none."""

    augment: Augment = "standard"
    """Named augmentation set; `notebook` is the original notebook's, without its vertical flip."""
    glasses: float | None = None
    """Probability of painted glasses (the set's own where not given, as all that follow)."""
    hflip: float | None = None
    """Probability of a horizontal flip."""
    vflip: float | None = None
    """Probability of a vertical flip. Every set has it off: faces are met upright, a flipped face
    reverses the lift of brows and mouth corners that tells expressions apart, and the network
    would spend capacity on pictures that it never meets."""
    rotation: float | None = None
    """Largest rotation in degrees, either way."""
    scale: float | None = None
    """Largest relative change of size, either way (0.1 is 10%)."""
    shift: float | None = None
    """Largest shift, either way, as a share of the side."""
    low_resolution: float | None = None
    """Probability of shrinking and enlarging again, down to a quarter of the side."""
    motion: float | None = None
    """Probability of a smear along a line, up to a fifth of the side."""
    blur: float | None = None
    """Probability of a Gaussian blur (kernel 5)."""
    exposure: float | None = None
    """Probability of darker or lighter middle tones."""
    brightness: float | None = None
    """Largest relative change of brightness."""
    contrast: float | None = None
    """Largest relative change of contrast."""
    saturation: float | None = None
    """Largest relative change of saturation."""
    grey: float | None = None
    """Probability of a grey copy."""
    noise: float | None = None
    """Probability of Gaussian noise, of a standard deviation up to 0.08 of the range."""
    jpeg: float | None = None
    """Probability of a strong JPEG compression, of quality 5 to 50."""
    erasing: float | None = None
    """Probability that a random rectangle is erased."""

    mixup: float = 0.0
    """Alpha of mixup: blend each face and its labels with another's; 0 for none, 0.2 is usual."""
    cutmix: float = 0.0
    """Alpha of CutMix: paste a part of another face, and of its labels; 0 for none, 1 is usual."""
    mix_share: float = 1.0
    """Share of the faces that --mixup and --cutmix mix."""

    monitor: Monitor = "val_accuracy"
    """Validation metric by which the best epoch is kept."""
    keep_checkpoints: Literal["last", "all"] = "last"
    """last: only the newest and the best; all: one of every epoch as well."""
    cache: Literal["auto", "none", "ram", "device"] = "auto"
    """Keep decoded faces in memory (ram) or on the GPU (device); auto keeps them in memory where
    they take little room."""
    workers: int | None = None
    """Loader processes; chosen from the cores and the size of the data where not given."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """auto: bf16 on GPUs and CPUs that compute in it, 32-bit elsewhere."""
    compile: bool = False
    """Compile the model by torch.compile: slower to start, faster on large models and GPUs."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device kind."""
    devices: int | None = None
    """Devices a machine; all GPUs, or one CPU process, where not given."""
    nodes: int = 1
    """Machines."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices share the work: ddp, each with the whole model (auto takes it); fsdp,
    each with a part of it, for models that one GPU cannot hold."""


@dataclass(frozen=True)
class RecipesConfig:
    """List the recipes of `affectnet train --recipe`, or print one."""

    name: Positional[str | None] = None
    """Recipe to print; all are listed, one line each, where not given."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Score runs, saved models, or anybody's predictions."""

    runs: Positional[tuple[Path, ...]] = ()
    """Run folders, saved models, the name of a model that the package ships (cvnet), or files of
    predictions; two or more are compared, each with the first, on the faces that both have."""
    data: Path | None = None
    """Dataset folder to predict on."""
    split: Literal["train", "val", "test"] = "test"
    """Split to predict on."""
    without_contempt: bool = False
    """Score seven classes, as AffectNet-7: faces of contempt are in no figure, and the other seven
    probabilities are scaled to sum to one; so always for models and datasets without contempt."""
    predictions: Path | None = None
    """Anybody's predictions (CSV or Parquet) instead of runs."""
    truth: Path | None = None
    """What --predictions is scored against: a dataset folder, or a CSV or Parquet file."""
    columns: UseAppendAction[tuple[str, ...]] = ()
    """Another name for a column, as `expression_pred=label` (repeatable); `p=PREFIX` for all
    probabilities."""
    classes: tuple[str, ...] = ()
    """The order of the classes in the file where it is not AffectNet's, as `neutral,anger,...`; a
    word of the file's own as `happiness=happy`."""
    out_of_range: Literal["error", "clip", "keep"] = "error"
    """Predicted valence or arousal outside [-1, 1]: an error, clipped, or scored as it is."""
    zero_rule: Literal["sign", "positive", "drop"] = "sign"
    """SAGR at zero: zero is its own sign; counts as positive; or such faces are left out."""
    resamples: int = 1000
    """Bootstrap resamples of the 95% intervals; 0 for none."""
    interval: Literal["percentile", "bca"] = "percentile"
    """Kind of bootstrap interval."""
    stratified: bool = False
    """Resample within each true class."""
    slices: tuple[str, ...] = ()
    """Columns to score by, value by value; brightness and sharpness are computed from --data."""
    flip: bool = False
    """Predict each face and its mirror image, and take the mean."""
    calibrate: bool = False
    """Fit a temperature on the val split of --data first, and keep it in the run's model."""
    figures: bool = True
    """Draw the figures of each evaluation into its figures/ folder."""
    explain: bool = True
    """With the figures, Grad-CAM and the map of features too; on a slow model, of fewer faces."""
    card: bool = True
    """Write the model card, model/README.md, from the scores of the run."""
    ensemble: bool = False
    """Score the mean of all the given predictions too."""
    seed: int = 0
    """Seed of the bootstrap."""
    batch_size: int = 128
    """Faces a forward pass."""
    workers: int | None = None
    """Loader processes; chosen from the cores and the size of the data where not given."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device kind."""
    devices: int = 1
    """Processes a machine, which share the faces; the predictions are those of one."""
    nodes: int = 1
    """Machines."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices share the work, as of `affectnet train`."""
    out: Path | None = None
    """Where the scores go: a .json file, or a folder that is then laid out as a run's. The run's
    own evaluation/SPLIT where not given; a saved model's are shown and not kept then."""
    overwrite: bool = False
    """Replace earlier scores of the same split."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Train and score several models over several seeds, into a leaderboard."""

    data: UseAppendAction[tuple[Path, ...]]
    """Dataset folder made by `affectnet ingest` (repeat the flag to train on several; scores are of
    the first)."""
    out: Path
    """Folder of the runs and the leaderboard; one that was begun is gone on with."""
    backbones: UseAppendAction[tuple[str, ...]] = ()
    """all (the original notebook's seven), or a list with commas: `cvnet,resnet18`."""
    seeds: UseAppendAction[tuple[str, ...]] = ()
    """Seeds with commas: `0,1,2`; 0 where not given."""
    epochs: int | None = None
    """Epochs of each training; as of `affectnet train` or the recipe where not given, as all that
    follow."""
    recipe: str = "none"
    """Recipe of each training: none, notebook or default (each model's own), or any by its
    name."""
    image_size: int | None = None
    """Side of the square input in pixels."""
    freeze: Literal["backbone", "none"] | None = None
    """Train only the heads, or everything."""
    batch_size: int | None = None
    """Faces a step."""
    pretrained: bool = True
    """Start the backbones from their pretrained weights."""
    cache: Literal["auto", "none", "ram", "device"] | None = None
    """Keep decoded faces in memory."""
    workers: int | None = None
    """Loader processes."""
    precision: Literal["auto", "32", "bf16"] | None = None
    """Precision of training."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device kind."""
    devices: int | None = None
    """Devices a machine, for training."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """Any other setting of `affectnet train`, as `lr=0.01` or `soft-labels=true` (repeatable)."""
    split: Literal["train", "val", "test"] = "test"
    """Split that is scored."""
    flip: bool = False
    """Score the mean of each face and its mirror image."""


@dataclass(frozen=True)
class ReportConfig:
    """Write the report over one or several evaluated runs: an HTML page, a PDF or Markdown."""

    runs: Positional[tuple[Path, ...]]
    """Evaluated run folders."""
    out: Path | None = None
    """The file; report.html where not given. Markdown has its figures beside it, in a folder
    NAME_figures/."""
    format: Literal["html", "pdf", "md"] | None = None
    """One self-contained HTML page, a PDF, or Markdown; as the ending of --out says where not
    given."""
    split: Literal["train", "val", "test"] = "test"
    """Split whose evaluation is shown."""
    data: UseAppendAction[tuple[Path, ...]] = ()
    """Dataset folder with the faces, where it has moved since the evaluation (repeatable)."""
    explain: bool = True
    """Show where each model looks (Grad-CAM) and the map of its features; both need the run's
    model, and some seconds the first time."""
    overwrite: bool = False
    """Replace the report at --out."""


@dataclass(frozen=True)
class DemoConfig:
    """Draw faces, ingest, train two models, evaluate and report: all of it in two minutes."""

    out: Path = Path("demo")
    """Folder for everything that the demo writes."""
    without_contempt: bool = False
    """Seven classes: all of it without contempt."""
    overwrite: bool = False
    """Replace an earlier demo at --out."""


@dataclass(frozen=True)
class AuditConfig:
    """Check a dataset: counts, labels, images, duplicates, leaks, likely wrong labels."""

    data: Positional[Path]
    """Dataset folder made by `affectnet ingest`."""
    out: Path | None = None
    """A page with pictures (.html), or every finding in full (.json)."""
    strict: bool = False
    """Exit with status 1 when there is a problem (warnings do not count)."""
    without_contempt: bool = False
    """Leave the faces of contempt out, and compare with the published counts of seven classes; so
    always on datasets that were ingested without contempt."""
    predictions: Path | None = None
    """A model's predictions.parquet (or CSV) for faces it was not trained on: the most likely wrong
    labels are found with it."""
    split: Literal["train", "val", "test"] | None = None
    """Split that --predictions is for, where its ids do not tell."""
    show: int = 10
    """Most rows of each list on the terminal."""
    overwrite: bool = False
    """Replace the file at --out."""


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained model as one file that predicts without PyTorch, checked against it."""

    model: Positional[str]
    """Run folder, its model/ folder, owner/name on the Hugging Face Hub, or the name of a model
    that the package ships."""
    out: Path
    """The file, which ends in .onnx."""
    format: Literal["onnx"] = "onnx"
    """Kind of file."""
    int8: bool = False
    """In 8-bit integers: a quarter of the size and faster on a CPU, for slightly other numbers."""
    fp16: bool = False
    """In 16-bit floats: half the size, for GPUs."""
    preprocess: bool = False
    """Take uint8 RGB faces (n, S, S, 3) and scale and normalise them inside the graph; it takes
    normalised float32 faces (n, 3, S, S) otherwise."""
    data: Path | None = None
    """Dataset folder with the faces on which the file is compared with PyTorch; drawn faces where
    not given."""
    faces: int = 256
    """Most faces to compare."""
    overwrite: bool = False
    """Replace the file at --out."""


@dataclass(frozen=True)
class ServeConfig:
    """Open a web page and an HTTP API for pictures, the camera and videos."""

    model: str = "cvnet"
    """Run folder, its model/ folder, an .onnx file, owner/name on the Hugging Face Hub, or the name
    of a model that the package ships."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines in."""
    port: int = 7860
    """Port to listen at; 0 takes any free one."""
    password: str | None = None
    """Guard the page and the API. Other users of the machine can see it in the process list."""
    password_file: Path | None = None
    """File that holds the password. The variable AFFECTNET_PASSWORD does as well."""
    faces: Literal["detect", "none"] = "detect"
    """detect: find the faces; none: every picture is one face, cropped already."""
    margin: float | None = None
    """Share of the face box added on each side, where the model's config.json does not say."""
    min_score: float = 0.7
    """Detections less sure than this are left out, 0 to 1."""
    detect_size: int | None = None
    """Long side, in pixels, at which faces are searched in pictures: 1024 where not given."""
    max_mb: float = 20
    """Largest picture upload, in MB."""
    max_video_mb: float = 100
    """Largest video upload, in MB."""
    max_pixels: int = 40_000_000
    """Most pixels of a picture."""
    max_seconds: float = 120
    """Most seconds of a video that are looked at."""
    max_frames: int = 3000
    """Most frames of a video that are looked at."""
    fps: float = 25
    """Most frames of a second of video that are looked at."""
    workers: int = 2
    """Pictures worked on at the same time; videos come one by one."""
    waiting: int = 32
    """Requests that may wait beside those; more are told to come again."""
    timeout: float = 60
    """Most seconds for a picture, waiting included."""
    video_timeout: float = 600
    """Most seconds for a video, waiting included."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes a GPU where there is one."""


@dataclass(frozen=True)
class PredictConfig:
    """Expression, valence and arousal of every face in pictures, folders, videos or a camera."""

    inputs: Positional[tuple[str, ...]]
    """Pictures, videos, folders (searched to the bottom), globs in quotes, or a camera's number."""
    model: str = "cvnet"
    """Run folder, its model/ folder, an .onnx file, owner/name on the Hugging Face Hub, or the name
    of a model that the package ships."""
    without_contempt: bool = False
    """Seven classes: a model that knows contempt never says it, and scales the other seven
    probabilities to sum to one."""
    flip: bool = False
    """Answer with the mean for each face and its mirror image: errs less, in twice the time."""
    out: Path | None = None
    """Results, a row a face: .csv, .json, .jsonl or .parquet; a table on the terminal without."""
    annotate: Path | None = None
    """Folder for pictures and videos with the faces drawn in, and valence and arousal over time."""
    video: Literal["webm", "mp4"] = "webm"
    """Annotated videos: webm (VP8) plays in browsers too; mp4 (MPEG-4 part 2) plays in desktop
    players only and is written about ten times as fast."""
    faces: Literal["detect", "none"] = "detect"
    """detect: find the faces; none: every picture is one face, cropped already."""
    margin: float | None = None
    """Share of the face box added on each side, where the model's config.json does not say."""
    min_score: float = 0.7
    """Detections less sure than this are left out, 0 to 1."""
    detect_size: int | None = None
    """Long side, in pixels, at which faces are searched: 1024 in pictures and 640 in videos where
    not given. Larger finds smaller faces and takes longer."""
    smoothing: Literal["one-euro", "ema", "none"] = "one-euro"
    """Smoothing of each face over the time of a video; none writes every frame's own numbers."""
    stride: int = 1
    """Look at every n-th frame of a video."""
    fps: float | None = None
    """Look at no more than this many frames of a second of video."""
    seconds: float | None = None
    """Stop a video or a camera after this many seconds; a camera runs until Ctrl-C without."""
    batch_size: int = 32
    """Faces a forward pass."""
    workers: int | None = None
    """Threads that read pictures and find faces; as many as cores, at most 8, where not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes a GPU where there is one."""
    overwrite: bool = False
    """Replace the file at --out and what has the same names in --annotate."""
