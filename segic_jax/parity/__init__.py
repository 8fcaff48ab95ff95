"""Compare this project with the official PyTorch code, number by number: `segic parity`.

`goldens` replays stored arrays of the official code through `replays/`; `report` compares a dump of
tools/dump_torch.py stage by stage and writes a page.
"""
