"""Facial expression, valence and arousal by transfer learning on AffectNet."""

from affectnet.lazy import lazy_names
from affectnet.version import __version__ as __version__

TYPE_CHECKING = False  # as in `affectnet.lazy`
if TYPE_CHECKING:
    from affectnet import figures as figures
    from affectnet import report as report
    from affectnet.inference.predictor import Predictor as Predictor
    from affectnet.inference.predictor import load as load
    from affectnet.inference.predictor import predict as predict
    from affectnet.inference.results import FaceResult as FaceResult
    from affectnet.inference.results import PictureResult as PictureResult
    from affectnet.inference.results import Results as Results
else:
    __getattr__, __dir__ = lazy_names(__name__, __file__)
