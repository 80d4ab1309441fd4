"""The Hugging Face Hub: a model fetched from it, and one uploaded with its card."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from huggingface_hub import HfApi, ModelCardData, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from affectnet.errors import RunError, WeightsError
from affectnet.models.saved import CONFIG, WEIGHTS
from affectnet.models.shipped import WHY_NO_PICKLE
from affectnet.models.weights import first_line, hub_fault

CARD: Final = "README.md"


def fetch_model(name: str, revision: str | None = None) -> Path:
    """Return the folder of a model of the hub, downloaded once; only two files are ever fetched.

    Without the network, what was downloaded earlier serves.

    Raises:
        WeightsError: it cannot be had, or holds no safetensors: a pickle is never downloaded.
    """
    fault = hub_fault(name, CONFIG, revision)
    try:
        files = [
            hf_hub_download(name, file, revision=revision, local_files_only=fault is not None)
            for file in (WEIGHTS, CONFIG)
        ]
    except EntryNotFoundError as error:
        if fault is None:
            raise WeightsError(
                f"{name} on the hub holds no {WEIGHTS} with a {CONFIG} beside it, so it is no "
                f"model that affectnet reads: {WHY_NO_PICKLE}"
            ) from error
        raise _unreachable(name, fault) from error
    except (OSError, HFValidationError) as error:
        raise _unreachable(name, fault or error) from error
    return Path(files[0]).parent


def push_folder(
    save: Callable[[Path], None],
    card: str,
    name: str,
    *,
    private: bool | None,
    token: str | None,
    branch: str | None,
    **commit: Any,
) -> str:
    """Create the repository where needed and upload the folder that `save` writes, and the card.

    Returns the address of the commit.

    Raises:
        RunError: the name cannot be one of a repository.
        WeightsError: the hub refuses or does not answer.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / "model"
        save(folder)
        (folder / CARD).write_text(card, encoding="utf-8")
        try:
            full = api.create_repo(name, private=private, exist_ok=True).repo_id
            done = api.upload_folder(repo_id=full, folder_path=folder, revision=branch, **commit)
        except HFValidationError as error:
            raise RunError(
                f"'{name}' cannot be a repository on the hub ({first_line(error)}); give owner/name"
            ) from error
        except Exception as error:
            # Broad on purpose, as in `hub_fault`: the class depends on the HTTP library underneath.
            raise WeightsError(
                f"the model cannot be uploaded to {name} ({first_line(error)}); check the name, "
                "the network, and that `hf auth login` has a token that may write"
            ) from error
    return str(done)


def plain_card(name: str, config: dict[str, Any]) -> str:
    """Return a model card that tells what the config says, for a model without measured figures."""
    facts = config["preprocessing"]
    front = ModelCardData(
        model_name=name.rpartition("/")[2],
        library_name="affectnet",
        pipeline_tag="image-classification",
        tags=["facial-expression-recognition", "valence", "arousal"],
    ).to_yaml()
    return f"""---
{front.strip()}
---

# {name.rpartition("/")[2]}

`{config["architecture"]}` with heads for expression, valence and arousal. No scores were
measured that this card could tell.

- classes, in this order: {", ".join(config["classes"])}
- input: {facts["colour_order"]} faces of {facts["size"]} x {facts["size"]} pixels, mean \
{tuple(facts["mean"])}, standard deviation {tuple(facts["std"])}
- written by affectnet {config["affectnet_version"]}

```python
import affectnet

affectnet.load("{name}").predict("photo.jpg")
```

It tells which expression people would read into a picture of a face, not what a person feels.
"""


def _unreachable(name: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"there is no folder {name}, and the model of that name on the hub cannot be had "
        f"({first_line(error)}); check the name and the network, or give a folder `model/` of a run"
    )
