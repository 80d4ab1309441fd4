"""Losses against scikit-learn, numpy, torchmetrics and the papers' formulas; masks."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import log_loss
from torchmetrics.functional import concordance_corrcoef

from affectnet.models.affect_model import AffectOutput
from affectnet.models.losses import affect_loss, ccc_loss, expression_loss, mse_loss, shares_among

NAN = float("nan")
K = 8


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def faces(n, rng):
    """Logits, labels and vote shares of `n` faces, in double precision."""
    logits = 2 * torch.randn(n, K, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, K, (n,), generator=rng)
    votes = torch.rand(n, K, generator=rng, dtype=torch.float64)
    return logits, labels, votes / votes.sum(dim=1, keepdim=True)


# --- CCC -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 17, 400])
def test_ccc_equals_numpy_and_torchmetrics(n, rng):
    pred = torch.rand(n, generator=rng, dtype=torch.float64) * 2 - 1
    target = 0.5 * pred + 0.3 * torch.randn(n, generator=rng, dtype=torch.float64) + 0.1
    x, y = pred.numpy(), target.numpy()
    covariance = np.cov(x, y, bias=True)[0, 1]
    ccc = 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert ccc_loss(pred, target).item() == pytest.approx(1 - ccc, abs=1e-12)
    if n == 400:
        # torchmetrics takes sample variances, which differ from population ones in 1 / n.
        theirs = concordance_corrcoef(pred, target).item()
        assert ccc_loss(pred, target).item() == pytest.approx(1 - theirs, abs=1e-4)


def test_ccc_of_equal_and_of_opposite_values():
    values = torch.tensor([-0.5, 0.1, 0.4])
    assert ccc_loss(values, values).item() == pytest.approx(0, abs=1e-6)
    centred = values - values.mean()
    assert ccc_loss(-centred, centred).item() == pytest.approx(2, abs=1e-6)


def test_ccc_gradient_equals_finite_differences(rng):
    pred = torch.randn(9, generator=rng, dtype=torch.float64, requires_grad=True)
    target = torch.randn(9, generator=rng, dtype=torch.float64)
    target[[2, 5]] = NAN
    assert torch.autograd.gradcheck(lambda p: ccc_loss(p, target), pred)


@pytest.mark.parametrize(
    ("pred", "target"),
    [
        ([0.3, 0.4], [NAN, NAN]),
        ([0.3, 0.4], [0.2, NAN]),
        ([0.3], [0.3]),
        ([0.1, 0.1, 0.1], [0.1, 0.1, 0.1]),
        ([NAN, 0.4], [NAN, NAN]),
    ],
    ids=["no label", "one label", "one row", "equal constants", "NaN where unlabelled"],
)
def test_undefined_ccc_is_zero_with_zero_gradient(pred, target):
    pred = torch.tensor(pred, requires_grad=True)
    loss = ccc_loss(pred, torch.tensor(target))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(pred.grad, torch.zeros_like(pred))


def test_constant_target_gives_no_agreement_and_no_gradient():
    pred = torch.tensor([0.1, -0.2, 0.4], requires_grad=True)
    loss = ccc_loss(pred, torch.full((3,), 0.3))
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=1e-6)
    assert pred.grad.abs().max() < 1e-5


def test_half_precision_is_computed_in_full():
    pred = torch.linspace(-0.9, 0.9, 33).bfloat16()
    target = torch.linspace(-0.8, 1.0, 33)
    assert ccc_loss(pred, target).dtype == torch.float32
    assert ccc_loss(pred, target).item() == ccc_loss(pred.float(), target).item()


def test_mse_equals_numpy_over_the_labelled_rows(rng):
    pred, target = torch.randn(2, 12, generator=rng)
    target[3:6] = NAN
    known = ~np.isnan(target.numpy())
    expected = np.mean((pred.numpy()[known] - target.numpy()[known]) ** 2)
    assert mse_loss(pred, target).item() == pytest.approx(expected, rel=1e-6)


# --- expression ----------------------------------------------------------------------------------


def test_cross_entropy_equals_sklearn(rng):
    logits, labels, _ = faces(60, rng)
    probabilities = logits.softmax(1).numpy()
    ours = expression_loss(logits, labels).item()
    assert ours == pytest.approx(log_loss(labels, probabilities, labels=range(K)), abs=1e-10)

    weight = torch.rand(K, generator=rng, dtype=torch.float64) + 0.1
    ours = expression_loss(logits, labels, weight=weight).item()
    theirs = log_loss(labels, probabilities, labels=range(K), sample_weight=weight[labels].numpy())
    assert ours == pytest.approx(theirs, abs=1e-10)


@pytest.mark.parametrize(
    ("smoothing", "weighted"), [(0.0, False), (0.1, False), (0.5, False), (0.0, True)]
)
def test_smoothed_or_weighted_equals_pytorch(smoothing, weighted, rng):
    logits, labels, _ = faces(40, rng)
    weight = torch.rand(K, generator=rng, dtype=torch.float64) if weighted else None
    ours = expression_loss(logits, labels, weight=weight, label_smoothing=smoothing)
    theirs = F.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)


@pytest.mark.parametrize("shares", [False, True])
def test_a_weight_belongs_to_the_face_and_not_to_the_smoothing(shares, rng):
    """As faces that occur several times: of weight 3, three copies, smoothed like all others."""
    logits, labels, votes = faces(30, rng)
    weight = torch.tensor([1, 3, 2, 1, 5, 1, 2, 4], dtype=torch.float64)
    target = votes if shares else F.one_hot(labels, K).double()
    rows, classes = target.nonzero(as_tuple=True)
    # Each face once for every class of its shares, as often as share times weight.
    copies = (target * weight)[rows, classes]
    losses = F.cross_entropy(logits[rows], classes, label_smoothing=0.2, reduction="none")
    expected = (copies * losses).sum() / copies.sum()
    ours = expression_loss(
        logits, labels, votes if shares else None, weight=weight, label_smoothing=0.2
    )
    assert ours.item() == pytest.approx(expected.item(), abs=1e-12)


AFFECTNET = torch.tensor([749, 1344, 255, 141, 64, 38, 249, 38])


def uniformly_smoothed(logits, labels, smoothing):
    """Logit adjustment with the smoothing of PyTorch: how the two are usually combined."""
    prior = AFFECTNET / AFFECTNET.sum()
    return F.cross_entropy(logits + prior.log(), labels, label_smoothing=smoothing)


def test_smoothing_and_the_correction_of_frequencies_go_together():
    """Eight Gaussian classes with AffectNet's frequencies, by a linear model; equal test classes.

    Smoothed before the correction, rare classes get from every face the smoothing divided by their
    prior: the fitted probabilities, and with them the decisions, are theirs.
    """
    angles = torch.arange(K) * torch.pi / 4
    centres = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(K).repeat_interleave(AFFECTNET)
    points = centres[labels] + torch.randn(len(labels), 2, generator=rng)
    tests = torch.arange(K).repeat_interleave(500)
    test_points = centres[tests] + torch.randn(len(tests), 2, generator=rng)

    def scores(loss):
        model = torch.nn.Linear(2, K)
        torch.nn.init.zeros_(model.weight)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100)

        def step():
            optimizer.zero_grad()
            value = loss(model(points))
            value.backward()
            return value

        optimizer.step(step)
        probabilities = model(test_points).detach().softmax(1)
        accuracy = (probabilities.argmax(1) == tests).float().mean().item()
        # Of equal classes, each has an eighth of the probability.
        return accuracy, probabilities.mean(0)

    def adjusted(smoothing):
        return lambda z: expression_loss(
            z,
            labels,
            kind="logit_adjusted",
            class_counts=AFFECTNET,
            label_smoothing=smoothing,
        )

    plain, _ = scores(lambda z: F.cross_entropy(z, labels))
    right, fractions = scores(adjusted(0.0))
    smoothed, smoothed_fractions = scores(adjusted(0.1))
    wrong, wrong_fractions = scores(lambda z: uniformly_smoothed(z, labels, 0.1))
    assert right > plain + 0.05
    assert smoothed > right - 0.01
    assert wrong < right - 0.03
    assert smoothed_fractions.sub(1 / K).abs().max() < 0.05 > fractions.sub(1 / K).abs().max()
    assert wrong_fractions[[5, 7]].min() > 0.15
    # Class weights and smoothing in the same way.
    weight = AFFECTNET.sum() / (K * AFFECTNET)
    weighted, _ = scores(lambda z: expression_loss(z, labels, weight=weight, label_smoothing=0.1))
    assert weighted > right - 0.01


def test_smoothing_of_a_weak_correction_lies_between(rng):
    """With tau 0 the smoothing is uniform, with tau 1 it follows the prior."""
    logits, labels, _ = faces(20, rng)
    prior = AFFECTNET.double() / AFFECTNET.sum()
    for tau in (0.0, 0.4, 1.0):
        spread = prior**tau / (prior**tau).sum()
        target = 0.7 * F.one_hot(labels, K).double() + 0.3 * spread
        ours = expression_loss(
            logits,
            labels,
            kind="logit_adjusted",
            class_counts=AFFECTNET,
            label_smoothing=0.3,
            logit_tau=tau,
        )
        expected = F.cross_entropy(logits + tau * prior.log(), target)
        assert ours.item() == pytest.approx(expected.item(), abs=1e-12)


def test_soft_labels_equal_pytorch_and_default_to_the_label(rng):
    logits, labels, votes = faces(40, rng)
    ours = expression_loss(logits, labels, votes, label_smoothing=0.2)
    theirs = F.cross_entropy(logits, votes, label_smoothing=0.2)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)

    votes[::2] = NAN
    mixed = torch.where(votes.isnan(), F.one_hot(labels, K).double(), votes)
    ours = expression_loss(logits, labels, votes)
    assert ours.item() == pytest.approx(F.cross_entropy(logits, mixed).item(), abs=1e-12)


def test_votes_label_a_row_without_a_class(rng):
    logits, labels, votes = faces(10, rng)
    ours = expression_loss(logits, torch.full_like(labels, -1), votes)
    assert ours.item() == pytest.approx(F.cross_entropy(logits, votes).item(), abs=1e-12)


def test_logit_adjustment_adds_the_log_prior(rng):
    logits, labels, _ = faces(30, rng)
    counts = torch.tensor([100, 50, 20, 10, 5, 2, 1, 0]).double()
    ours = expression_loss(
        logits, labels, kind="logit_adjusted", class_counts=counts, logit_tau=1.5
    ).item()
    floored = np.maximum(counts.numpy(), 1)
    scores = logits.numpy() + 1.5 * np.log(floored / floored.sum())
    chosen = scores[np.arange(30), labels.numpy()]
    expected = np.mean(np.log(np.exp(scores).sum(axis=1)) - chosen)
    assert ours == pytest.approx(expected, abs=1e-10)


def test_logit_adjustment_of_balanced_classes_changes_nothing(rng):
    logits, labels, _ = faces(30, rng)
    ours = expression_loss(
        logits, labels, kind="logit_adjusted", class_counts=torch.full((K,), 9.0)
    )
    assert ours.item() == pytest.approx(expression_loss(logits, labels).item(), abs=1e-12)


def test_logit_adjustment_needs_the_counts(rng):
    logits, labels, _ = faces(2, rng)
    with pytest.raises(ValueError, match="class_counts"):
        expression_loss(logits, labels, kind="logit_adjusted")


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
def test_focal_equals_its_formula(gamma, rng):
    logits, labels, _ = faces(30, rng)
    p = logits.softmax(1).numpy()[np.arange(30), labels.numpy()]
    expected = np.mean(-((1 - p) ** gamma) * np.log(p))
    ours = expression_loss(logits, labels, kind="focal", focal_gamma=gamma).item()
    assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_at_certainty(gamma):
    logits = torch.zeros(2, K)
    logits[0, 3], logits[1, 0] = 200.0, -200.0
    logits.requires_grad_()
    expression_loss(logits, torch.tensor([3, 0]), kind="focal", focal_gamma=gamma).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["cross_entropy", "logit_adjusted", "focal"])
def test_expression_gradients_equal_finite_differences(kind, rng):
    logits, labels, votes = faces(6, rng)
    labels[1], votes[:3] = -1, NAN
    counts = torch.arange(1.0, K + 1)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: expression_loss(
            z, labels, votes, kind=kind, class_counts=counts, label_smoothing=0.1
        ),
        logits,
    )


def test_classes_of_weight_zero_give_zero_not_nan(rng):
    logits, labels, _ = faces(4, rng)
    logits.requires_grad_()
    loss = expression_loss(logits, torch.zeros_like(labels), weight=torch.zeros(K))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


# --- all three -----------------------------------------------------------------------------------


def batch_of(labels, valence, arousal, votes=None):
    votes = torch.full((len(labels), K), NAN) if votes is None else votes
    return {"expression": labels, "valence": valence, "arousal": arousal, "soft": votes}


def outputs(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, K, generator=rng, requires_grad=True)
    valence, arousal = ((torch.rand(n, generator=rng) * 2 - 1).requires_grad_() for _ in range(2))
    return AffectOutput(logits, valence, arousal)


VARIANTS = [
    {},
    {"kind": "focal", "va_loss": "ccc"},
    {"kind": "logit_adjusted", "class_counts": torch.ones(K), "va_loss": "mse"},
    {"va_loss": "none"},
    {"soft": True, "log_variances": torch.zeros(3)},
]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("n", [1, 5])
def test_a_batch_without_labels_gives_exactly_zero(options, n):
    output = outputs(n)
    missing = torch.full((n,), NAN)
    losses = affect_loss(output, batch_of(torch.full((n,), -1), missing, missing), **options)
    losses["loss"].backward()
    assert {name: loss.item() for name, loss in losses.items()} == {
        "loss": 0,
        "expression": 0,
        "valence": 0,
        "arousal": 0,
    }
    for tensor in output:
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))


def test_total_is_the_weighted_sum():
    output = outputs(6)
    batch = batch_of(
        torch.tensor([0, 1, 2, 3, 4, -1]),
        torch.linspace(-0.5, 0.5, 6),
        torch.linspace(0.7, -0.2, 6),
    )
    losses = affect_loss(output, batch, va_weight=0.3)
    by_hand = {
        "expression": expression_loss(output.logits, batch["expression"]),
        "valence": ccc_loss(output.valence, batch["valence"])
        + mse_loss(output.valence, batch["valence"]),
        "arousal": ccc_loss(output.arousal, batch["arousal"])
        + mse_loss(output.arousal, batch["arousal"]),
    }
    for name, loss in by_hand.items():
        assert losses[name].item() == loss.item()
    total = by_hand["expression"] + 0.3 * (by_hand["valence"] + by_hand["arousal"])
    assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-6)


def test_learned_weights_follow_kendall_and_do_not_change_without_labels():
    output = outputs(4)
    s = torch.tensor([0.4, -0.3, 0.9], requires_grad=True)
    missing = torch.full((4,), NAN)
    batch = batch_of(torch.tensor([0, 1, 2, 3]), torch.tensor([0.1, 0.5, -0.2, 0.0]), missing)
    losses = affect_loss(output, batch, log_variances=s)
    e, v = losses["expression"].item(), losses["valence"].item()
    expected = math.exp(-0.4) * e + 0.2 + 0.5 * math.exp(0.3) * v - 0.15
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-6)
    losses["loss"].backward()
    assert s.grad[0].item() == pytest.approx(0.5 - math.exp(-0.4) * e, rel=1e-5)
    assert s.grad[1].item() == pytest.approx(0.5 - 0.5 * math.exp(0.3) * v, rel=1e-5)
    assert s.grad[2].item() == 0


wild = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=60, deadline=None)
@given(
    labels=arrays(np.int64, 7, elements=st.integers(-1, K - 1)),
    valence=arrays(np.float32, 7, elements=st.floats(-1, 1, width=32) | st.just(NAN)),
    arousal=arrays(np.float32, 7, elements=st.floats(-1, 1, width=32) | st.just(NAN)),
    garbage=arrays(np.float32, (7, K + 2), elements=wild),
    options=st.sampled_from(VARIANTS),
)
def test_predictions_of_unlabelled_rows_never_matter(labels, valence, arousal, garbage, options):
    """Any predictions in unlabelled rows, NaN included, change neither loss nor gradient."""
    labels, valence, arousal = map(torch.from_numpy, (labels, valence, arousal))
    garbage = torch.from_numpy(garbage)
    calm = outputs(7)
    unlabelled = {
        "logits": (labels < 0)[:, None],
        "valence": valence.isnan(),
        "arousal": arousal.isnan(),
    }
    noise = {"logits": garbage[:, :K], "valence": garbage[:, K], "arousal": garbage[:, K + 1]}
    loud = AffectOutput(
        *(
            torch.where(unlabelled[name], noise[name], getattr(calm, name).detach())
            .clone()
            .requires_grad_()
            for name in AffectOutput._fields
        )
    )
    batch = batch_of(labels, valence, arousal)
    quiet_losses, loud_losses = (affect_loss(o, batch, **options) for o in (calm, loud))
    quiet_losses["loss"].backward()
    loud_losses["loss"].backward()
    for name, loss in quiet_losses.items():
        assert loss.isfinite()
        assert loss.item() >= 0
        assert loud_losses[name].item() == loss.item()
    for name in AffectOutput._fields:
        slope = getattr(loud, name).grad
        assert torch.equal(slope, getattr(calm, name).grad)
        assert not slope[unlabelled[name].expand_as(slope)].any()


def test_shares_among_seven_classes():
    soft = torch.tensor([[0.5, 0, 0, 0, 0, 0, 0.25, 0.25], [0, 0, 0, 0, 0, 0, 0, 1], [NAN] * 8])
    seven = shares_among(soft, 7)
    assert seven[0].tolist() == pytest.approx([2 / 3, 0, 0, 0, 0, 0, 1 / 3])
    assert seven[1:].isnan().all()
    assert torch.equal(shares_among(soft, 8)[:2], soft[:2])


def test_seven_logits_are_trained_on_eight_shares():
    """Votes for contempt are ignored; a face with no other votes is trained on its label."""
    soft = torch.tensor([[0.5, 0, 0, 0, 0, 0, 0.25, 0.25], [0, 0, 0, 0, 0, 0, 0, 1.0]])
    logits = torch.randn(2, 7, dtype=torch.float64)
    missing = torch.full((2,), NAN)
    batch = {
        "expression": torch.tensor([0, 3]),
        "soft": soft,
        "valence": missing,
        "arousal": missing,
    }
    output = AffectOutput(logits, torch.zeros(2), torch.zeros(2))
    found = affect_loss(output, batch, soft=True)["expression"].item()
    log_p = logits.log_softmax(1)
    expected = -(2 / 3 * log_p[0, 0] + 1 / 3 * log_p[0, 6] + log_p[1, 3]) / 2
    assert found == pytest.approx(expected.item(), abs=1e-6)
