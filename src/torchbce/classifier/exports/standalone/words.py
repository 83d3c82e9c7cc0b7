"""The features of a text: TF-IDF of words and of character n-grams, as scikit-learn has them."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

SEVERAL_SPACES = re.compile(r"\s\s+")
WORD = re.compile(r"\w+")


def grams_of(text: str, unit: str) -> list[str]:
    """The n-grams of a text: 1 or 2 words, 2 to 5 characters of a word, or 1 to 4 of the text."""
    text = text.lower()
    if unit == "words":
        words = WORD.findall(text)
        return words + [f"{first} {second}" for first, second in itertools.pairwise(words)]
    text = SEVERAL_SPACES.sub(" ", text)
    if unit == "characters across spaces":
        return [text[i : i + n] for n in range(1, 5) for i in range(len(text) - n + 1)]
    grams = []
    for word in text.split():
        padded = f" {word} "
        for n in range(2, 6):
            grams += [padded[i : i + n] for i in range(max(len(padded) - n + 1, 1))]
            if n >= len(padded):  # a short word counts once
                break
    return grams


def text_features(
    texts: Sequence[str], unit: str, vocabulary: dict[str, int], idf: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The row, the feature and the value of each n-gram: (1 + log(count)) idf, rows of norm 1."""
    places: list[int] = []
    found: list[int] = []
    counts: list[int] = []
    for place, text in enumerate(texts):
        known = (vocabulary[gram] for gram in grams_of(text, unit) if gram in vocabulary)
        for gram, count in sorted(Counter(known).items()):
            places.append(place)
            found.append(gram)
            counts.append(count)
    row, feature = np.array(places, dtype=np.int64), np.array(found, dtype=np.int64)
    # In float32, as scikit-learn does: trees compare what a model makes of these values.
    values = (np.log(np.array(counts, dtype=np.float32)) + np.float32(1)) * idf[feature]
    norms = np.sqrt(np.bincount(row, (values * values).astype(np.float64), len(texts)))
    return row, feature, (values / norms[row]).astype(np.float32)


class TextColumn:
    """A column of text, whose features follow one another, unit by unit."""

    def __init__(self, column: dict[str, Any], idf: np.ndarray) -> None:
        self.name = column["name"]
        self.units = []
        start = 0
        for unit in column["units"]:
            grams = unit["vocabulary"]
            places = {gram: place for place, gram in enumerate(grams)}
            self.units.append((unit["unit"], places, idf[start : start + len(grams)], start))
            start += len(grams)
        self.width = start

    def features(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The row, the feature and the value of each n-gram of some texts."""
        found = []
        for unit, places, idf, start in self.units:
            row, feature, value = text_features(texts, unit, places, idf)
            found.append((row, feature + start, value))
        row, feature, value = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return row, feature, value
