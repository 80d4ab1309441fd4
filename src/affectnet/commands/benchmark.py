"""`affectnet benchmark`: train and score every model with every seed, and write a leaderboard.

Each training, evaluation and measurement is a process of its own, so that the others continue when
one fails. Finished work is recognised by its files, so that the same command continues a benchmark
that was stopped.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import yaml

from affectnet.cli import parse
from affectnet.commands.train_settings import check
from affectnet.config import BenchmarkConfig
from affectnet.data.store import DatasetInfo
from affectnet.errors import ConfigError, Faults, RunError, Stopped
from affectnet.evaluation.comparison import compare_seeds
from affectnet.evaluation.prediction_files import predictions_of, read_table, truth_of
from affectnet.models.backbones import BASELINES, CVNET, resolve_name
from affectnet.recipes import find_recipe
from affectnet.report.leaderboard import Entry, comparison_table, write_leaderboard
from affectnet.report.runs import PREDICTIONS_NAME, metric_of
from affectnet.report.summary import ACCURACY
from affectnet.report.tables import Table
from affectnet.run import (
    RunFolder,
    changed_settings,
    folder_name,
    locked,
    plain_settings,
    write_beside,
)

SETTINGS: Final = "benchmark.yaml"
FREE_TO_CHANGE: Final = {
    *("backbones", "seeds", "data", "out", "workers", "cache", "accelerator", "devices")
}
"""What another call on the same folder may change: models, seeds, paths and where it runs."""
PASSED_ON: Final = (
    *("epochs", "image_size", "freeze", "batch_size", "cache", "precision"),
    *("accelerator", "devices", "workers"),
)
"""Settings that are passed to `affectnet train` if they are given."""
LOCK_WAIT: Final = 30.0
"""Seconds to wait for another benchmark in the same folder, which may be stopping."""
GRACE: Final = 60.0
"""Seconds that a child process has to stop before it is killed."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One backbone with one seed."""

    backbone: str
    seed: int

    def run(self, out: Path) -> RunFolder:
        """Run folder of the job in the benchmark's folder `out`."""
        return RunFolder(out / "runs" / f"{folder_name(self.backbone)}-seed{self.seed}")


def benchmark(config: BenchmarkConfig) -> int:
    """Train, evaluate and measure what is missing in `config.out`, and write the leaderboard.

    Returns:
        0 if every model is scored, 1 if any failed.

    Raises:
        ConfigError: a setting is wrong, or differs from that of the benchmark in the folder.
        RunError: the folder holds something else, or another benchmark is running in it.
        Stopped: a signal was received; the same command continues.
    """
    jobs = list_jobs(config)
    # A child process that outlives a killed benchmark keeps the folder locked.
    with _explain_stop(), locked(config.out, LOCK_WAIT, inherit=True):
        _check_folder(config.out)
        settings = _settings(config)
        failed: dict[Job, str] = {}
        for number, job in enumerate(jobs):
            _write_leaderboard(config, jobs, failed, jobs[number:], settings)
            run, steps = job.run(config.out), _missing_steps(config, job)
            if steps:
                print(f"[{number + 1}/{len(jobs)}] {run.name}", flush=True)
            for step, args in steps:
                if error := run_python(args, config.out / "logs" / f"{run.name}.log"):
                    failed[job] = f"{step}: {error}"
                    print(f"    failed: {failed[job]}", flush=True)
                    break
        _write_leaderboard(config, jobs, failed, [], settings)
    scored = sum(_metrics(config, job) is not None for job in jobs)
    print(f"{scored} of {len(jobs)} runs scored; open {config.out / 'leaderboard.html'}")
    return 1 if failed else 0


def list_jobs(config: BenchmarkConfig) -> list[Job]:
    """Every backbone with every seed, in the order given.

    Raises `ConfigError` that lists everything that is wrong.
    """
    faults = Faults(config)
    given = [name for item in config.backbones for name in item.split(",") if name] or ["all"]
    backbones = [b for name in given for b in ([CVNET, *BASELINES] if name == "all" else [name])]
    for name in backbones:
        with faults.caught():
            resolve_name(name)
    seeds = [seed for item in config.seeds for seed in item.split(",") if seed] or ["0"]
    if wrong := [seed for seed in seeds if not seed.isdecimal()]:
        faults.append(f"--seeds has {', '.join(wrong)}, allowed are whole numbers from 0")
    if config.recipe not in ("none", "notebook", "default"):
        with faults.caught():
            find_recipe(config.recipe)
    if not config.data:
        faults.append("--data is required: a dataset folder made by `affectnet ingest`")
    faults += [
        f"--set {item}: expected setting=value, as in --set lr=0.01"
        for item in config.set
        if "=" not in item
    ]
    faults.raise_all()
    # All models of one seed come first, so that an unfinished leaderboard has every model.
    jobs = list(dict.fromkeys(Job(b, int(seed)) for seed in seeds for b in backbones))
    for job in jobs:
        if any(step == "train" for step, _ in _missing_steps(config, job)):
            with faults.caught():
                command, *args = _train_command(config, job)
                check(parse(command, args))
    faults[:] = dict.fromkeys(faults)  # most are the same for every model
    faults.raise_all()
    return jobs


