/* Which variant of the micro-kernels is in use; chosen by name or by what this processor can do. */
#include "arch/arch.h"

#if defined(SEAM_NEON) && defined(__linux__)
#include <sys/auxv.h>
#endif

/* The only variable of the core: set when a program starts, never while kernels run. */
static const seam_kernels *chosen = &seam_kernels_generic;

static int anywhere(void) {
    return 1;
}

#if defined(SEAM_X86)
static int has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int has_vnni(void) {
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}
#elif defined(SEAM_NEON_DOTPROD)
static int has_dotprod(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__ARM_FEATURE_DOTPROD)
    return 1;
#else
    return 0;
#endif
}
#endif

/* The variants this was compiled for, slowest first, and whether they run here. */
static const struct {
    const seam_kernels *kernels;
    int (*runs)(void);
} known[] = {
    {&seam_kernels_generic, anywhere},
#if defined(SEAM_X86)
    {&seam_kernels_avx2, has_avx2},
    {&seam_kernels_vnni, has_vnni},
#elif defined(SEAM_NEON)
    {&seam_kernels_neon, anywhere},
#if defined(SEAM_NEON_DOTPROD)
    {&seam_kernels_neon_dotprod, has_dotprod},
#endif
#endif
};

#define KNOWN (int)(sizeof known / sizeof known[0])

static int same_text(const char *a, const char *b) {
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

/* The best variant that runs here, or the one with that name; NULL if it is not here. */
static const seam_kernels *find(const char *name) {
    for (int i = KNOWN - 1; i >= 0; i--)
        if ((name == NULL || same_text(known[i].kernels->name, name)) && known[i].runs())
            return known[i].kernels;
    return NULL;
}

const char *seam_kernels_name(int index) {
    return index >= 0 && index < KNOWN ? known[index].kernels->name : NULL;
}

const seam_kernels *seam_kernels_now(void) {
    return chosen;
}

const char *seam_kernels_variant(void) {
    return chosen->name;
}

uint64_t seam_kernels_peak(float *result, uint32_t rounds) {
    *result = chosen->peak(rounds);
    return (uint64_t)rounds * SEAM_PEAK_VECTORS * (uint64_t)chosen->lanes;
}

uint64_t seam_q8_peak(int32_t *result, uint32_t rounds) {
    const seam_q8_kernels *q8 = chosen->q8->peak != NULL ? chosen->q8 : &seam_q8_kernels_generic;
    *result = q8->peak(rounds);
    return (uint64_t)rounds * SEAM_PEAK_VECTORS * (uint64_t)q8->peak_products;
}

int seam_kernels_choose(const char *name) {
    const seam_kernels *found = find(name);
    if (found == NULL)
        return SEAM_E_ARGUMENT;
    chosen = found;
    return SEAM_OK;
}
