"""Summaries by maximal marginal relevance: sentences that are on the subject, and that do not repeat each other.

After J. Carbonell and J. Goldstein, 'The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing
Summaries' (1998). The query is the whole text; words are weighted by tf-idf.
"""

import numpy as np
from numpy.typing import NDArray
from sentences import shorten_to, split, words

# How much being on the subject counts against being unlike what is chosen already.
RELEVANCE = 0.6


def summarize(text: str) -> list[str]:
    """Return sentences that together cover the text with little repetition, in their original order."""
    sentences = split(text)
    chosen = choose([words(sentence) for sentence in sentences], shorten_to(len(sentences)))
    return [sentences[i] for i in sorted(chosen)]


def choose(tokens: list[list[str]], count: int) -> list[int]:
    """Return the places of so many sentences, in the order in which they were chosen."""
    size = len(tokens)
    if size == 0:
        return []
    row, column, value, width = vectors(tokens)

    def similarity(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return _sums(row, value * vector[column], size)

    whole = _sums(column, value, width)
    relevance = similarity(whole / (np.linalg.norm(whole) or 1.0))
    repetition = np.zeros(size)
    chosen: list[int] = []
    for _ in range(min(count, size)):
        gain = RELEVANCE * relevance - (1 - RELEVANCE) * repetition
        gain[chosen] = -np.inf
        # Rounded, so that of two equal sentences the first wins, and not the one with the kinder rounding error.
        best = int(np.argmax(gain.round(9)))
        chosen.append(best)
        own = row == best
        repetition = np.maximum(repetition, similarity(_sums(column[own], value[own], width)))
    return chosen


def vectors(
    tokens: list[list[str]],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64], int]:
    """Return the sentences' tf-idf vectors of length 1 as a sparse matrix: rows, columns, values, and its width."""
    numbers: dict[str, int] = {}
    rows = np.repeat(np.arange(len(tokens)), [len(sentence) for sentence in tokens])
    flat = np.array([numbers.setdefault(word, len(numbers)) for sentence in tokens for word in sentence], dtype=np.intp)
    width = max(1, len(numbers))
    cells, counts = np.unique(rows * width + flat, return_counts=True)
    row, column = np.divmod(cells, width)
    sentences_with = np.bincount(column, minlength=width)
    value = counts * np.log1p(len(tokens) / np.maximum(1, sentences_with))[column]
    lengths = np.sqrt(_sums(row, value * value, len(tokens)))
    return row, column, value / lengths[row], width


def _sums(places: NDArray[np.intp], weights: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(places, weights, size), dtype=np.float64)
