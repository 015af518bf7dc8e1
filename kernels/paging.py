"""The page pool: C++ where the extension is there, else the same in Python."""

from illume_fast.kernels import native
from illume_fast.kernels.paging_reference import OutOfPages
from illume_fast.kernels.paging_reference import PagePool as _ReferencePool

PagePool = _ReferencePool if native.missing is not None else getattr(native._C, "PagePool", _ReferencePool)

__all__ = ["OutOfPages", "PagePool"]
