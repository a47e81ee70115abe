/* The device above the kernels: messages, plans, the front they describe, and the session that
 * trains it. */
#ifndef SEAM_FRONT_H
#define SEAM_FRONT_H

#include "seam.h"

/* ---- Messages (SPEC.md) ---- */
typedef enum {
    SEAM_HELLO = 1,
    SEAM_WELCOME,
    SEAM_PLAN,
    SEAM_WEIGHTS,
    SEAM_READY,
    SEAM_STEP,
    SEAM_ACT,
    SEAM_GRAD,
    SEAM_WEIGHTS_GET,
    SEAM_EVAL,
    SEAM_RESULT,
    SEAM_PROBE,
    SEAM_PROBE_ECHO,
    SEAM_STATS,
    SEAM_ERROR,
    SEAM_BYE,
    SEAM_PING,
    SEAM_PONG
} seam_kind;

enum {
    SEAM_FLAG_WEIGHTS = 1,
    SEAM_FLAG_LAST = 2,
    SEAM_FLAG_LOCAL = 4,
    SEAM_FLAG_PERSONAL = 8,
    SEAM_FLAG_FROZEN = 16,
    SEAM_FLAG_KEEP = 32, /* the program's: what the front is after this request must outlive it */
    SEAM_FLAG_EXIT = 64, /* answer what the exit is sure of, send the activations of the rest */
    SEAM_FLAG_MOMENTUM = 128 /* not the parameters but their momentum */
};

typedef struct {
    uint8_t kind;
    uint16_t flags;
    uint32_t session, round, step, body_size;
    const uint8_t *body;
} seam_message;

/* Writes the 24 bytes in front of a body. */
void seam_message_header(uint8_t *out, const seam_message *message);
/* Reads and checks a whole message: magic, version, and that the body is as long as it says. */
SEAM_MUST_USE int seam_message_parse(seam_message *message, const uint8_t *bytes, size_t size);

/* ---- Plans (SPEC.md) ---- */
#define SEAM_PLAN_HEADER 48u
#define SEAM_PLAN_TENSOR 20u
#define SEAM_PLAN_LAYER 48u
#define SEAM_PLAN_NONE 0xFFFFFFFFu

typedef enum {
    SEAM_LAYER_CONV2D = 1,
    SEAM_LAYER_DEPTHWISE,
    SEAM_LAYER_DENSE,
    SEAM_LAYER_RELU,
    SEAM_LAYER_MAX_POOL,
    SEAM_LAYER_AVERAGE_POOL,
    SEAM_LAYER_ADD,
    SEAM_LAYER_GROUP_NORM,
    SEAM_LAYER_FLATTEN
} seam_layer_kind;

#define SEAM_LAYER_AGAIN 1u /* flag of a layer */

typedef enum { SEAM_DTYPE_F32 = 0, SEAM_DTYPE_Q8 = 1 } seam_dtype;
/* flags of a q8 plan: nothing is kept for a backward pass; weights have no velocity, or one in
 * float32 */
#define SEAM_PLAN_INFERENCE 1u
#define SEAM_PLAN_NO_MOMENTUM 2u
#define SEAM_PLAN_FLOAT_MOMENTUM 4u
typedef enum { SEAM_MOMENTUM_NONE = 0, SEAM_MOMENTUM_INT8, SEAM_MOMENTUM_FLOAT } seam_momentum;

typedef struct {
    const uint8_t *bytes;               /* stays with the caller for as long as the plan is used */
    uint8_t dtype, inference, momentum; /* momentum: seam_momentum of a q8 plan that trains */
    uint16_t layers, tensors, batch, output;
    uint16_t seam;       /* layers, and tensor, in front of the exit; `layers`: there is none */
    uint32_t parameters; /* f32: floats; q8: bytes of what is learned (SPEC.md) */
    uint32_t front_parameters; /* those in front of the exit's */
    uint32_t arena_size, scratch_offset, scratch_size;
    uint32_t blob_size;     /* q8: bytes of all parameters */
    uint32_t velocity_size; /* q8: bytes of what keeps its momentum */
    uint32_t answer_offset; /* q8 that trains: where a session puts its answers */
} seam_plan;

typedef struct {
    uint16_t h, w, c;
    uint32_t value_offset, gradient_offset, values; /* values: of one sample */
} seam_tensor;

