"""What weighs most in a classifier, as plain records."""

import msgspec


class Word(msgspec.Struct, frozen=True):
    """The weight of a word or an n-gram of a text column.

    Attributes:
        column: the text column.
        text: the word, pair of words, symbol or piece of a word.
        unit: the n-grams that it belongs to, as "words" or "characters".
        log_odds: what it adds to the logit, per unit of its TF-IDF value. The values of the n-grams
            of one unit in a text have an L2 norm of 1, so that one word of many adds a part of it.
    """

    column: str
    text: str
    unit: str
    log_odds: float


class Category(msgspec.Struct, frozen=True):
    """The weight of a category.

    Attributes:
        column: the categorical column.
        value: the category; "missing" where there is no value.
        log_odds: what it adds to the logit.
    """

    column: str
    value: str
    log_odds: float


class Curve(msgspec.Struct, frozen=True):
    """What a number adds to the logit, over its bins.

    Attributes:
        column: the numeric column, or a part of a date, as "day, month".
        bins: the bins from low to high, as "12 to 40", and "missing" if training rows had missing
            values. For a number without bins its mean, and one standard deviation below and above.
        log_odds: what a value in each bin adds to the logit: the weight of the bin, and the slope
            of the number at the middle of the bin; in the first and last bin at their one edge.
    """

    column: str
    bins: list[str]
    log_odds: list[float]


class PairTable(msgspec.Struct, frozen=True):
    """What a pair of columns adds to the logit, beside what each of them adds by itself.

    Attributes:
        first: the column whose groups are the rows of the table.
        second: the column whose groups are its columns.
        rows: the groups of the first column: ranges of a number, or categories.
        columns: the groups of the second column.
        log_odds: what each cell adds to the logit, by row; None where it had too few rows to learn
            from, and adds nothing.
    """

    first: str
    second: str
    rows: list[str]
    columns: list[str]
    log_odds: list[list[float | None]]


class Explanation(msgspec.Struct, frozen=True):
    """What weighs most in a classifier, as `Classifier.explain` returns it.

    Words, categories, curves and pairs are those of the linear and the pairs model together, each
    with its weight in the combined logit. They say nothing about trees and networks, of which
    `models` has the share, and `trees` the columns.

    Attributes:
        base: the logit of the base rate.
        models: for each model its share of the answer: the standard deviation of its weighted
            logits over the rows held out, divided by the sum of those of all models.
        words: words and n-grams, of the largest absolute weight first.
        categories: categories, of the largest absolute weight first.
        curves: numbers, of the largest difference between two bins first.
        pairs: pairs of columns, of the largest absolute weight of a cell first.
        trees: for each column its share of the trees: the sum over its splits of the squared
            differences between the mean of the split rows and those of the two sides, in log-odds
            and per training row, divided by that of all columns.

    Example:
        >>> import polars as pl
        >>> from torchbce.classifier import TrainingOptions, fit
        >>> rows = {"place": ["north", "south", "east"] * 40, "late": [1, 0, 0] * 40}
        >>> classifier = fit(pl.DataFrame(rows), "late", options=TrainingOptions(model="linear"))
        >>> explanation = classifier.explain()
        >>> explanation.categories[0].value
        'north'
        >>> explanation.categories[0].log_odds > 0, explanation.models
        (True, {'linear': 1.0})
    """

    base: float
    models: dict[str, float]
    words: list[Word]
    categories: list[Category]
    curves: list[Curve]
    pairs: list[PairTable]
    trees: dict[str, float]
