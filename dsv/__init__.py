"""Deep Support Vectors: the mathematics, on torch and numpy alone. This page is the whole public index."""

from dsv.augmentation import Augmentation
from dsv.deepkkt import (
    DISTANCES,
    KktTerms,
    KktWeights,
    deepkkt_loss,
    image_norm,
    lagrangian_gradient,
    layer_cosine,
    mean_l1,
    primal_loss,
    project_dual,
    relative_l2,
    stationarity_loss,
    total_variation,
)
from dsv.device import checked_device
from dsv.errors import DsvError
from dsv.evaluation import accuracy, predict
from dsv.models import NORMS, ModelSpec, build_model
from dsv.picture import picture_paths, read_picture, write_picture
from dsv.pixels import from_uint8, noise_pixels, normalise, to_uint8
from dsv.support_set import Provenance, SupportSet, model_digest
from dsv.synthesis import Start, SynthesisConfig, check_fits, synthesize
from dsv.task import KNOWN_TASKS, Task
from dsv.training import TrainingConfig, train

__all__ = [
    "DISTANCES",
    "KNOWN_TASKS",
    "NORMS",
    "Augmentation",
    "DsvError",
    "KktTerms",
    "KktWeights",
    "ModelSpec",
    "Provenance",
    "Start",
    "SupportSet",
    "SynthesisConfig",
    "Task",
    "TrainingConfig",
    "accuracy",
    "build_model",
    "check_fits",
    "checked_device",
    "deepkkt_loss",
    "from_uint8",
    "image_norm",
    "lagrangian_gradient",
    "layer_cosine",
    "mean_l1",
    "model_digest",
    "noise_pixels",
    "normalise",
    "picture_paths",
    "predict",
    "primal_loss",
    "project_dual",
    "read_picture",
    "relative_l2",
    "stationarity_loss",
    "synthesize",
    "to_uint8",
    "total_variation",
    "train",
    "write_picture",
]
