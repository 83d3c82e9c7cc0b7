"""The code of an exported Python file, which needs NumPy alone.

`exports.numpy_file` writes these files one after the other, in this order, and the model's data
after them; so they import nothing of the package but each other.

    cells.py    the values of a column as numbers, dates and categories
    words.py    the features of a text
    models.py   the logits of each model
    main.py     rows in, probabilities out, and the command line
"""
