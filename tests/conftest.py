"""What holds for every test."""

from hypothesis import settings

# An example may take as long as it takes: a busy machine is no failure.
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")
