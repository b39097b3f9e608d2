"""Named errors. Each message is one line that says what is wrong, where, and how to mend it."""


class HumanprefError(Exception):
    """Base of every error a user can mend; the command line prints it as one line and exits with status 1."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class UnknownNameError(HumanprefError):
    """A scorer, architecture or option value that does not exist; the message lists the valid ones."""


class ImageError(HumanprefError):
    """An image that cannot be read: missing, empty, truncated, not an image, or too large to decode safely."""


class DataError(HumanprefError):
    """Preference data that is not what its format says."""


class WeightsError(HumanprefError):
    """A checkpoint that cannot be used: damaged, unsafe, or of another architecture."""


class DownloadError(HumanprefError):
    """Weights that are not here and cannot be fetched."""


class ScoreError(HumanprefError):
    """A call whose images and prompts cannot be scored together, or a score that is not a number."""


class CacheError(HumanprefError):
    """A score cache that cannot be used: damaged, of another version, or no score cache at all."""


class MissingExtraError(HumanprefError):
    """A part of the package that needs an extra which is not installed."""


class TrainingError(HumanprefError):
    """A training run that cannot start, go on or be resumed; what was saved before stays as it is."""


def reason_of(error: BaseException, longest: int = 160) -> str:
    """The first line of another library's error, for an error of ours of one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:longest]
