"""The page pool: C++ where the extension is there, else the same in Python."""

from typing import TYPE_CHECKING

from illume_fast.kernels import native
from illume_fast.kernels.paging_reference import OutOfPages, PagePool

if not TYPE_CHECKING and native.missing is None:
    PagePool = native._C.PagePool

__all__ = ["OutOfPages", "PagePool"]
