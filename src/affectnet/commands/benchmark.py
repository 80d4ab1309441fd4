"""`affectnet benchmark`: every model trained and scored over the seeds, and a leaderboard.

Each training, each evaluation and each measurement is a process of its own, so that nothing that
happens to one of them ends the rest. What is finished is known by the files that it left, so that a
benchmark that was killed goes on by the same command.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import yaml

from affectnet.config import BenchmarkConfig
from affectnet.data.store import DatasetInfo
from affectnet.errors import AffectNetError, ConfigError, RunError, Stopped
from affectnet.models.backbones import BASELINES, CVNET, resolve_name
from affectnet.recipes import find_recipe
from affectnet.report.leaderboard import Entry, write_leaderboard
from affectnet.run import RunFolder, folder_name, write_beside

SETTINGS: Final = "benchmark.yaml"
FREE_TO_CHANGE: Final = {"backbones", "seeds", "out", "workers", "cache", "accelerator", "devices"}
"""What another call on the same folder may change: more models and seeds, and where it runs."""
PASSED_ON: Final = (
    "epochs",
    "image_size",
    "freeze",
    "batch_size",
    "cache",
    "precision",
    "accelerator",
    "devices",
    "workers",
)
"""Settings that go to `affectnet train` where they were given."""
_GRACE: Final = 60.0
"""Seconds that a child has to stop before it is killed."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One backbone with one seed."""

    backbone: str
    seed: int

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"{folder_name(self.backbone)}-seed{self.seed}"


def benchmark(config: BenchmarkConfig) -> int:
    """Train, evaluate and measure what is missing under `config.out`; write the leaderboard.

    Returns:
        0 when every model is scored, 1 when any failed.

    Raises:
        ConfigError: a setting is wrong, or is not that of the benchmark begun in the folder.
        RunError: the folder holds something else, or another benchmark works in it.
        Stopped: a signal came; the same command goes on.
    """
    jobs = _jobs(config)
    with _only_one(config.out), _stopping():
        settings = _begin(config)
        failed: dict[Job, str] = {}
        tried: set[Job] = set()
        _tell(config, jobs, failed, tried, settings)
        for number, job in enumerate(jobs):
            run = RunFolder(config.out / "runs" / job.name)
            tried.add(job)
            if not _complete(config, run):
                print(f"[{number + 1}/{len(jobs)}] {job.name}", flush=True)
                why = _work(config, job, run)
                if why:
                    failed[job] = why
                    print(f"    failed: {why}", flush=True)
            _tell(config, jobs, failed, tried, settings)
    scored = sum(
        _metrics(config, RunFolder(config.out / "runs" / j.name)) is not None for j in jobs
    )
    print(f"{scored} of {len(jobs)} runs scored; open {config.out / 'leaderboard.html'}")
    return 1 if failed else 0


def _jobs(config: BenchmarkConfig) -> list[Job]:
    """Every backbone with every seed, in the order given.

    Raises `ConfigError` that lists all that is wrong.
    """
    faults = []
    given = [name for item in config.backbones for name in item.split(",") if name] or ["all"]
    backbones = [b for name in given for b in ([CVNET, *BASELINES] if name == "all" else [name])]
    for name in backbones:
        try:
            resolve_name(name)
        except AffectNetError as error:
            faults.append(str(error))
    seeds = [part for item in config.seeds for part in item.split(",") if part] or ["0"]
    if wrong := [seed for seed in seeds if not seed.isdecimal()]:
        faults.append(f"--seeds has {', '.join(wrong)}, allowed are whole numbers from 0")
    if config.recipe not in ("none", "notebook", "default"):
        try:
            find_recipe(config.recipe)
        except ConfigError as error:
            faults.append(str(error))
    if not config.data:
        faults.append("--data is required: a dataset folder made by `affectnet ingest`")
    faults += [
        f"--set {item}: expected setting=value, as in --set lr=0.01"
        for item in config.set
        if "=" not in item
    ]
    if faults:
        raise ConfigError("; ".join(faults))
    # Seed by seed: a benchmark that is looked at early has every model in it.
    return list(dict.fromkeys(Job(b, int(seed)) for seed in seeds for b in backbones))


