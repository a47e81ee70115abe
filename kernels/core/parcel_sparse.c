/* Parcels of a tenth of the values, in int8: the largest, or mostly those; the rest is 0. Places
 * ascend and are coded as by Elias and Fano: of each the low bits as they are, the high bits as the
 * distance to the one before, in ones and zeros. So their size depends on the count alone. */
#include "parcel_kinds.h"

#include <string.h>

#define SHARE 10u                 /* one value in so many is kept */
#define DROP 1677722u             /* randomised: of 2^24, how many of the largest give way */
#define DROP_STREAM 0x52544F50u   /* "RTOP": who of the largest gives way */
#define OTHERS_STREAM 0x4F544852u /* "OTHR": and to whom */

uint32_t seam_sparse_kept(uint32_t count) {
    return (count + SHARE - 1) / SHARE;
}

/* Low bits of a place: the most for which kept << bits <= count. */
static uint32_t low_bits(uint32_t count, uint32_t kept) {
    uint32_t bits = 0;
    while ((uint64_t)kept << (bits + 1) <= count)
        bits++;
    return bits;
}

static uint32_t high_size(uint32_t count, uint32_t kept) {
    return ((count - 1) >> low_bits(count, kept)) + kept; /* in bits */
}

size_t seam_sparse_size(uint32_t count, int with_places) {
    const uint32_t kept = seam_sparse_kept(count);
    if (!with_places)
        return kept;
    return ((size_t)high_size(count, kept) + 7) / 8 +
           ((size_t)kept * low_bits(count, kept) + 7) / 8 + kept;
}

/* ---- Places in bytes ---- */

typedef struct {
    const uint8_t *high, *low;
    uint32_t bits, count, kept, number,
        at; /* number: of the next place; at: bit of its high part */
} places;

static places places_of(const uint8_t *payload, uint32_t count) {
    places p = {.high = payload, .count = count, .kept = seam_sparse_kept(count)};
    p.bits = low_bits(count, p.kept);
    p.low = payload + ((size_t)high_size(count, p.kept) + 7) / 8;
    return p;
}

static uint32_t bit(const uint8_t *bytes, size_t at) {
    return (uint32_t)bytes[at / 8] >> (at % 8) & 1u;
}

static uint32_t low_part(const places *p, uint32_t number) {
    uint32_t low = 0;
    for (uint32_t b = 0; b < p->bits; b++)
        low |= bit(p->low, (size_t)number * p->bits + b) << b;
    return low;
}

/* The next place; the count if there is none. */
static uint32_t next_place(places *p) {
    const uint32_t end = high_size(p->count, p->kept);
    while (p->at < end && !bit(p->high, p->at))
        p->at++;
    if (p->at >= end || p->number >= p->kept)
        return p->count;
    const uint64_t place = (uint64_t)(p->at - p->number) << p->bits | low_part(p, p->number);
    p->at++;
    p->number++;
    return place < p->count ? (uint32_t)place : p->count;
}

static void put_place(uint8_t *payload, const places *p, uint32_t number, uint32_t place) {
    uint8_t *low = payload + (p->low - p->high);
    const uint32_t at = (place >> p->bits) + number;
    payload[at / 8] = (uint8_t)(payload[at / 8] | 1u << (at % 8));
    for (uint32_t b = 0; b < p->bits; b++) {
        const size_t to = (size_t)number * p->bits + b;
        low[to / 8] = (uint8_t)(low[to / 8] | (place >> b & 1u) << (to % 8));
    }
}

int seam_sparse_check(const seam_parcel *p) {
    if (p->codec == SEAM_CODEC_KEPT)
        return SEAM_OK;
    places all = places_of(p->payload, p->values);
    const uint32_t end = high_size(p->values, all.kept);
    const size_t low_end = (size_t)all.kept * all.bits;
    int64_t before = -1;
    for (uint32_t number = 0; number < all.kept; number++) {
        const uint32_t place = next_place(&all);
        if (place >= p->values || (int64_t)place <= before)
            return SEAM_E_ARGUMENT;
        before = place;
    }
    while (all.at % 8 != 0 || all.at < end) /* one too many, or bits behind the last */
        if (bit(all.high, all.at++))
            return SEAM_E_ARGUMENT;
    for (size_t at = low_end; at % 8 != 0; at++)
        if (bit(all.low, at))
            return SEAM_E_ARGUMENT;
    return SEAM_OK;
}

/* ---- Choosing ---- */

/* A set by its least key and how many of those who have just that key, the first ones, are in it.
 */
typedef struct {
    uint32_t least, ties;
} set;

typedef struct {
    const seam_packing *p;
    set largest, others;
    uint32_t drops, drop_key, others_key; /* drops: how many of the largest may still give way */
} chooser;

static int takes(set *s, uint32_t key) {
    if (key != s->least)
        return key > s->least;
    return s->ties > 0 && s->ties-- > 0;
}

