"""The model: a backbone, and heads for expression, valence and arousal."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from safetensors.torch import save
from torch import Tensor, nn

from affectnet.errors import ConfigError, RunError, WeightsError
from affectnet.labels import EXPRESSIONS
from affectnet.models.backbones import create_backbone, layer_depths, resolve_name
from affectnet.models.model_config import (
    CONFIG,
    TARGETS,
    WEIGHTS,
    Fractions,
    ModelConfig,
    Preprocessing,
    in_order,
    read_config,
    resolve_model,
)
from affectnet.models.prior import after_correction, correction
from affectnet.models.weights import (
    CARD,
    MAX_CARD,
    check_finite,
    check_header,
    fetch_model,
    first_few,
    first_line,
    plain_card,
    read_weights,
)
from affectnet.run import temporary_folder, write_beside

_logger = logging.getLogger("affectnet")


class AffectOutput(NamedTuple):
    """Predictions for a batch of B faces."""

    logits: Tensor
    """Expression logits, shape (B, K), in the order of `AffectModel.classes`."""
    valence: Tensor
    """Valence, shape (B,), in [-1, 1]."""
    arousal: Tensor
    """Arousal, shape (B,), in [-1, 1]."""


class Heads(nn.Module):
    """Dropout, and one linear layer each for expression and for valence and arousal."""

    def __init__(self, features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.expression = nn.Linear(features, classes)
        self.valence_arousal = nn.Linear(features, 2)

    def forward(self, features: Tensor) -> AffectOutput:
        """Map features (B, F) to predictions."""
        x = self.dropout(features)
        valence, arousal = torch.tanh(self.valence_arousal(x)).unbind(dim=1)
        return AffectOutput(self.expression(x), valence, arousal)


class AffectModel(nn.Module):
    """A backbone with heads for expression, valence and arousal.

    Args:
        backbone_name: `cvnet`, a named baseline, or a timm model.
        pretrained: start the backbone from ImageNet weights (`cvnet` has none).
        weights: start from this instead: a timm checkpoint, or the `model/` folder or
            `model.safetensors` of an earlier run with the same backbone, whose heads are loaded too
            if their shapes match; a warning names those that do not.
        image_size: side of the input in pixels; if None as `create_backbone` chooses it.
        dropout: dropout before the heads, [0, 1).
        drop_path: stochastic depth in the backbone, [0, 1).
        classes: the expressions that the model predicts: all, or some in the same order.

    Raises `ConfigError` and `WeightsError` as `create_backbone`.
    """

    def __init__(
        self,
        backbone_name: str,
        *,
        pretrained: bool = False,
        weights: Path | str | None = None,
        image_size: int | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        classes: Sequence[str] = EXPRESSIONS,
    ) -> None:
        super().__init__()
        weights = None if weights is None else Path(weights)
        if not classes or list(classes) != in_order(classes):
            raise ConfigError(
                f"classes are {', '.join(classes) or 'none'}; allowed are all or some of "
                f"{', '.join(EXPRESSIONS)}, in this order"
            )
        self.backbone_name = backbone_name
        self.architecture = resolve_name(backbone_name)
        self.classes = tuple(classes)
        self.dropout = dropout
        self.targets: tuple[str, ...] = TARGETS
        """The targets that the heads were trained on; the outputs of others have no meaning."""
        self.temperature: float | None = None
        """Divides the logits before the softmax if calibrated; None if not."""
        self.class_fractions: Fractions | None = None
        """Fraction of each class in the training faces; None if unknown."""
        self.prior: Fractions | None = None
        """Class fractions that the probabilities assume, see `models.prior`; None if unknown."""
        self.card: str | None = None
        """The model card, saved next to the model as README.md; None if there is none."""
        self.frozen = False
        self.preprocessing: Preprocessing
        self.backbone, self.preprocessing = create_backbone(
            backbone_name,
            pretrained=pretrained,
            weights=weights,
            image_size=image_size,
            drop_path=drop_path,
        )
        self.num_features: int = cast(Any, self.backbone).num_features
        self.heads = Heads(self.num_features, len(self.classes), dropout)
        if weights is not None:
            self._load_heads(weights)

    def features(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, S, S) to features (B, num_features)."""
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> AffectOutput:
        """Map RGB images (B, 3, S, S), normalised by `preprocessing`, to predictions."""
        output: AffectOutput = self.heads(self.features(images))
        return output

    def freeze_backbone(self) -> Self:
        """Train only the heads: the backbone has no gradients and stays in evaluation mode.

        In training mode its batch norms would follow the batches and change the features.
        """
        self.frozen = True
        self.backbone.requires_grad_(False)
        return self.train(self.training)

    @property
    def layers(self) -> int:
        """Number of the backbone's layers, as `freeze_below` counts them."""
        return 1 + max(layer_depths(self.backbone).values())

    def freeze_below(self, layer: int) -> Self:
        """Train the heads and the backbone's layers from number `layer` (0 to `layers`) on."""
        depths = layer_depths(self.backbone)
        for name, weight in self.backbone.named_parameters():
            weight.requires_grad_(depths[name] >= layer)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; frozen layers of the backbone stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        elif mode:
            for module in self.backbone.modules():
                weights = list(module.parameters())
                if weights and not any(weight.requires_grad for weight in weights):
                    module.eval()
        return self

    @torch.no_grad()
    def correct_prior(self, prior: str, tau: float = 1.0) -> Self:
        """Change the model so that its probabilities are right for other class fractions.

        The bias of the expression head is shifted by temperature * tau * log(target / prior), so
        the probabilities after the temperature are those of `models.prior.corrected`. The
        temperature has to be fitted before. Raises the errors of `models.prior.correction`.

        Args:
            prior: the target: `train`, `uniform` or a file, as `target_prior` reads it.
            tau: strength, 0 to 2.
        """
        ratios = correction(self, prior, tau)
        bias = self.heads.expression.bias
        bias.add_(torch.as_tensor((self.temperature or 1.0) * ratios).to(bias))
        self.prior = after_correction(self.prior, ratios)
        return self

    def config(self) -> dict[str, Any]:
        """Everything that prediction needs, the content of `config.json`."""
        return ModelConfig(
            self.backbone_name,
            self.architecture,
            self.classes,
            self.dropout,
            self.preprocessing,
            self.temperature,
            self.class_fractions,
            self.prior,
            self.targets,
        ).to_dict()

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write `model.safetensors`, `config.json` and the card, if any, into a folder.

        An existing folder is replaced once the new one is complete. The header of the weights file
        contains the config too, so that the file can be used alone.
        """
        config = json.dumps(self.config(), indent=2)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        with write_beside(Path(save_directory)) as folder:
            folder.mkdir()
            # Not `save_file`, whose file only its owner may read.
            (folder / WEIGHTS).write_bytes(save(tensors, {"format": "pt", "affectnet": config}))
            (folder / CONFIG).write_text(config + "\n", encoding="utf-8")
            if self.card is not None:
                (folder / CARD).write_text(self.card, encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload the model",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload `model.safetensors`, `config.json` and the card to the Hugging Face Hub.

        The card is the one that the model was loaded with (`affectnet.report.card.write_card`
        writes it from a run's metrics); without one, a plain card describes the config.

        Args:
            repo_id: `owner/name`; created if it does not exist.
            commit_message: of the upload.
            private: whether a new repository is private; the owner's default if None.
            token: of the hub; the one of `hf auth login` if None.
            branch: to upload to; `main` if None.
            create_pr: open a pull request instead.

        Returns the address of the commit. Raises `RunError` if `repo_id` is not a valid name,
        `WeightsError` if the hub refuses or does not answer.
        """
        api = HfApi(token=token)
        with temporary_folder("hub") as above:
            folder = above / "model"
            self.save_pretrained(folder)
            card = self.card or plain_card(repo_id, self.config())
            (folder / CARD).write_text(card, encoding="utf-8")
            try:
                commit = api.upload_folder(
                    repo_id=api.create_repo(repo_id, private=private, exist_ok=True).repo_id,
                    folder_path=folder,
                    revision=branch,
                    commit_message=commit_message,
                    create_pr=create_pr,
                )
            except HFValidationError as error:
                raise RunError(
                    f"'{repo_id}' is not a valid name on the hub ({first_line(error)}); give "
                    "owner/name"
                ) from error
            except Exception as error:
                # Broad on purpose, as in `hub_fault`.
                raise WeightsError(
                    f"the model cannot be uploaded to {repo_id} ({first_line(error)}); check the "
                    "name, the network, and that `hf auth login` has a token with write access"
                ) from error
        return str(commit)

    @classmethod
    def from_pretrained(cls, model: str | Path, *, revision: str | None = None) -> Self:
        """Load a model in evaluation mode, on the CPU.

        Args:
            model: a run folder, its `model/` folder, `owner/name` on the Hugging Face Hub, or the
                name of a model that the package ships.
            revision: branch, tag or commit on the hub.

        Memory is taken only after the weights file turns out to have the tensors that `config.json`
        describes. Raises `RunError` if there is no such model or its `config.json` is incomplete,
        has other classes or comes from a newer affectnet; `WeightsError` if the weights are
        missing, a pickle, damaged, do not fit, are not finite, or cannot be downloaded.
        """
        place = resolve_model(model)
        if isinstance(place, Path) and place.suffix == ".onnx":
            raise RunError(
                f"{place} is an ONNX file, which PyTorch does not load; use affectnet.load to "
                "predict with it"
            )
        folder = place if isinstance(place, Path) else fetch_model(place, revision)
        config = read_config(folder / CONFIG)
        with torch.device("meta"):
            check_header(folder / WEIGHTS, cls._of_config(config).state_dict())
        loaded = cls._of_config(config)
        file = read_weights(folder / WEIGHTS)
        check_finite(file, loaded)
        loaded.load_state_dict(file.tensors)
        if (folder / CARD).is_file():
            with (folder / CARD).open(encoding="utf-8", errors="replace") as card:
                loaded.card = card.read(MAX_CARD)
        return loaded.eval()

    @classmethod
    def _of_config(cls, config: ModelConfig) -> Self:
        """The model that a config describes, with random weights."""
        model = cls(
            config.architecture,
            image_size=config.preprocessing.size,
            dropout=config.dropout,
            classes=config.classes,
        )
        model.backbone_name = config.backbone
        model.temperature = config.temperature
        model.class_fractions = config.class_fractions
        model.prior = config.prior
        model.targets = config.targets
        model.preprocessing = config.preprocessing
        return model

    def _load_heads(self, weights: Path) -> None:
        """Load the heads of an affectnet file whose shapes match."""
        file = read_weights(weights)
        if not file.is_affectnet:
            return
        own, given = self.heads.state_dict(), file.under("heads.")
        fits = {n: t for n, t in given.items() if n in own and own[n].shape == t.shape}
        # Each row is a class: the same number of other classes is a different head.
        if file.config is not None and file.config.classes != self.classes:
            fits = {n: t for n, t in fits.items() if not n.startswith("expression.")}
        self.heads.load_state_dict(own | fits)
        fresh = [name for name in own if name not in fits]
        if fresh:
            _logger.warning(
                "%s: these tensors of the heads do not fit and are initialised anew: %s",
                file.path,
                first_few(fresh, len(fresh)),
            )