def _begin(config: BenchmarkConfig) -> dict[str, object]:
    """Write benchmark.yaml, or check that the one there is of the same benchmark."""
    now = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    now["data"] = [str(path.resolve()) for path in config.data]
    now["dataset"] = [DatasetInfo.read(path).content_hash for path in config.data]
    file = config.out / SETTINGS
    if file.is_file():
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        changed = [
            f"{name} (was {was}, now {value})"
            for name, value in now.items()
            # A benchmark older than a setting was run at its default.
            if name not in FREE_TO_CHANGE | {"data"}
            and (was := before.get(name, getattr(BenchmarkConfig, name, None))) != value
        ]
        if changed:
            raise ConfigError(
                f"{config.out} holds a benchmark with other settings: {', '.join(changed)}; leave "
                "them as they were to go on with it, or choose another --out"
            )
    with write_beside(file) as new:
        new.write_text(yaml.safe_dump(now, sort_keys=False), encoding="utf-8")
    shown = {k: v for k, v in now.items() if v not in (None, []) and k not in ("out", "dataset")}
    return {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in shown.items()}


def _work(config: BenchmarkConfig, job: Job, run: RunFolder) -> str:
    """Bring one run to its scores; return why that failed, or nothing."""
    log = config.out / "logs" / f"{job.name}.log"
    cost = _cost_file(config, job.backbone)
    evaluate = ["-m", "affectnet", "evaluate", str(run.path), "--data", str(config.data[0])]
    evaluate += ["--split", config.split, "--accelerator", config.accelerator, "--overwrite"]
    evaluate += ["--flip"] * config.flip
    measure = ["-m", "affectnet.training.cost", str(run.model), str(cost), config.accelerator]
    trained = run.model.is_dir() and not run.start.is_dir()
    steps = [
        ("train", trained, ["-m", "affectnet", *_train_flags(config, job, run)]),
        (
            "evaluate",
            _metrics(config, run) is not None,
            [*evaluate, "--no-figures", "--no-card"],
        ),
        ("measure", cost.is_file(), measure),
    ]
    for name, done, args in steps:
        if not done and (why := _child(args, log)):
            return f"{name}: {why}"
    return ""


def _train_flags(config: BenchmarkConfig, job: Job, run: RunFolder) -> list[str]:
    where = ["train", "--runs", str(run.path.parent), "--name", job.name]
    if run.config.is_file():
        return [*where, "--resume"]
    flags = [*where, "--backbone", job.backbone, "--seed", str(job.seed)]
    flags += [part for path in config.data for part in ("--data", str(path))]
    flags += recipe_flags(config.recipe, job.backbone)
    for name in PASSED_ON:
        value = getattr(config, name)
        if value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    if not config.pretrained:
        flags.append("--no-pretrained")
    for item in config.set:
        name, _, value = item.partition("=")
        switch = {"true": f"--{name}", "false": f"--no-{name}"}.get(value.lower())
        flags += [switch] if switch else [f"--{name}", value]
    return [*flags, "--overwrite"] if run.used() else flags


def recipe_flags(recipe: str, backbone: str) -> list[str]:
    """Flags of `affectnet train` for a recipe: none, notebook or default, or one by its name.

    A backbone without a recipe of its own takes the ResNet's for `notebook`, and the
    defaults of `affectnet train` for `default`.
    """
    own = backbone in (CVNET, *BASELINES)
    if recipe == "none" or (recipe == "default" and not own):
        return []
    named = {"default": backbone, "notebook": f"notebook-{backbone if own else 'resnet152'}"}
    return ["--recipe", named.get(recipe, recipe)]


