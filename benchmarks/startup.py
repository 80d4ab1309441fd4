"""Start-up: seconds, memory and imports of one photo, of a file of predictions, of the server.

    python benchmarks/startup.py [--rounds 5] [--check]

Each command runs in new processes, in turn with a plain program that does the same work. For a
photo that is `fer` or `deepface` where installed, and otherwise a loop of PyTorch and OpenCV with
the same network. Processor seconds (user and system) hardly depend on what else the machine does.
`--check` fails beyond 1.5 processor seconds or 350 MB for one photo.
"""

import argparse
import importlib.util
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import affectnet

PHOTO = Path(affectnet.__file__).parent / "photos" / "astronaut.jpg"
MOST_SECONDS, MOST_MB = 1.5, 350
FACES = 4000

FER = """
import sys, cv2
from fer import FER
print(FER().detect_emotions(cv2.imread(sys.argv[1])))
"""
DEEPFACE = """
import sys
from deepface import DeepFace
print(DeepFace.analyze(sys.argv[1], actions=["emotion"]))
"""
LOOP = """
import sys, cv2, numpy as np, torch
from affectnet.inference.detector import yunet_file
from affectnet.models.affect_model import AffectModel
model = AffectModel.from_pretrained("cvnet")
image = cv2.imread(sys.argv[1])
height, width = image.shape[:2]
detector = cv2.FaceDetectorYN.create(str(yunet_file()), "", (width, height))
for x, y, w, h in detector.detect(image)[1][:, :4].astype(int):
    face = cv2.resize(image[y : y + h, x : x + w, ::-1], (48, 48)) / 255
    faces = torch.tensor((face.transpose(2, 0, 1)[None] - 0.5) / 0.25, dtype=torch.float32)
    with torch.inference_mode():
        output = model(faces)
    print(output.logits.softmax(1), output.valence, output.arousal)
"""
SCORING = """
import sys, numpy as np, pandas as pd
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
table = pd.read_csv(sys.argv[1])
rng = np.random.default_rng(0)
values = []
for rows in [np.arange(len(table)), *rng.integers(0, len(table), (100, len(table)))]:
    truth, guess = table.expression.values[rows], table.expression_pred.values[rows]
    values.append([accuracy_score(truth, guess), f1_score(truth, guess, average="macro"),
                   cohen_kappa_score(truth, guess)])
print(np.quantile(values, [0.025, 0.975], axis=0))
"""


class Cost(NamedTuple):
    """What one process took: elapsed and processor seconds, peak memory in MB."""

    elapsed: float
    processor: float
    memory: float


def cost_of(command: Sequence[str], until: str | None = None) -> Cost:
    """Run a process to its end, or until it prints a line with `until`, and measure it."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if until is not None and until in line:
                break
        elapsed = time.perf_counter() - start
        if until is not None:
            process.send_signal(signal.SIGINT)
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0 and until is None:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)[:80]}: {errors.read().decode()[-2000:]}")
    return Cost(
        elapsed if until else time.perf_counter() - start,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    )


def imports_of(args: Sequence[str]) -> str:
    """The packages whose import takes longest in `affectnet ARGS`, in milliseconds."""
    code = "import sys; from affectnet.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *args], capture_output=True, text=True
    )
    spent: dict[str, float] = {}
    for line in done.stderr.splitlines():
        found = re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)", line)
        if found:
            spent[found[2]] = spent.get(found[2], 0) + int(found[1]) / 1000
    largest = sorted(spent.items(), key=lambda item: -item[1])[:6]
    return f"{sum(spent.values()):.0f}: " + ", ".join(f"{n} {ms:.0f}" for n, ms in largest)


def photo_program() -> tuple[str, str]:
    """Name and code of the program that `predict` is compared with."""
    for name, code in (("fer", FER), ("deepface", DEEPFACE)):
        if importlib.util.find_spec(name):
            return name, code
    return "loop of PyTorch and OpenCV (fer and deepface are not installed)", LOOP


def write_predictions(path: Path) -> Path:
    """Write a file of predictions with their truth."""
    lines = ["id,expression,valence,arousal,expression_pred,valence_pred,arousal_pred"]
    for i in range(FACES):
        lines.append(f"{i},{i % 8},{i / FACES},0.1,{(i + (i % 5 == 0)) % 8},0.2,{i % 7 / 7}")
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    own = [sys.executable, "-m", "affectnet"]
    python = [sys.executable, "-c"]
    with tempfile.TemporaryDirectory() as folder:
        table = write_predictions(Path(folder) / "predictions.csv")
        name, code = photo_program()
        predict = ["predict", str(PHOTO), "--out", f"{folder}/faces.csv", "--overwrite"]
        evaluate = ["evaluate", "--predictions", str(table), "--resamples", "100"]
        evaluate += ["--out", f"{folder}/metrics.json", "--overwrite"]
        serve = ["serve", "--port", "0"]
        runs: dict[str, Callable[[], Cost]] = {
            "predict photo": lambda: cost_of([*own, *predict]),
            name: lambda: cost_of([*python, code, str(PHOTO)]),
            "evaluate --predictions, all metrics": lambda: cost_of([*own, *evaluate]),
            "pandas and scikit-learn, three metrics": lambda: cost_of(
                [*python, SCORING, str(table)]
            ),
        }
        if importlib.util.find_spec("gradio"):
            runs["serve, until it listens"] = lambda: cost_of([*own, *serve], "press Ctrl-C")
            runs["import gradio"] = lambda: cost_of([*python, "import gradio"])
        costs: dict[str, list[Cost]] = {what: [] for what in runs}
        for _ in range(options.rounds):
            for what, run in runs.items():
                costs[what].append(run())
        imports = {
            "predict photo": imports_of(predict),
            "evaluate --predictions, all metrics": imports_of(evaluate),
        }
    print("| program | seconds | processor s | memory | ratio | imports, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    medians = {
        what: Cost(*map(statistics.median, zip(*found, strict=True)))
        for what, found in costs.items()
    }
    names = list(medians)
    for number, what in enumerate(names):
        cost, ratio = medians[what], ""
        if number % 2 == 0:  # its comparison follows
            ratio = f"{medians[names[number + 1]].processor / cost.processor:.1f}"
        numbers = f"{cost.elapsed:.2f} | {cost.processor:.2f} | {cost.memory:.0f} MB"
        print(f"| {what} | {numbers} | {ratio} | {imports.get(what, '')} |")
    photo = medians["predict photo"]
    if options.check and (photo.processor > MOST_SECONDS or photo.memory > MOST_MB):
        raise SystemExit(f"one photo: at most {MOST_SECONDS} s and {MOST_MB} MB are allowed")


if __name__ == "__main__":
    main()
