"""One file per command of `illume-fast`: its options as a dataclass, and one function that does it.

Heavy imports happen inside the functions, so that help and argument errors come at once.
"""
