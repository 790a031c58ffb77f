"""The Fréchet distance between two sets of pictures, by the features of a classifier.  Heusel et al. 2017."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from qkv.errors import BadData


class FeatureStatistics(NamedTuple):
    """The mean and the covariance of the features of a set of pictures.

    Args:
        mean: [M].
        covariance: [M,M].
    """

    mean: Float[np.ndarray, " M"]
    covariance: Float[np.ndarray, "M M"]


def measure_features(features: Float[np.ndarray, "N M"]) -> FeatureStatistics:
    """The statistics of features, in float64.

    Args:
        features: [N,M], a row for every picture.

    Raises:
        BadData: there are fewer than two pictures.
    """
    if len(features) < 2:
        raise BadData(f"a Fréchet distance needs two pictures or more on each side, got {len(features)}")
    values = features.astype(np.float64)
    return FeatureStatistics(values.mean(0), np.atleast_2d(np.cov(values, rowvar=False)))


def compute_frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|μ_a - μ_b|² + Tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½), the distance of two normal distributions.

    The trace of the root is the sum of the roots of the eigenvalues of Σ_a^½ Σ_b Σ_a^½, which is symmetric.

    Args:
        a: the statistics of one set.
        b: the statistics of the other.

    Returns:
        The distance; 0 for equal statistics.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(((a.mean - b.mean) ** 2).sum() + traces - 2 * trace_of_root)


def compare_features(a: Float[np.ndarray, "N M"], b: Float[np.ndarray, "N2 M"]) -> float:
    """The Fréchet distance of two sets of features.

    Args:
        a: [N,M], a row for every picture of one set.
        b: the same of the other set.

    Raises:
        BadData: a set has fewer than two pictures.
    """
    return compute_frechet_distance(measure_features(a), measure_features(b))
