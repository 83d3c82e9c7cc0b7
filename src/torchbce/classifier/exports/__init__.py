"""A classifier in other formats, for those who serve predictions without PyTorch.

writing.py      which format is written by what, and the file
combination.py  how the logits of the models become one, for every format
patterns.py     regular expressions of numbers and dates
numpy_file.py   one Python file, whose code is in standalone/
sql.py          a SELECT
onnx_graph.py   an ONNX graph
model_card.py   a README.md with the metadata that the Hugging Face Hub reads
"""
