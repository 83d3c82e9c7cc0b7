"""Errors of the classifier name Python's arguments; the command line prints its flags instead."""

import ast
import inspect
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer.main

import torchbce.classifier
from torchbce.classifier import (
    InputError,
    Overrides,
    TrainingOptions,
    check_output,
    export,
    files,
    fit,
    load,
    read,
    save,
)
from torchbce.classifier.errors import Argument, Row, rows_offset
from torchbce.cli.app import app
from torchbce.cli.errors import OTHER_FLAGS, flag

SOURCES = sorted(Path(torchbce.classifier.__file__).parent.rglob("*.py"))

#: What the commands call.
CALLED: dict[str, list[Callable[..., Any]]] = {
    "fit": [fit, TrainingOptions, Overrides, check_output, save, read],
    "predict": [load, files.predict_file, files.predict_text],
    "evaluate": [load, files.evaluate_file, files.evaluate_predictions],
    "export": [load, export],
}

#: Arguments that are positional on the command line, or that its user does not give.
WITHOUT_FLAG = {
    *("table", "path", "directory of load"),
    *("classifier", "overrides", "options", "progress", "on_choice", "on_names", "on_base_rate"),
}

#: Arguments of the estimator, which has no command, and of `fit_labels`, whose flag is its own.
OF_OTHERS = {"groups", "times", "labels"}

PARAMETERS = [
    (command, name)
    for command, functions in CALLED.items()
    for function in functions
    for name in inspect.signature(function).parameters
    if name not in WITHOUT_FLAG and f"{name} of {function.__name__}" not in WITHOUT_FLAG
]


def flags_of(command: str) -> set[str]:
    group: Any = typer.main.get_command(app)
    return {name for parameter in group.commands[command].params for name in parameter.opts}


# ------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(("command", "name"), PARAMETERS, ids=lambda value: str(value))
def test_every_argument_has_a_flag_of_the_command_that_passes_it(command: str, name: str) -> None:
    assert flag(Argument(name)) in flags_of(command)


def test_no_flag_is_told_of_that_is_not_there() -> None:
    assert OTHER_FLAGS.keys() <= {name for _, name in PARAMETERS}


def arguments_in(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Argument":
            if isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)
            else:  # by a variable, which must go over names of arguments
                assert source.stem in {"options", "inference", "target"} or (
                    source.parent.name == "estimator"
                )


def test_every_argument_in_a_message_is_one_of_a_public_function() -> None:
    named = {name for source in SOURCES for name in arguments_in(source)}
    assert {"overwrite", "positive", "learning_rate", "text"} <= named
    assert named <= {name for _, name in PARAMETERS} | OF_OTHERS


def test_the_library_names_no_flag() -> None:
    # What is exported says how to use it on the command line, or how it was made there.
    for source in (source for source in SOURCES if "exports" not in source.parts):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"(^|[\s'\"`(])--[a-z]", node.value), (source, node.value)


def test_an_argument_and_its_flag() -> None:
    cases = {
        Argument("pos_weight"): ("pos_weight", "--pos-weight"),
        Argument("overwrite", True): ("overwrite=True", "--overwrite"),
        Argument("positive", "not spam"): ("positive='not spam'", "--positive 'not spam'"),
        Argument("positive", ""): ("positive=''", "--positive ''"),
        Argument("positive", None): ("positive=None", "--positive None"),
        Argument("directory"): ("directory", "--output"),
    }
    for argument, (in_python, in_a_shell) in cases.items():
        error = InputError("pass ", argument, ".")
        assert str(error) == f"pass {in_python}."
        assert error.message(flag) == f"pass {in_a_shell}."


def test_options_and_overrides_name_their_own_arguments() -> None:
    wrong: dict[str, Any] = {"epochs": 0, "batch_size": 0, "learning_rate": 0, "weight_decay": -1}
    wrong |= {"patience": 0, "pos_weight": 0, "seed": -1}
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"^{name} must be ") as caught:
            TrainingOptions(**{name: value})
        assert caught.value.args[0] == Argument(name)
    table = pl.DataFrame({"a": [1], "y": [1]})
    with pytest.raises(InputError) as caught:
        Overrides(text=["a"], drop=["a"]).kinds(table, "y")
    assert {Argument("text"), Argument("drop")} <= set(caught.value.args)


# -------------------------------------------------------------------------------------------- rows


def test_rows_are_counted_from_one_and_from_the_start_of_the_table() -> None:
    with pytest.raises(InputError, match=r"^row 3 and row 1$"):
        raise InputError(Row(2), " and ", Row(0))
    twice = pytest.raises(InputError, match=r"^row 113 and row 111; row 1$")
    with twice, rows_offset(100), rows_offset(10):
        raise InputError(Row(2), " and ", Row(0), "; row 1")


def test_other_errors_are_left_alone() -> None:
    error = ValueError(Row(0))
    with pytest.raises(ValueError, match=r"^row 1$"), rows_offset(10):
        raise error
    assert error.args == (Row(0),)


def test_no_public_function_takes_the_number_of_a_row() -> None:
    for source in SOURCES:
        assert "first_row" not in source.read_text(encoding="utf-8"), source


def test_an_error_survives_a_process_boundary() -> None:
    error = InputError("pass ", Argument("overwrite", True), " or drop ", Row(4))
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "pass overwrite=True or drop row 5"
    assert again.message(flag) == "pass --overwrite or drop row 5"
