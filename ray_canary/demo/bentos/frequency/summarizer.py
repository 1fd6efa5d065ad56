"""Summaries by word frequency, after H. P. Luhn, 'The Automatic Creation of Literature Abstracts' (1958)."""

from collections import Counter

from sentences import shorten_to, split, words

# Two significant words belong to one cluster if at most so many others, stop words aside, stand between them.
GAP = 4


def summarize(text: str) -> list[str]:
    """Return the sentences in which the text's frequent words stand closest together, in their original order."""
    sentences = split(text)
    tokens = [words(sentence) for sentence in sentences]
    significant = frequent(tokens)
    scores = [score([word in significant for word in sentence]) for sentence in tokens]
    best = sorted(range(len(sentences)), key=lambda i: -scores[i])[: shorten_to(len(sentences))]
    return [sentences[i] for i in sorted(best)]


def frequent(tokens: list[list[str]]) -> set[str]:
    """Return the words that occur more than once, and about as often as the text's size leads one to expect."""
    counts = Counter(word for sentence in tokens for word in sentence)
    least = max(2, round(sum(counts.values()) / 200))
    return {word for word, count in counts.items() if count >= least}


def score(marks: list[bool]) -> float:
    """Return a sentence's score: of its best cluster, the significant words squared, by the cluster's length."""
    clusters: list[list[int]] = []
    for place, significant in enumerate(marks):
        if significant and clusters and place - clusters[-1][-1] <= GAP + 1:
            clusters[-1].append(place)
        elif significant:
            clusters.append([place])
    return max((len(cluster) ** 2 / (cluster[-1] - cluster[0] + 1) for cluster in clusters), default=0.0)
