"""What the notebooks print: tables, sentences that follow from numbers, pictures and the provenance box.

Everything depends on the results alone, with few digits: executing a notebook again gives the same text.
"""

from hglad.analysis.report.accuracy import (
    augmentation_table,
    gap_table,
    main_table,
    network_gaps,
    network_table,
    usual_rows,
)
from hglad.analysis.report.baselines import baseline_pictures, published_beside
from hglad.analysis.report.classes import by_method, class_numbers, worst_classes
from hglad.analysis.report.comparisons import (
    difference_table,
    differences,
    searches_against,
    verdict,
    verdicts,
)
from hglad.analysis.report.generators import prior_table, sweep_numbers
from hglad.analysis.report.objectives import objective_table, protocol_table
from hglad.analysis.report.origins import Provenance, provenance
from hglad.analysis.report.runs import (
    best_of_stages,
    boundary_table,
    distance_history,
    kept_table,
    last_of_stages,
    made_at,
)
from hglad.analysis.report.show import Downloads, Sentences, Table, noted, picture
from hglad.analysis.report.stages import (
    cost_table,
    generator_work,
    schedule_table,
    stage_plan,
    stage_table,
    stages_of,
    start_sentences,
)
from hglad.analysis.report.texts import NONE, signed

__all__ = [
    "Downloads",
    "NONE",
    "Provenance",
    "Sentences",
    "Table",
    "augmentation_table",
    "baseline_pictures",
    "best_of_stages",
    "boundary_table",
    "by_method",
    "class_numbers",
    "cost_table",
    "difference_table",
    "differences",
    "distance_history",
    "gap_table",
    "generator_work",
    "kept_table",
    "last_of_stages",
    "made_at",
    "main_table",
    "network_gaps",
    "network_table",
    "noted",
    "objective_table",
    "picture",
    "prior_table",
    "protocol_table",
    "provenance",
    "published_beside",
    "schedule_table",
    "searches_against",
    "signed",
    "stage_plan",
    "stage_table",
    "stages_of",
    "start_sentences",
    "sweep_numbers",
    "usual_rows",
    "verdict",
    "verdicts",
    "worst_classes",
]
