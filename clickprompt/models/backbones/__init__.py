"""Feature interaction layers (FI_Layer of Eq. 5) by name; backbone.py defines the interface."""

from clickprompt.errors import ConfigError
from clickprompt.models.backbones.autoint import AutoInt
from clickprompt.models.backbones.backbone import Backbone
from clickprompt.models.backbones.dcn import DCN
from clickprompt.models.backbones.dcnv2 import DCNv2
from clickprompt.models.backbones.deepfm import DeepFM
from clickprompt.models.backbones.dnn import DNN
from clickprompt.models.backbones.fgcnn import FGCNN
from clickprompt.models.backbones.fignn import FiGNN
from clickprompt.models.backbones.fm import FM
from clickprompt.models.backbones.ipnn import IPNN
from clickprompt.models.backbones.xdeepfm import XDeepFM

__all__ = ["BACKBONES", "Backbone", "get_backbone"]

BACKBONES: dict[str, type[Backbone]] = {
    "autoint": AutoInt,
    "dcn": DCN,
    "dcnv2": DCNv2,
    "deepfm": DeepFM,
    "dnn": DNN,
    "fgcnn": FGCNN,
    "fignn": FiGNN,
    "fm": FM,
    "ipnn": IPNN,
    "xdeepfm": XDeepFM,
}


def get_backbone(name: str) -> type[Backbone]:
    """Return the backbone's class. Raises ConfigError for an unknown name."""
    if name not in BACKBONES:
        raise ConfigError(f"ctr.backbone={name!r}: no such backbone; known: {', '.join(sorted(BACKBONES))}")
    return BACKBONES[name]
