"""Settings of the whole suite."""

from hypothesis import settings

# A loaded machine is slow and not wrong: no example fails for the time it took.
settings.register_profile("torchbce", deadline=None)
settings.load_profile("torchbce")
