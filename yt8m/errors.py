"""The one error type that a user's mistake or damaged data raises; commands print it as a single line."""


class YT8MError(ValueError):
    """Something outside the code is wrong: an argument, a config key, a file.

    The message is one line: what is wrong, where (`file @ byte offset`, or the config key), what was
    expected, what was found, and what to do.
    """


class DataError(YT8MError):
    """A shard or a record is damaged or does not fit the configuration."""
