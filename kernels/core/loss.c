/* Softmax cross-entropy and its gradient, with the core's own exp and log. */
#include "seam.h"
#include "seam_math.h"

void seam_f32_softmax_cross_entropy(float *loss, float *dlogits, const float *logits,
                                    const int32_t *labels, int32_t n, int32_t classes,
                                    float scale) {
    for (int32_t i = 0; i < n; i++, logits += classes, dlogits += classes) {
        float top = logits[0];
        for (int32_t c = 1; c < classes; c++)
            top = logits[c] > top ? logits[c] : top;
        float sum = 0.0f;
        for (int32_t c = 0; c < classes; c++) {
            dlogits[c] = seam_exp(logits[c] - top);
            sum += dlogits[c];
        }
        loss[i] = seam_log(sum) - (logits[labels[i]] - top);
        for (int32_t c = 0; c < classes; c++) {
            float p = dlogits[c] / sum;
            dlogits[c] = (c == labels[i] ? p - 1.0f : p) * scale;
        }
    }
}
