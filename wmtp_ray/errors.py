"""The errors a user can cause, one class per place to look.

Every message says what was found, what was expected and what to do. `cli/ends.py` maps errors to exit codes. Our own
invariants are asserts, never these.
"""


class WmtpError(Exception):
    """Base of all errors that a user can fix."""


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


class EngineError(WmtpError):
    """A server that decodes does not answer any more, or refuses; finished answers are kept."""


class TrackingError(WmtpError):
    """MLflow stopped answering, or refuses the numbers that it lacks."""


class Failed(WmtpError):
    """Work that had begun could not finish; its saved files stay, and the message says how to continue."""


class Interrupted(Exception):
    """A run or sweep was asked to stop; it has checkpointed, or says which checkpoint it continues from."""


class SandboxError(WmtpError):
    """The judge cannot give the isolation that was required."""
