"""Summaries by TextRank: the sentences that resemble many others which themselves resemble many others.

After R. Mihalcea and P. Tarau, 'TextRank: Bringing Order into Texts' (2004): PageRank on a graph whose nodes are the
sentences, with the cosine of two sentences' word vectors as the weight of the edge between them.
"""

import numpy as np
from numpy.typing import NDArray
from sentences import shorten_to, split, words

DAMPING = 0.85
TOLERANCE = 1e-8
MAX_ROUNDS = 100


def summarize(text: str) -> list[str]:
    """Return the sentences that TextRank ranks highest, in their original order."""
    sentences = split(text)
    ranks = rank([words(sentence) for sentence in sentences])
    # Rounded, so that of two equal sentences the first wins, and not the one with the kinder rounding error.
    best = np.argsort(-ranks.round(9), kind="stable")[: shorten_to(len(sentences))]
    return [sentences[i] for i in sorted(best)]


def rank(tokens: list[list[str]]) -> NDArray[np.float64]:
    """Return the PageRank of each sentence; the ranks sum to 1.

    The matrix of similarities S is never made: with the word vectors as the rows of a sparse X, S is X times its
    transpose less the diagonal, and S v takes two passes over the words. So time and memory grow with the length of a
    text, not with its square.
    """
    size = len(tokens)
    if size == 0:
        return np.zeros(0)
    numbers: dict[str, int] = {}
    cells = [
        (place, numbers.setdefault(word, len(numbers)))
        for place, sentence in enumerate(tokens)
        for word in dict.fromkeys(sentence)
    ]
    row, column = np.array(cells, dtype=np.intp).reshape(-1, 2).T
    # Each different word counts once, so a vector's length is the root of their number, and the diagonal is 1.
    lengths = np.bincount(row, minlength=size)
    value = 1.0 / np.sqrt(lengths[row])
    diagonal = (lengths > 0).astype(np.float64)

    def similar(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        by_word = _sums(column, value * vector[row], len(numbers))
        return _sums(row, value * by_word[column], size) - diagonal * vector

    degree = similar(np.ones(size))
    linked = degree > 1e-9
    share = np.divide(1.0, degree, out=np.zeros(size), where=linked)
    ranks = np.full(size, 1.0 / size)
    for _ in range(MAX_ROUNDS):
        # A sentence that shares no word with any other passes its rank on to all alike.
        spread = (1 - DAMPING + DAMPING * ranks[~linked].sum()) / size
        following = spread + DAMPING * similar(share * ranks)
        moved = np.abs(following - ranks).sum()
        ranks = following
        if moved < TOLERANCE:
            break
    return ranks


def _sums(places: NDArray[np.intp], weights: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(places, weights, size), dtype=np.float64)
