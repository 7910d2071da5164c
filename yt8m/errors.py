"""The error that a user's mistake raises; commands print it as a single line, without a traceback."""


class ConfigError(ValueError):
    """The configuration asks for something that cannot be.

    The message is one line: the config key, what was expected, what was found, and what to do.
    (Damaged data raises `yt8m.datamodules.tfrecord.DataError`, which is reported the same way.)
    """