def _child(args: list[str], log: Path) -> str:
    """Run Python with `args`, its output going to `log`; return what went wrong, or nothing."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        start = out.tell()
        out.write(f"$ python {' '.join(args)}\n".encode())
        out.flush()
        process = subprocess.Popen(
            [sys.executable, *args],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=False,  # it holds the folder's lock too, should it outlive the benchmark
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        try:
            status = process.wait()
        except BaseException:
            _end(process)
            raise
    if status == 0:
        return ""
    said = log.read_bytes()[start:].decode(errors="replace").splitlines()
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{hint} (see {log})"
    errors = [line.partition("error: ")[2] for line in said if ": error: " in line]
    last = errors[-1] if errors else next((s for s in reversed(said) if s.strip()), "")
    return f"{last[:400] or f'exit status {status}'} (see {log})"


def _die_with_parent() -> None:
    """Let the kernel kill this child when the benchmark is killed (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a child and its own children to stop; kill them when they do not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Make SIGTERM and SIGUSR1 stop the child and then the benchmark."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(
            number,
            f"stopped by {signal.Signals(number).name}; what is finished is kept, and the same "
            "command goes on",
        )

    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _only_one(out: Path, wait: float = 30.0) -> Iterator[None]:
    """Hold the folder for this benchmark.

    Raises:
        RunError: the folder holds something else, or another benchmark works in it.
    """
    import fcntl

    lock = out / ".lock"
    if out.exists() and not out.is_dir():
        raise RunError(f"--out {out} is a file; choose another folder")
    known = lock.is_file() or (out / SETTINGS).is_file()
    if out.is_dir() and not known and any(out.iterdir()):
        raise RunError(
            f"--out {out} is not empty and holds no benchmark; choose an empty or a new folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        os.set_inheritable(file.fileno(), True)
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"another benchmark works in {out}; wait for it, or choose another --out"
                    ) from None
                time.sleep(0.2)
        yield


def _tell(
    config: BenchmarkConfig,
    jobs: list[Job],
    failed: dict[Job, str],
    tried: set[Job],
    settings: dict[str, object],
) -> None:
    """Write the leaderboard as it stands, with what earlier calls scored in the same folder."""
    entries = []
    jobs = [*jobs, *_earlier(config, jobs)]
    for backbone in dict.fromkeys(job.backbone for job in jobs):
        own = [job for job in jobs if job.backbone == backbone]
        runs = {job: RunFolder(config.out / "runs" / job.name) for job in own}
        scores = {job: _metrics(config, run) for job, run in runs.items()}
        costs = dict(_read(_cost_file(config, backbone)) or {})
        peaks = [
            cost["peak_memory"] for run in runs.values() if (cost := _read(run.path / "cost.json"))
        ]
        if peaks:
            costs["peak_memory"] = max(peaks)
        entries.append(
            Entry(
                backbone,
                {job.seed: known for job, known in scores.items() if known is not None},
                costs,
                {job.seed: failed[job] for job in own if job in failed},
                [j.seed for j in own if scores[j] is None and j not in failed and j not in tried],
            )
        )
    names = " and ".join(path.resolve().name for path in config.data)
    write_leaderboard(config.out, entries, f"Benchmark on {names}, {config.split} split", settings)


def _earlier(config: BenchmarkConfig, jobs: list[Job]) -> list[Job]:
    """Scored runs in the folder that this call does not ask for."""
    found = []
    for path in sorted((config.out / "runs").glob("*-seed*")):
        run = RunFolder(path)
        if _metrics(config, run) is not None and run.config.is_file():
            settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
            found.append(Job(settings["backbone"], settings["seed"]))
    return [job for job in found if job not in jobs]


def _complete(config: BenchmarkConfig, run: RunFolder) -> bool:
    backbone_cost = _cost_file(config, run.name.rpartition("-seed")[0])
    return _metrics(config, run) is not None and backbone_cost.is_file()


def _metrics(config: BenchmarkConfig, run: RunFolder) -> dict[str, Any] | None:
    return _read(run.evaluation(config.split) / "metrics.json")


def _cost_file(config: BenchmarkConfig, backbone: str) -> Path:
    return config.out / "costs" / f"{folder_name(backbone)}.json"


def _read(file: Path) -> dict[str, Any] | None:
    try:
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return known
