"""Every exception class of the package; all but TrainingError mean wrong input."""


class InputError(ValueError):
    """Something given to the program is wrong; one sentence that names it and the mend."""


class ConfigError(InputError):
    """A setting that cannot work; the message names the field and the mend."""


class DataError(InputError):
    """Data that cannot be used; one sentence that names the file and the mend."""


class ParamsError(InputError):
    """Parameters that do not fit a module; the message names every offender."""


class FormatError(ParamsError):
    """Tensors that are no weights known here, or of an architecture that this project has not."""


class SourceError(ParamsError):
    """A file or folder that cannot be read as weights; one sentence that names it and the mend."""


class ConvertError(ParamsError):
    """Sources that make no file together; one sentence that names them and the mend."""


class BundleError(InputError):
    """A model file that cannot be used; one sentence that names it and the mend."""


class TextError(InputError):
    """A tokenizer that is not CLIP's, or does not go with its tower; one sentence."""


class PthError(InputError):
    """A file that is no readable checkpoint, or wants more than tensors; one sentence with the mend."""


class FetchError(InputError):
    """Weights that cannot be found or fetched; one sentence that says how to get them otherwise."""


class WriteError(InputError):
    """A file that cannot be written; one sentence that names it."""


class CheckpointError(InputError):
    """A checkpoint that cannot be used here; the message says which and why."""


class TrainingError(RuntimeError):
    """The training cannot go on; the message says why and what is kept."""


class DumpError(InputError):
    """A dump that cannot be read; one sentence that names the file and the mend."""


class GoldensError(InputError):
    """A folder or file of goldens that cannot be read; one sentence that names it."""
