import torch
from hypothesis import given
from hypothesis import strategies as st

from affectnet.models.affect_model import AffectModel
from affectnet.report.model_figures import STEPS, affordable, seconds_per_face


@given(st.floats(1e-6, 100), st.floats(0.1, 60), st.integers(1, 5000))
def test_what_is_affordable_fits_and_is_as_much_as_fits(cost: float, seconds: float, most: int):
    n = affordable(cost, seconds, most)
    assert 1 <= n <= most
    assert n == 1 or n * cost <= seconds
    assert n == most or n in STEPS
    assert all(more * cost > seconds for more in STEPS if n < more <= most)


def test_timing_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = AffectModel("cvnet", image_size=48).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert seconds_per_face(model) > 0
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