typedef struct {
    uint8_t kind, has_bias;
    uint8_t again; /* its output is not kept: it is made once more before the backward pass */
    uint16_t input, second, output, groups;
    uint32_t parameter_offset, parameter_count, saved_offset;
    float constant;     /* ceiling of an activation, epsilon of a norm */
    seam_window window; /* batch is the plan's largest */
} seam_layer;

/* Checks everything a plan from outside can get wrong, once; what follows trusts it. */
SEAM_MUST_USE int seam_plan_open(seam_plan *plan, const uint8_t *bytes, size_t size);
void seam_plan_tensor(seam_tensor *tensor, const seam_plan *plan, uint32_t index);
void seam_plan_layer(seam_layer *layer, const seam_plan *plan, uint32_t index);
/* Bytes of scratch this layer needs at the plan's largest batch. */
size_t seam_layer_scratch(const seam_layer *layer);
/* Going backward, is layer `index` the first to reach the gradient of `tensor`? */
int seam_plan_last_reader(const seam_plan *plan, uint32_t tensor, uint32_t index);
/* The first of the layers that go forward once more right before `index` goes backward; `index`
 * itself: none. */
uint32_t seam_plan_again_from(const seam_plan *plan, uint32_t index);
/* The next multiple of the alignment of every array in an arena. */
static inline uint64_t seam_round16(uint64_t size) {
    return (size + 15u) & ~(uint64_t)15u;
}

/* ---- The front in int8 (front_q8*.c). Its parameters are one blob of bytes: what is learned, then
 * scales and the integers made of them (SPEC.md). ---- */

/* Bytes of the blob, and of everything at the start of the arena: blob, velocities, state. */
uint64_t seam_q8_blob_size(const seam_plan *plan);
uint64_t seam_q8_base(const seam_plan *plan);
/* What a session keeps in the arena of a front that trains, where nothing lives meanwhile: bytes of
 * its longest answer with an activation (at the plan's answer_offset) and of that with all that is
 * learned (right behind the base), and where the samples of a batch lie as they come, in f32; 0:
 * there is no room for them. */
typedef struct {
    uint64_t answer, weights, samples_at;
} seam_q8_room;
seam_q8_room seam_q8_session_room(const seam_plan *plan);
/* Scratch bytes of a layer, forward and backward, in front of its int32 sums; and of these sums as
 * a whole, and of the least piece they can be made in. */
typedef struct {
    uint64_t fixed, sums, piece;
} seam_q8_layer_needs;
/* joining: another layer reads an input too. The window's batch is the largest. */
seam_q8_layer_needs seam_q8_layer_scratch(const seam_layer *layer, int joining, int inference);
/* What it uses in this plan: its sums whole if they fit. UINT64_MAX: not even the least fits. */
uint64_t seam_q8_plan_scratch(const seam_plan *plan, const seam_layer *layer);

typedef struct {
    seam_plan plan;
    uint8_t *arena, *blob;
    /* int8: like the learned part of the blob; float: of each layer a float for each weight, then
     * an i32 for each bias, without gaps. NULL: none */
    int8_t *velocity;
    int32_t *velocity_exponents; /* [layers] */
    uint32_t *fixed;             /* [layers], offset of a layer's numbers in the blob */
    int32_t *gradient_exponents; /* [tensors] */
    int8_t *extremes;            /* [tensors][2], least and largest value seen in training */
    float *row;                  /* [2][classes], for the loss */
    int32_t batch;               /* as in seam_front */
} seam_q8_front;

SEAM_MUST_USE int seam_q8_front_init(seam_q8_front *front, const seam_plan *plan, void *arena,
                                     size_t arena_size);
