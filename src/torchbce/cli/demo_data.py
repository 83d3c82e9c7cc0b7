"""The tables of `torchbce demo`: the breast cancer data of scikit-learn, split in two."""

from pathlib import Path

import polars as pl
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from torchbce.classifier.errors import file_error


def write(directory: Path) -> tuple[str, str]:
    """Write train.csv and test.csv, with a quarter of the rows in test.csv.

    Returns:
        The paths of the two files.

    Raises:
        InputError: if they cannot be written.
    """
    data = load_breast_cancer()
    names = [name.replace(" ", "_") for name in data.feature_names]
    table = pl.DataFrame(data.data, schema=names)
    diagnosis = [str(data.target_names[value]) for value in data.target]
    table = table.with_columns(pl.Series("diagnosis", diagnosis))
    train, test = train_test_split(
        range(len(table)), test_size=0.25, stratify=data.target, random_state=0
    )
    paths = directory / "train.csv", directory / "test.csv"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        table[train].write_csv(paths[0])
        table[test].write_csv(paths[1])
    except OSError as error:
        raise file_error("write", directory, error) from error
    return str(paths[0]), str(paths[1])