def _settings(config: BenchmarkConfig) -> dict[str, object]:
    """Write benchmark.yaml, or check that the existing one has the same settings.

    Returns the settings that the leaderboard shows.
    """
    now = plain_settings(config)
    now["data"] = [str(path.resolve()) for path in config.data]
    now["dataset"] = [DatasetInfo.read(path).content_hash for path in config.data]
    file = config.out / SETTINGS
    if file.is_file():
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        if changed := changed_settings(BenchmarkConfig, before, now, FREE_TO_CHANGE):
            raise ConfigError(
                f"{config.out} holds a benchmark with other settings: {changed}; use the same "
                "settings to continue it, or choose another --out"
            )
    with write_beside(file) as new:
        new.write_text(yaml.safe_dump(now, sort_keys=False), encoding="utf-8")
    given = {k: v for k, v in now.items() if v not in (None, []) and k not in ("out", "dataset")}
    return {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in given.items()}


def _missing_steps(config: BenchmarkConfig, job: Job) -> list[tuple[str, list[str]]]:
    """Name and Python arguments of the steps between a job and its scores and costs."""
    run, cost = job.run(config.out), _cost_file(config, job.backbone)
    scored, measured = _metrics(config, job) is not None, cost.is_file()
    steps = []
    if not (scored and measured) and (run.start.is_dir() or not run.model.is_dir()):
        steps.append(("train", ["-m", "affectnet", *_train_command(config, job)]))
    if not scored:
        evaluate = ["-m", "affectnet", "evaluate", str(run.path), "--data", str(config.data[0])]
        evaluate += ["--split", config.split, "--accelerator", config.accelerator, "--overwrite"]
        evaluate += ["--flip"] * config.flip
        steps.append(("evaluate", [*evaluate, "--no-figures", "--no-card"]))
    if not measured:
        measure = ["-m", "affectnet.training.cost", str(run.model), str(cost), config.accelerator]
        steps.append(("measure", measure))
    return steps


def _train_command(config: BenchmarkConfig, job: Job) -> list[str]:
    run = job.run(config.out)
    command = ["train", "--runs", str(run.path.parent), "--name", run.name]
    if run.config.is_file():
        return [*command, "--resume"]
    command += recipe_flags(config.recipe, job.backbone)
    if not (config.recipe == "default" and "--recipe" in command):
        # A model's better recipe names better weights of the same network.
        command += ["--backbone", job.backbone]
    command += ["--seed", str(job.seed)]
    command += [arg for path in config.data for arg in ("--data", str(path))]
    for name in PASSED_ON:
        value = getattr(config, name)
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    if not config.pretrained:
        command.append("--no-pretrained")
    for item in config.set:
        name, _, value = item.partition("=")
        switch = {"true": f"--{name}", "false": f"--no-{name}"}.get(value.lower())
        command += [switch] if switch else [f"--{name}", value]
    return [*command, "--overwrite"] if run.used() else command


def recipe_flags(recipe: str, backbone: str) -> list[str]:
    """Flags of `affectnet train` for a recipe: none, notebook or default, or one by its name.

    A backbone without a recipe of its own takes the ResNet's for `notebook`, and the defaults of
    `affectnet train` for `default`.
    """
    own = backbone in (CVNET, *BASELINES)
    if recipe == "none" or (recipe == "default" and not own):
        return []
    named = {"default": backbone, "notebook": f"notebook-{backbone if own else 'resnet152'}"}
    return ["--recipe", named.get(recipe, recipe)]


def run_python(args: list[str], log: Path) -> str:
    """Run Python with `args` and append its output to `log`; return its error, or an empty string.

    The process is stopped with this one: it gets SIGTERM, and SIGKILL after `GRACE` seconds. If
    this process is killed, Linux kills it too.
    """
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
            close_fds=False,  # where it outlives a killed benchmark, it keeps the folder locked
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        try:
            status = process.wait()
        except BaseException:
            _stop(process)
            raise
    if status == 0:
        return ""
    output = log.read_bytes()[start:].decode(errors="replace").splitlines()
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", possibly out of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{hint} (see {log})"
    errors = [line.partition("error: ")[2] for line in output if ": error: " in line]
    last = errors[-1] if errors else next((s for s in reversed(output) if s.strip()), "")
    return f"{last[:400] or f'exit status {status}'} (see {log})"


