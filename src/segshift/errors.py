"""The error a user can mend: it names the file or argument, what was found, what was expected, and the cure."""


class SegshiftError(Exception):
    """Wrong input, not a wrong program; the command line prints its text without a traceback."""


class DataError(SegshiftError):
    """A file or folder of images or labels cannot be used."""


class ConfigError(SegshiftError):
    """An option has a value that makes no sense."""


class RunError(SegshiftError):
    """A run folder or checkpoint is missing, damaged or from another recipe."""


class TrainingError(SegshiftError):
    """Training cannot go on: a loss or a weight is no longer a finite number."""


class StoppedError(SegshiftError):
    """The user or the system asked the run to stop; it has saved itself and can be resumed."""
