"""What a person takes away from results: tables and figures."""

from kdjax.report.figures import write
from kdjax.report.table import print_evaluation, print_table

__all__ = ["print_evaluation", "print_table", "write"]
