"""These files run in processes of their own, started by `tests/test_dropin_peers.py`."""

collect_ignore = ["dropin_plugin.py", "pytorch_losses.py"]