def _die_with_parent() -> None:
    """Ask the kernel to kill this child process when the benchmark dies (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a child process and its own children; kill them if they do not stop."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _explain_stop() -> Iterator[None]:
    try:
        yield
    except Stopped as stop:
        name = signal.Signals(stop.signal).name
        raise Stopped(
            stop.signal,
            f"stopped by {name}; finished work is saved, and the same command continues",
        ) from None


def _check_folder(out: Path) -> None:
    """Raise `RunError` if the folder holds something else than a benchmark."""
    if out.exists() and not out.is_dir():
        raise RunError(f"--out {out} is a file; choose another folder")
    if out.is_dir() and not (out / SETTINGS).is_file() and any(out.iterdir()):
        raise RunError(
            f"--out {out} is not empty and does not hold a benchmark; choose an empty or a new "
            "folder"
        )


def _write_leaderboard(
    config: BenchmarkConfig,
    jobs: list[Job],
    failed: dict[Job, str],
    waiting: Collection[Job],
    settings: dict[str, object],
) -> None:
    """Write the leaderboard with the scores so far, including those of earlier calls."""
    entries = []
    jobs = [*jobs, *(job for job in _scored_jobs(config) if job not in jobs)]
    for backbone in dict.fromkeys(job.backbone for job in jobs):
        own = [job for job in jobs if job.backbone == backbone]
        metrics = {job: found for job in own if (found := _metrics(config, job)) is not None}
        costs = _read_json(_cost_file(config, backbone)) or {}
        runs = [_read_json(job.run(config.out).path / "cost.json") for job in own]
        if peaks := [cost["peak_memory"] for cost in runs if cost]:
            costs["peak_memory"] = max(peaks)
        entries.append(
            Entry(
                backbone,
                {job.seed: found for job, found in metrics.items()},
                costs,
                {job.seed: failed[job] for job in own if job in failed},
                [j.seed for j in own if j in waiting and j not in metrics],
            )
        )
    names = " and ".join(path.resolve().name for path in config.data)
    title = f"Benchmark on {names}, {config.split} split"
    write_leaderboard(config.out, entries, title, settings, _compared(config, entries))


def _compared(config: BenchmarkConfig, entries: list[Entry]) -> Table | None:
    """Every scored model against the one with the highest mean accuracy; None if it is alone."""
    accuracy = {
        one.name: fmean(found)
        for one in entries
        if (found := [m for x in one.metrics.values() if (m := metric_of(x, *ACCURACY)[0])])
    }
    if len(accuracy) < 2:
        return None
    best = max(accuracy, key=lambda name: accuracy[name])
    seeds = {one.name: sorted(one.metrics) for one in entries}

    def files(name: str) -> dict[int, Path]:
        folders = {s: Job(name, s).run(config.out).evaluation(config.split) for s in seeds[name]}
        every = {s: folder / PREDICTIONS_NAME for s, folder in folders.items()}
        return {s: file for s, file in every.items() if file.is_file()}

    first = files(best)
    compared = {}
    for name in accuracy:
        other = files(name)
        shared = sorted(first.keys() & other.keys())
        if name != best and shared:
            tables = [[read_table(one[s]) for s in shared] for one in (first, other)]
            pair = ([predictions_of(table) for table in own] for own in tables)
            compared[name] = compare_seeds(truth_of(tables[0][0]), *pair)
    return comparison_table(best, compared)


def _scored_jobs(config: BenchmarkConfig) -> Iterator[Job]:
    """Jobs with scores in the folder, from this call and earlier ones."""
    for path in sorted((config.out / "runs").glob("*-seed*")):
        run = RunFolder(path)
        if run.config.is_file():
            settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
            # The name in the folder's, where a recipe has named the weights.
            name, _, seed = path.name.rpartition("-seed")
            named = folder_name(settings["backbone"]) == name
            job = Job(settings["backbone"] if named else name, int(seed))
            if _metrics(config, job) is not None:
                yield job


def _metrics(config: BenchmarkConfig, job: Job) -> dict[str, Any] | None:
    return _read_json(job.run(config.out).evaluation(config.split) / "metrics.json")


def _cost_file(config: BenchmarkConfig, backbone: str) -> Path:
    return config.out / "costs" / f"{folder_name(backbone)}.json"


def _read_json(file: Path) -> dict[str, Any] | None:
    """Content of a file, or None if it does not exist."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content
