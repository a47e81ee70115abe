/* On x86-64 the generic loops serve processors without AVX2, of before 2013: there size counts, not
 * speed, and a compiler at -O3 makes ten times as much of them. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O2")
#endif
