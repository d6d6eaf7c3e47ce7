// WIDEST_VECTORS: of a function with loops, compiled for several vector lengths; the library takes what the processor has.

#pragma once

// By what a processor can do, not by its name: "arch=haswell" would be chosen on that very one, and on no AMD.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define WIDEST_VECTORS __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define WIDEST_VECTORS __attribute__((target_clones("default", "avx2", "avx512f")))
#endif
#else
#define WIDEST_VECTORS
#endif
