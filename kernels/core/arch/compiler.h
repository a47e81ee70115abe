/* Which vector variants this compiler makes, and what they ask of it: loops that unroll, and
 * functions for a processor that can do more than the rest of the program asks for. GCC and Clang
 * say both in their own ways. */
#ifndef SEAM_ARCH_COMPILER_H
#define SEAM_ARCH_COMPILER_H

/* Machines whose vector variants are compiled in; a processor is asked whether it has them. 32-bit
 * Arm is not one: its NEON flushes denormals, so floats stay with VFP. */
#if defined(__GNUC__) && defined(__x86_64__)
#define SEAM_X86
#elif defined(__GNUC__) && defined(__AARCH64EL__)
#define SEAM_NEON
/* An older Clang has the instructions only where the whole program is for processors with them. */
#if !defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_DOTPROD)
#define SEAM_NEON_DOTPROD
#endif
#endif

#define SEAM_PRAGMA(text) _Pragma(#text)

/* A target holds from here to SEAM_TARGET_END; the compiler's own headers come before it. Clang has
 * no say in how wide the vectors of plain loops are. */
#if defined(__clang__)
#define SEAM_TARGET(what) \
    SEAM_PRAGMA(clang attribute push(__attribute__((target(what))), apply_to = function))
#define SEAM_TARGET_END SEAM_PRAGMA(clang attribute pop)
#define SEAM_TARGET_VNNI SEAM_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")
#define SEAM_TARGET_DOTPROD SEAM_TARGET("dotprod")
#define SEAM_UNROLL SEAM_PRAGMA(unroll 24)
#else
#define SEAM_TARGET(what) SEAM_PRAGMA(GCC target(what))
#define SEAM_TARGET_END
#define SEAM_TARGET_VNNI \
    SEAM_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,prefer-vector-width=512")
#define SEAM_TARGET_DOTPROD SEAM_TARGET("arch=armv8.2-a+dotprod")
#define SEAM_UNROLL SEAM_PRAGMA(GCC unroll 24)
#endif
#define SEAM_TARGET_AVX2 SEAM_TARGET("avx2,fma")

#define EACH(i, n) SEAM_UNROLL for (int i = 0; i < (n); i++)

#endif
