"""Networks from width vectors, and the student ensemble built of them."""

from kdjax.models.architecture import Architecture, Network, Outputs
from kdjax.models.ensemble import (
    IndependentNetworks,
    StudentEnsemble,
    extract_student,
    student_vectors,
)
from kdjax.models.initialize import initialize
from kdjax.models.registry import create, names, register

__all__ = [
    "Architecture",
    "IndependentNetworks",
    "Network",
    "Outputs",
    "StudentEnsemble",
    "create",
    "extract_student",
    "initialize",
    "names",
    "register",
    "student_vectors",
]
