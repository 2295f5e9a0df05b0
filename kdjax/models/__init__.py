"""Networks from width vectors, and the student ensemble built of them."""

from kdjax.models.architecture import Architecture, Network, Outputs
from kdjax.models.ensemble import (
    IndependentNetworks,
    StudentEnsemble,
    extract_student,
    student_vectors,
)
from kdjax.models.importing import import_torch, read_tensors
from kdjax.models.initialize import initialize
from kdjax.models.registry import create, names, register
from kdjax.models.student_names import student_name

__all__ = [
    "Architecture",
    "IndependentNetworks",
    "Network",
    "Outputs",
    "StudentEnsemble",
    "create",
    "extract_student",
    "import_torch",
    "initialize",
    "names",
    "read_tensors",
    "register",
    "student_name",
    "student_vectors",
]
