/* An image that computes the int8 layers of a file: for each the CRC of its bytes and the
 * instructions it took. layers.py writes the file and says what is in it. */
#include "board.h"
#include "seam.h"
#include "tell.h"

enum { CONV2D, DEPTHWISE, AVERAGE_POOL, MAX_POOL, ADD, SOFTMAX, REQUANTISE };

typedef struct {
    int32_t bytes, kind; /* of the whole record, arrays included */
    seam_window window;
    int32_t groups, x_zero, y_zero, y_min, y_max, scales, has_bias;
    seam_q8_sum sum;
    int32_t unused; /* the arrays begin 16-aligned */
} record;

typedef struct {
    char *next;
    size_t left;
} memory;

static _Alignas(16) char arena[ARENA_BYTES] __attribute__((section(".noinit")));

static void *take(memory *from, size_t bytes) {
    const size_t whole = (bytes + 15) / 16 * 16;
    if (whole > from->left) {
        board_print("error: the layers do not fit into the arena\n");
        board_exit(1);
    }
    char *taken = from->next;
    from->next += whole;
    from->left -= whole;
    return taken;
}

static size_t in_values(const seam_window *p) {
    return (size_t)p->batch * (size_t)p->in_h * (size_t)p->in_w * (size_t)p->in_c;
}

static size_t out_values(const seam_window *p) {
    return (size_t)p->batch * (size_t)p->out_h * (size_t)p->out_w * (size_t)p->out_c;
}

typedef struct {
    const int8_t *x, *w, *other;
    const int32_t *bias;
    seam_q8_scaling how;
    void *packed, *scratch;
} operands;

/* Arrays follow the record: x; then weights, or the other input; bias; multipliers; shifts. */
static operands operands_of(const record *r, memory *free) {
    const seam_window *p = &r->window;
    memory file = {(char *)(uintptr_t)(r + 1), (size_t)r->bytes - sizeof *r};
    operands o = {.x = take(&file, in_values(p))};
    const size_t taps = (size_t)p->kernel_h * (size_t)p->kernel_w * (size_t)p->out_c;
    if (r->kind == CONV2D)
        o.w = take(&file, taps * (size_t)(p->in_c / r->groups));
    else if (r->kind == DEPTHWISE)
        o.w = take(&file, taps);
    else if (r->kind == ADD)
        o.other = take(&file, in_values(p));
    o.bias = r->has_bias ? take(&file, (size_t)p->out_c * sizeof *o.bias) : NULL;
    const int32_t *multiplier = take(&file, (size_t)r->scales * sizeof *multiplier);
    o.how = (seam_q8_scaling){multiplier, take(&file, (size_t)r->scales * sizeof *multiplier),
                              r->scales,  r->x_zero,
                              r->y_zero,  r->y_min,
                              r->y_max};
    if (r->kind == CONV2D) {
        const size_t packed = seam_q8_conv2d_packed_size(p, r->groups);
        o.packed = packed > 0 ? take(free, packed) : NULL;
        o.scratch = take(free, seam_q8_conv2d_scratch(p, r->groups));
        if (packed > 0)
            seam_q8_conv2d_pack(o.packed, o.w, p, r->groups);
    }
    return o;
}

static void compute(int8_t *y, const record *r, const operands *o) {
    const seam_window *p = &r->window;
    if (r->kind == CONV2D)
        seam_q8_conv2d(y, o->x, o->w, o->bias, &o->how, p, r->groups, o->packed, o->scratch);
    else if (r->kind == DEPTHWISE)
        seam_q8_depthwise(y, o->x, o->w, o->bias, &o->how, p);
    else if (r->kind == AVERAGE_POOL)
        seam_q8_average_pool2d(y, o->x, p, r->y_min, r->y_max);
    else if (r->kind == MAX_POOL)
        seam_q8_max_pool2d(y, o->x, p, r->y_min, r->y_max);
    else if (r->kind == ADD)
        seam_q8_add(y, o->x, o->other, &r->sum, in_values(p));
    else if (r->kind == SOFTMAX)
        seam_q8_softmax(y, o->x, (size_t)p->batch, p->in_c, *o->how.multiplier, *o->how.shift);
    else
        seam_q8_requantise(y, o->x, &o->how, in_values(p));
}

/* Empty, and never inlined: between them an emulator's counter counts. */
__attribute__((noinline)) void mark_begin(void);
__attribute__((noinline)) void mark_end(void);

void mark_begin(void) {
    __asm volatile("");
}

void mark_end(void) {
    __asm volatile("");
}

static void run(const record *r, memory free) {
    const operands o = operands_of(r, &free);
    const size_t size = out_values(&r->window);
    int8_t *y = take(&free, size);
    const uint32_t before = board_instructions();
    mark_begin();
    compute(y, r, &o);
    mark_end();
    const uint32_t after = board_instructions();
    tell_hex(seam_crc32(0, y, size));
    board_print(" ");
    tell_number(after - before);
    board_print("\n");
}

int main(void) {
    memory free = {arena, sizeof arena};
    char path[256];
    if (board_arguments(path, sizeof path) != 0)
        return 1;
    const intptr_t file = board_file_open(path);
    if (file < 0) {
        board_print("error: cannot read the layers\n");
        return 1;
    }
    const size_t size = board_file_read(file, arena, sizeof arena);
    const char *at = take(&free, size), *end = at + size;
    while (at < end) {
        const record *r = (const record *)(const void *)at;
        run(r, free);
        at += r->bytes;
    }
    return 0;
}
