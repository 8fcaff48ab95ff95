"""Define every exception class of the package; an `InputError` means wrong input of the user."""

from collections.abc import Sequence


class InputError(ValueError):
    """Report wrong input in one sentence that names it and the fix."""


class ConfigError(InputError):
    """Report a setting that cannot work; the message names the field and the fix."""


class DataError(InputError):
    """Report data that cannot be used; the message names the file and the fix."""


class InputWarning(UserWarning):
    """Say what is doubtful about an input or the model; the message is a sentence that names the file."""


class RefusedFile(InputError):
    """Refuse a damaged or hostile file; the message continues a sentence that names the file."""


class ParamsError(InputError):
    """Report parameters that do not fit a module; the message names each of them."""


class FormatError(ParamsError):
    """Report tensors that are not weights of a known format or architecture."""


class MissingTensors(FormatError):
    """Report that tensors whose shapes give the sizes of a model are missing."""

    def __init__(self, message: str, names: Sequence[str]):
        super().__init__(message)
        self.names = tuple(names)  # official ones


class SourceError(ParamsError):
    """Report a file or folder that cannot be read as weights; the message names it and the fix."""


class ConvertError(ParamsError):
    """Report sources that cannot be joined into one file; the message names them and the fix."""


class BundleError(InputError):
    """Report a model file that cannot be used; the message names it and the fix."""


class TextError(InputError):
    """Report a tokenizer that is not CLIP's or does not belong to its text tower."""


class PthError(InputError):
    """Report a file that is no readable checkpoint or holds more than tensors; the message names the fix."""


class FetchError(InputError):
    """Report weights that cannot be found or downloaded; the message says how to get them another way."""


class WriteError(InputError):
    """Report a file that cannot be written; the message names it."""


class CheckpointError(InputError):
    """Report a checkpoint that cannot be used in this run; the message says which and why."""


class BusyError(RuntimeError):
    """Refuse a request for which a service has no room now; the message says to send it again."""


class TrainingError(RuntimeError):
    """Stop a training that cannot continue; the message says why and what is saved."""


class DumpError(InputError):
    """Report a dump that cannot be read; the message names the file and the fix."""


class GoldensError(InputError):
    """Report a folder or file of goldens that cannot be read; the message names it."""


class MissingArray(Exception):
    """Stop the replay of a file of goldens that lacks an input; the failed row has been added."""
