"""Tables as files: found, read, checked, written."""
