"""Pipelines of rows: sources, and the steps shuffle, batch, map, repeat, skip, take, project, rename, zip."""

from graphopt.dataset.pipeline import Dataset, zip
from graphopt.dataset.sources import (
    GeneratorDataset,
    NumpySlicesDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetSampler,
)

__all__ = [
    "Dataset",
    "GeneratorDataset",
    "NumpySlicesDataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "SubsetSampler",
    "zip",
]
