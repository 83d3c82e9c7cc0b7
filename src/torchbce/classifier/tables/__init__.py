"""Tables as files: read, checked, written."""
