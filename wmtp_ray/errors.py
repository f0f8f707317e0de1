"""The errors a user can cause, one class per place to look.

Every message says what was found, what was expected and what to do. What exit code an error ends a command with is
said in `cli/ends.py`. Our own invariants are asserts, never these.
"""


class WmtpError(Exception):
    """Base of everything a user can mend."""


class ConfigError(WmtpError):
    """The configuration contradicts itself or its schema."""


class PlanError(WmtpError):
    """The configuration and the data cannot make a run together."""


class DataError(WmtpError):
    """A data file or its index is missing, stale or malformed."""


class ArtifactError(WmtpError):
    """A model, tokenizer, checkpoint or snapshot is missing, torn or does not fit."""


class TrainingError(WmtpError):
    """A run cannot go on: a loss that is no number, a wait past its deadline."""


class TrackingError(WmtpError):
    """MLflow went away in the middle, or does not take what it lacks."""


class Failed(WmtpError):
    """What had begun could not be finished; what it saved stays, and the message says how to go on."""


class Interrupted(Exception):
    """A run or sweep was asked to stop; it has checkpointed, or says which checkpoint it continues from."""


class SandboxError(WmtpError):
    """The judge cannot give the isolation that was required."""
