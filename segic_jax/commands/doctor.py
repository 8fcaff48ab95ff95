"""`segic doctor`: what is here, and what to expect of it."""

from dataclasses import dataclass


@dataclass
class Doctor:
    """Versions, devices, weights and caches, and what will be fast or slow here and why.

    segic doctor
    """

    def run(self) -> int:
        """Print the report; it goes into a bug report as it is."""
        from segic_jax.commands.doctor_checks import report

        print(report())
        return 0
