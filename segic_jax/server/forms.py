"""Read the fields of a form."""

from starlette.datastructures import FormData, UploadFile

from segic_jax.errors import InputError


def files(form: FormData, name: str) -> list[UploadFile]:
    """Return the files of a field.

    Raises:
        InputError: something in it is no file.
    """
    values = form.getlist(name)
    if not all(isinstance(value, UploadFile) for value in values):
        raise InputError(f"The field {name} takes files, with their names.")
    return [value for value in values if isinstance(value, UploadFile)]


def texts(form: FormData, name: str) -> list[str]:
    """Return the values of a field that is no file."""
    values = form.getlist(name)
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"The field {name} takes text, not files.")
    return [str(value) for value in values]


def text(form: FormData, name: str) -> str:
    """Return the value of a field that is given once at most; empty if it is missing.

    Raises:
        InputError: it is given several times.
    """
    values = texts(form, name)
    if len(values) > 1:
        raise InputError(f"The field {name} is given {len(values)} times: give it once.")
    return values[0] if values else ""


def flag(value: str) -> bool:
    """Return whether a negative is meant.

    Raises:
        InputError: the value is neither true nor false.
    """
    if value.lower() not in ("true", "false", "1", "0"):
        raise InputError(f"negative is true or false, not {value[:40]!r}.")
    return value.lower() in ("true", "1")
