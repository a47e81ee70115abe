/* Which variant of the micro-kernels is in use; chosen by name or by what this processor can do. */
#include "arch/arch.h"

/* The only variable of the core: set when a program starts, never while kernels run. */
static const seam_kernels *chosen = &seam_kernels_generic;

static int has_name(const seam_kernels *kernels, const char *name) {
    const char *a = kernels->name;
    while (*a != '\0' && *a == *name) {
        a++;
        name++;
    }
    return *a == *name;
}

/* The best variant that runs here, or the one with that name; NULL if it is not here. */
static const seam_kernels *find(const char *name) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    if ((name == NULL || has_name(&seam_kernels_vnni, name)) &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return &seam_kernels_vnni;
    if ((name == NULL || has_name(&seam_kernels_avx2, name)) && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma"))
        return &seam_kernels_avx2;
#endif
    if (name == NULL || has_name(&seam_kernels_generic, name))
        return &seam_kernels_generic;
    return NULL;
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
