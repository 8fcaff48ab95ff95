"""Speed and memory, measured; not part of the installed package."""