/* Checks a blob and takes it; the velocities stay. ARGUMENT, LIMIT, SHAPE: what is wrong. */
SEAM_MUST_USE int seam_q8_front_set(seam_q8_front *front, const uint8_t *blob, size_t size);
int8_t *seam_q8_front_input(const seam_q8_front *front);
/* Where forward leaves a tensor, and where its gradient goes before backward. */
int8_t *seam_q8_front_value(const seam_q8_front *front, uint32_t tensor);
int8_t *seam_q8_front_gradient(const seam_q8_front *front, uint32_t tensor);
/* Scale and zero point of a tensor. */
float seam_q8_front_scale(int32_t *zero, const seam_q8_front *front, uint32_t tensor);
/* x: [n][h][w][c], quantised to the input tensor (halves away from zero). */
SEAM_MUST_USE int seam_q8_front_quantise(const seam_q8_front *front, const float *x, int32_t n);
/* As seam_front_forward. note: widen `extremes`. */
void seam_q8_front_forward(seam_q8_front *front, int32_t n, uint32_t first, uint32_t end, int note);
/* Gradients and update of layers 0 to end - 1 in one: from the gradient of tensor `end`, whose
 * exponent is given. seed: of this step. */
typedef struct {
    float rate, momentum, decay; /* momentum in [0, 1) */
    uint32_t seed;
    int mode; /* seam_rounding */
} seam_q8_step;
void seam_q8_front_backward(seam_q8_front *front, uint32_t end, int32_t exponent,
                            const seam_q8_step *step);
/* As seam_front_loss; gives the exponent of the output gradient. */
SEAM_MUST_USE int seam_q8_front_loss(seam_q8_front *front, float *loss_sum, uint32_t *correct,
                                     int32_t *exponent, const int32_t *labels,
                                     const seam_q8_step *step);

/* As seam_exit_answer, of a sample of the last forward, in a plan that trains. */
int32_t seam_q8_exit_answer(const seam_q8_front *front, uint32_t sample, float inverse, float most);

/* ---- The front: one plan in one arena (16-aligned, plan->arena_size bytes) ---- */
typedef struct {
    seam_plan plan;
    uint8_t *arena;
    float *parameters, *momentum, *gradients; /* [plan.parameters] each */
    int32_t batch; /* samples of the last forward; 0 once backward has used its memory */
} seam_front;

/* Zeroes parameters and momentum. */
SEAM_MUST_USE int seam_front_init(seam_front *front, const seam_plan *plan, void *arena,
                                  size_t arena_size);
/* Where the caller puts the input [n][h][w][c], n <= plan.batch. */
float *seam_front_input(const seam_front *front);
/* Where forward leaves a tensor, and where its gradient goes before backward. */
float *seam_front_value(const seam_front *front, uint32_t tensor);
float *seam_front_gradient(const seam_front *front, uint32_t tensor);
/* Layers `first` to end - 1: 0 to plan.layers, all; to plan.seam, without the exit; from there, the
 * exit of the last n samples. */
void seam_front_forward(seam_front *front, int32_t n, uint32_t first, uint32_t end);
/* Fills `gradients` of layers 0 to end - 1 from the gradient of tensor `end`. */
void seam_front_backward(seam_front *front, uint32_t end);
/* One layer of them, for who looks at each: forward with `batch` set; back as `backward` goes, last
 * layer first, from gradients of 0. */
void seam_front_layer(const seam_front *front, uint32_t index);
void seam_front_layer_back(const seam_front *front, uint32_t index);
/* The parameters of layers 0 to end - 1; end: plan.seam or plan.layers. */
void seam_front_update(seam_front *front, uint32_t end, float rate, float momentum, float decay);
/* Softmax cross-entropy on the output (classes = its values): sum of losses and number right; the
 * output gradient becomes that of the mean. SEAM_E_DATA if a label is no class, NOT_FINITE if the
 * loss is not. */
SEAM_MUST_USE int seam_front_loss(seam_front *front, float *loss_sum, uint32_t *correct,
                                  const int32_t *labels);

/* ---- An exit (exit.c) ---- */

/* What a row of logits says if it is sure: the class, if the entropy (nats) of softmax(logits *
 * inverse) is at most `most`; else -1. inverse: 1 / temperature. */
int32_t seam_exit_answer(const float *logits, int32_t classes, float inverse, float most);

/* ---- The session: the device's side of the conversation. Bytes in, an action out. ---- */
typedef struct {
    const uint8_t *id; /* UTF-8 */
    uint8_t id_size;
    uint8_t boot_id[8];
    uint32_t ram, flash; /* bytes; 0: not said */
    uint32_t training_samples, test_samples;
    uint32_t saved_round;
    uint8_t has_checkpoint;
    float least, most; /* of the training samples: the scale of an int8 front's input */
} seam_device_facts;

