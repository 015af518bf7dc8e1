"""CPU kernels in C++ (csrc/cpu), vectorised for the instruction set found at run time."""
