"""The sentences that CLIP's text tower reads (segic.py:299-313)."""

INSTANCES = "please segment the instances"  # for every concept that is an instance, and in videos
NONE = ""  # no name is given


def class_prompt(name: str) -> str:
    """The prompt of a class; without a name it is the empty one."""
    return f"a photo of a {name}" if name else NONE
