"""Which valley did the run end in, how flat is it, and who else is there? Similarity, barriers, flatness, surveys."""

from thalweg.landscape.barriers import Barrier, barrier
from thalweg.landscape.flatness import Flatness, flatness, select_parameters
from thalweg.landscape.similarity import Predictions, agreement, jaccard, jaccard_matrix, predict
from thalweg.landscape.survey_result import Survey
from thalweg.landscape.surveying import survey, valley_labels

__all__ = [
    "Barrier",
    "Flatness",
    "Predictions",
    "Survey",
    "agreement",
    "barrier",
    "flatness",
    "jaccard",
    "jaccard_matrix",
    "predict",
    "select_parameters",
    "survey",
    "valley_labels",
]
