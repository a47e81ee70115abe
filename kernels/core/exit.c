/* Early exit: is an exit sure enough of its answer? (BranchyNet, arXiv:1709.01686) */
#include "seam_front.h"
#include "seam_math.h"

int32_t seam_exit_answer(const float *logits, int32_t classes, float inverse, float most) {
    int32_t best = 0;
    for (int32_t k = 1; k < classes; k++)
        if (logits[k] > logits[best])
            best = k;
    float sum = 0.0f, weighed = 0.0f;
    for (int32_t k = 0; k < classes; k++) {
        const float z = (logits[k] - logits[best]) * inverse, e = seam_exp(z);
        sum += e;
        weighed += e * z;
    }
    return seam_log(sum) - weighed / sum <= most ? best : -1; /* false for NaN: not sure */
}