static uint32_t size_of(float x) {
    return seam_to_bits(x) & 0x7FFFFFFFu;
}

static uint32_t other_key(const chooser *c, uint32_t i) {
    return seam_mix(c->others_key + i * SEAM_RANDOM_STEP);
}

static int drawn_to_drop(const chooser *c, uint32_t i) {
    return seam_mix(c->drop_key + i * SEAM_RANDOM_STEP) >> 8 < DROP;
}

/* The set of the `rank` largest keys, digit by digit. others: among those that are not among the
 * largest values, by random keys. */
static set choose(const chooser *c, uint32_t rank, int others) {
    uint32_t prefix = 0, mask = 0;
    for (uint32_t shift = 32; shift > 0; shift -= 4) {
        uint32_t counts[16] = {0}, digit = 15;
        set largest = c->largest;
        for (uint32_t i = 0; i < c->p->count; i++) {
            uint32_t key = size_of(c->p->x[i]);
            if (others && takes(&largest, key))
                continue;
            key = others ? other_key(c, i) : key;
            if ((key & mask) == prefix)
                counts[key >> (shift - 4) & 15u]++;
        }
        while (digit > 0 && counts[digit] < rank)
            rank -= counts[digit--];
        prefix |= digit << (shift - 4);
        mask |= 15u << (shift - 4);
    }
    return (set){prefix, rank};
}

static chooser chooser_of(const seam_packing *p) {
    chooser c = {.p = p};
    const uint32_t kept = seam_sparse_kept(p->count), rest = p->count - kept;
    c.largest = choose(&c, kept, 0);
    if (p->codec != SEAM_CODEC_RANDTOP10)
        return c;
    c.drop_key = seam_random_key(p->seed, DROP_STREAM);
    c.others_key = seam_random_key(p->seed, OTHERS_STREAM);
    set largest = c.largest;
    for (uint32_t i = 0; i < p->count && c.drops < rest; i++)
        if (takes(&largest, size_of(p->x[i])) && drawn_to_drop(&c, i))
            c.drops++;
    if (c.drops > 0)
        c.others = choose(&c, c.drops, 1);
    else
        c.others = (set){0xFFFFFFFFu, 0};
    return c;
}

/* Is value i kept? Asked once for each i, ascending. */
static int keeps(chooser *c, uint32_t i) {
    const int large = takes(&c->largest, size_of(c->p->x[i]));
    if (c->p->codec != SEAM_CODEC_RANDTOP10)
        return large;
    if (!large)
        return takes(&c->others, other_key(c, i));
    if (c->drops == 0 || !drawn_to_drop(c, i))
        return 1;
    c->drops--;
    return 0;
}

/* ---- Values ---- */

/* Next kept place from `from` on: by the choice, or of another parcel. */
static uint32_t next_kept(chooser *c, places *at, uint32_t from) {
    if (at->high != NULL)
        return next_place(at);
    while (from < c->p->count && !keeps(c, from))
        from++;
    return from;
}

int seam_sparse_pack(const seam_packing *p, float *scale, int32_t *zero, const seam_parcel *at) {
    const int own = at == NULL;
    const chooser choice = own ? chooser_of(p) : (chooser){.p = p};
    const places none = {0}, theirs = own ? none : places_of(at->payload, at->values);
    float low = 0.0f, high = 0.0f;
    chooser c = choice;
    places t = theirs;
    for (uint32_t i = next_kept(&c, &t, 0); i < p->count; i = next_kept(&c, &t, i + 1)) {
        low = p->x[i] < low ? p->x[i] : low;
        high = p->x[i] > high ? p->x[i] : high;
    }
    const int status = seam_parcel_affine(scale, zero, low, high, 8);
    if (status != SEAM_OK)
        return status;
    const uint32_t kept = seam_sparse_kept(p->count);
    const places to = places_of(p->payload, p->count);
    uint8_t *values = p->payload + seam_sparse_size(p->count, own) - kept;
    uint32_t number = 0;
    c = choice;
    t = theirs;
    for (uint32_t i = next_kept(&c, &t, 0); i < p->count; i = next_kept(&c, &t, i + 1)) {
        const uint32_t r = seam_parcel_random(p, number);
        values[number] = (uint8_t)seam_quantise_one(p->x[i], 1.0f / *scale, *zero, 8, r);
        if (own)
            put_place(p->payload, &to, number, i);
        number++;
    }
    return SEAM_OK;
}

void seam_sparse_unpack(float *x, const seam_parcel *p, const seam_parcel *at) {
    places all = places_of(at->payload, at->values);
    const uint8_t *values = p->payload + p->payload_size - all.kept;
    memset(x, 0, (size_t)p->values * sizeof *x);
    for (uint32_t number = 0; number < all.kept; number++)
        x[next_place(&all)] = (float)((int8_t)values[number] - p->zero) * p->scale;
}
