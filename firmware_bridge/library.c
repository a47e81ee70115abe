/* The few functions that the core and compilers call, so that an image needs no C library. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A plain loop would be compiled into a call of the function it is in. */
#define AS_WRITTEN __attribute__((optimize("no-tree-loop-distribute-patterns")))

AS_WRITTEN void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    char *t = to;
    const char *f = from;
    for (; size >= 4; size -= 4, t += 4, f += 4) {
        uint32_t word;
        __builtin_memcpy(&word, f, 4);
        __builtin_memcpy(t, &word, 4);
    }
    while (size-- > 0)
        *t++ = *f++;
    return to;
}

AS_WRITTEN void *memmove(void *to, const void *from, size_t size) {
    char *t = to;
    const char *f = from;
    if ((uintptr_t)t < (uintptr_t)f) {
        for (size_t i = 0; i < size; i++)
            t[i] = f[i];
    } else {
        while (size-- > 0)
            t[size] = f[size];
    }
    return to;
}

AS_WRITTEN void *memset(void *to, int value, size_t size) {
    char *t = to;
    const uint32_t word = (uint32_t)(unsigned char)value * 0x01010101u;
    for (; size >= 4; size -= 4, t += 4)
        __builtin_memcpy(t, &word, 4);
    while (size-- > 0)
        *t++ = (char)value;
    return to;
}

AS_WRITTEN int memcmp(const void *a, const void *b, size_t size) {
    const unsigned char *p = a, *q = b;
    for (size_t i = 0; i < size; i++)
        if (p[i] != q[i])
            return p[i] < q[i] ? -1 : 1;
    return 0;
}

int strcmp(const char *a, const char *b) {
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return (unsigned char)*a - (unsigned char)*b;
}

AS_WRITTEN size_t strlen(const char *text) {
    const char *end = text;
    while (*end != '\0')
        end++;
    return (size_t)(end - text);
}

#if !defined(__ARM_FP)
float fmaf(float a, float b, float c);

/* The product is exact in double; the sum is rounded to odd there, so that rounding it once more to
 * float is as good as rounding once (53 >= 2 * 24 + 2 bits). */
float fmaf(float a, float b, float c) {
    const double product = (double)a * b, sum = product + c;
    const double back = sum - product;
    const double lost = (product - (sum - back)) + (c - back);
    uint64_t bits;
    __builtin_memcpy(&bits, &sum, sizeof bits);
    if (lost == 0.0 || lost != lost || (bits & 1u) != 0)
        return (float)sum;
    bits += (lost > 0.0) == (sum > 0.0) ? 1u : (uint64_t)-1;
    double odd;
    __builtin_memcpy(&odd, &bits, sizeof odd);
    return (float)odd;
}

float sqrtf(float x);

/* Rounded to nearest: the root of mantissa * 2^k as an integer of 25 bits, the last of which, with
 * the rest, says where to round. A root is never a tie. */
float sqrtf(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    if (bits << 1 == 0 || x != x || bits == 0x7F800000u)
        return x; /* zeros, NaN, infinity */
    if (bits >> 31)
        return __builtin_nanf("");
    int32_t exponent = (int32_t)(bits >> 23);
    uint32_t mantissa = bits & 0x7FFFFFu;
    if (exponent == 0) {
        exponent = 1;
        while (mantissa < 0x800000u) {
            mantissa <<= 1;
            exponent--;
        }
    }
    mantissa |= 0x800000u;
    exponent -= 127; /* x = mantissa * 2^(exponent - 23) */
    uint64_t rest = (uint64_t)mantissa << (exponent & 1 ? 26 : 25);
    uint32_t root = 0;
    for (uint64_t bit = 1u << 24; bit > 0; bit >>= 1) {
        const uint64_t tried = (2 * (uint64_t)root + bit) * bit;
        if (tried <= rest) {
            rest -= tried;
            root += (uint32_t)bit;
        }
    }
    root = (root >> 1) + (root & 1u);
    bits = (uint32_t)((exponent - (exponent & 1)) / 2 + 126) << 23;
    bits += root; /* the leading bit counts the exponent up */
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}
#endif
