"""Loads a trained student from its workdir, classifies images with it, and exports it."""

from kdjax.deploy.export import check_export, export
from kdjax.deploy.images import find_images
from kdjax.deploy.predict import Predictions, predict
from kdjax.deploy.preprocess import Preprocess
from kdjax.deploy.student import Student, load_student

__all__ = [
    "Predictions",
    "Preprocess",
    "Student",
    "check_export",
    "export",
    "find_images",
    "load_student",
    "predict",
]
