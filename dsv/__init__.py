"""Deep Support Vectors: the mathematics, on torch and numpy alone. This page is the whole public index."""

from dsv.anchors import Anchors, end_point_anchors, states_digest
from dsv.augmentation import Augmentation
from dsv.characteristics import class_accuracies, class_sums, confusion_counts, rank_correlation
from dsv.compute import PRECISIONS, Compute
from dsv.dead_leaves import DEAD_LEAVES, dead_leaves_start, draw_dead_leaves
from dsv.deepkkt import (
    DISTANCES,
    KktTerms,
    KktWeights,
    deepkkt_loss,
    image_norm,
    lagrangian_gradient,
    layer_cosine,
    mean_l1,
    prediction_entropy,
    primal_loss,
    project_dual,
    relative_l2,
    stationarity_loss,
    total_variation,
)
from dsv.derivatives import Batch
from dsv.device import checked_device
from dsv.ensemble import Ensemble, estimated_counts
from dsv.errors import DsvError
from dsv.evaluation import accuracy, predict, share_correct
from dsv.fits import check_fits
from dsv.frames import Frames
from dsv.kkt_gradient import Candidates, KktGradient, kkt_gradient
from dsv.latents import blend, check_shares, edit, interpolate, mix
from dsv.measured import shows_photographs, usual_views
from dsv.models import NORMS, POOLINGS, ModelSpec, build_model
from dsv.parameters import chosen_parameters, start_training, train_only
from dsv.picture import folders_by_name, folders_in, picture_paths, read_picture, write_picture
from dsv.pixels import from_uint8, noise_pixels, normalise, to_uint8
from dsv.ranks import Ranks, ranks_of_torchrun
from dsv.rehearsal import Expert, consolidate, joint_task, of_shown_classes
from dsv.resume import Checkpointing
from dsv.scale_invariance import scale_invariant_parameters, steered_by_cosine
from dsv.selection import Selection, SelectionConfig, select
from dsv.sheet import sheet
from dsv.show import Picture, contact_sheet, ranked
from dsv.start import GIVEN_IMAGES, SHARED_NOISE, Start
from dsv.stationarity_engine import StationarityEngine
from dsv.support_set import Provenance, SupportSet, model_digest
from dsv.synthesis import Progress, synthesize
from dsv.synthesis_config import PRESETS, SynthesisConfig
from dsv.task import KNOWN_TASKS, Task
from dsv.training import NEWCOMER_STEPS, VIEW_STEPS, TrainingConfig, newcomer_training, train
from dsv.views import LEVELS, LabelledViews, Targets, ViewPlan, Views, label_views

__all__ = [
    "DEAD_LEAVES",
    "DISTANCES",
    "GIVEN_IMAGES",
    "KNOWN_TASKS",
    "LEVELS",
    "NEWCOMER_STEPS",
    "NORMS",
    "POOLINGS",
    "PRECISIONS",
    "PRESETS",
    "SHARED_NOISE",
    "VIEW_STEPS",
    "Anchors",
    "Augmentation",
    "Batch",
    "Candidates",
    "Checkpointing",
    "Compute",
    "DsvError",
    "Ensemble",
    "Expert",
    "Frames",
    "KktGradient",
    "KktTerms",
    "KktWeights",
    "LabelledViews",
    "ModelSpec",
    "Picture",
    "Progress",
    "Provenance",
    "Ranks",
    "Selection",
    "SelectionConfig",
    "Start",
    "StationarityEngine",
    "SupportSet",
    "SynthesisConfig",
    "Targets",
    "Task",
    "TrainingConfig",
    "ViewPlan",
    "Views",
    "accuracy",
    "blend",
    "build_model",
    "check_fits",
    "check_shares",
    "checked_device",
    "chosen_parameters",
    "class_accuracies",
    "class_sums",
    "confusion_counts",
    "consolidate",
    "contact_sheet",
    "dead_leaves_start",
    "deepkkt_loss",
    "draw_dead_leaves",
    "edit",
    "end_point_anchors",
    "estimated_counts",
    "folders_by_name",
    "folders_in",
    "from_uint8",
    "image_norm",
    "interpolate",
    "joint_task",
    "kkt_gradient",
    "label_views",
    "lagrangian_gradient",
    "layer_cosine",
    "mean_l1",
    "mix",
    "model_digest",
    "newcomer_training",
    "noise_pixels",
    "normalise",
    "of_shown_classes",
    "picture_paths",
    "predict",
    "prediction_entropy",
    "primal_loss",
    "project_dual",
    "rank_correlation",
    "ranked",
    "ranks_of_torchrun",
    "read_picture",
    "relative_l2",
    "scale_invariant_parameters",
    "select",
    "share_correct",
    "sheet",
    "shows_photographs",
    "start_training",
    "states_digest",
    "stationarity_loss",
    "steered_by_cosine",
    "synthesize",
    "to_uint8",
    "total_variation",
    "train",
    "train_only",
    "usual_views",
    "write_picture",
]