typedef enum {
    SEAM_DO_NOTHING = 0,
    SEAM_DO_SEND,   /* answer, answer_size */
    SEAM_DO_MEMORY, /* give need_bytes by seam_session_memory */
    SEAM_DO_TRAIN,  /* put batch number need_first (plan batch samples) in place, then
                       seam_session_batch */
    SEAM_DO_TEST,   /* put need_count test samples from need_first in place, then seam_session_batch
                     */
    SEAM_DO_END,    /* the host said BYE */
    SEAM_DO_FAIL    /* the host sent an ERROR: failed_code, failed_text */
} seam_action;

typedef struct {
    seam_device_facts facts;
    uint8_t state;
    uint32_t number; /* of the session, given by WELCOME */
    /* from PLAN */
    uint32_t seed, plan_size;
    uint16_t batch;
    uint8_t codec_up, rounding;
    uint8_t
        q8; /* 0: the front computes in f32; else 1 + how int8 training rounds (seam_rounding) */
    float momentum, decay;
    seam_front front;
    seam_q8_front q8_front; /* the one of both that the plan is for */
    float *inputs;          /* [batch][h][w][c]: where the caller puts the samples */
    int32_t *labels;        /* [batch], written by the caller with the input */
    /* the request in work, or answered last */
    uint8_t kind, answered, act_open; /* answered: `out` keeps the answer */
    uint16_t flags;
    uint32_t round, step, trained_round;
    uint32_t act_step; /* whose gradient is awaited; gradients before it are old */
    uint8_t has_trained;
    float rate, loss_sum;
    uint32_t next_batch, local_left, local_done; /* whole steps on the device alone */
    float exit_inverse, exit_most;               /* of the evaluation in work, by the exit */
    /* for the caller */
    uint8_t *answer;
    uint32_t answer_size;
    uint64_t need_bytes;
    uint32_t need_first, need_count;
    uint16_t failed_code;
    uint16_t failed_size;
    const uint8_t *failed_text; /* inside the message given last */
    /* memory */
    const uint8_t *pending_plan; /* inside the message given last, until seam_session_memory */
    uint32_t front_plan_size;    /* of the plan whose front is in memory; 0: none */
    uint8_t front_q8;            /* is that an int8 front? */
    uint8_t *out, *all, *kept;   /* for answers; for one with all weights; the one given last */
    uint32_t out_space, all_space;
    uint8_t small[SEAM_MESSAGE_HEADER + 8u + SEAM_TEXT_MAX];
} seam_session;

void seam_session_init(seam_session *s, const seam_device_facts *facts);
/* Forget the peer (not the front) and put a HELLO into answer. */
void seam_session_hello(seam_session *s);
/* A seam_action, or a negative status for bytes that are no message for us (drop them). */
SEAM_MUST_USE int seam_session_receive(seam_session *s, const uint8_t *bytes, size_t size);
/* The memory asked for (16-aligned), or NULL: there is none, which the host is told. */
SEAM_MUST_USE int seam_session_memory(seam_session *s, void *memory);
/* Instead, where the caller still has the memory given last and it is large enough: go on with the
 * front in it, trained as it is, which READY says. SEAM_E_STATE: it is of another plan, or was
 * never trained, or is not finite; seam_session_memory is still due. */
SEAM_MUST_USE int seam_session_go_on(seam_session *s);
/* No momentum, as at the start. */
void seam_session_forget_momentum(seam_session *s);
typedef struct {
    void *at;
    uint32_t size;
} seam_part;

/* What a front that was kept is known by, and what of it has to be kept: an int8 front gets its
 * parameters from the host. Valid while its memory is. */
enum { SEAM_KEPT_SEED, SEAM_KEPT_PLAN, SEAM_KEPT_MOMENTUM, SEAM_KEPT_REST, SEAM_KEPT_PARTS };
void seam_session_kept(seam_session *s, seam_part parts[SEAM_KEPT_PARTS]);
/* The batch asked for is in place. */
SEAM_MUST_USE int seam_session_batch(seam_session *s);
/* Tell the host that the data cannot be used; a status in, an action out. */
SEAM_MUST_USE int seam_session_refuse(seam_session *s, int status);

#endif
