/* Ring buffer of bytes and arena allocation in blocks. */
#include "corpus.h"

#include <stdlib.h>
#include <string.h>

static size_t lesser(size_t a, size_t b)
{
    return a < b ? a : b;
}

static char *payload(struct arena_block *block)
{
    return (char *)(block + 1);
}

/* Allocate the storage of a ring buffer and make it empty. */
bool ring_init(struct ring *ring, size_t capacity)
{
    memset(ring, 0, sizeof *ring);
    if (capacity == 0)
        return false;
    ring->bytes = malloc(capacity);
    if (ring->bytes == NULL)
        return false;
    ring->capacity = capacity;
    return true;
}

/**
 * Copy bytes into the free part of a ring buffer, in two pieces where it wraps.
 *
 * @param data  bytes to write
 * @param size  their number
 * @return how many of them there was room for
 */
size_t ring_write(struct ring *ring, const void *data, size_t size)
{
    size_t end = (ring->start + ring->used) % ring->capacity;
    size_t first;

    size = lesser(size, ring->capacity - ring->used);
    first = lesser(size, ring->capacity - end);
    memcpy(ring->bytes + end, data, first);
    memcpy(ring->bytes, (const uint8_t *)data + first, size - first);
    ring->used += size;
    return size;
}

/* Take the oldest bytes out of a ring buffer, as many as are wanted and available. */
size_t ring_read(struct ring *ring, void *data, size_t size)
{
    uint8_t *out = data;
    size_t first;

    size = lesser(size, ring->used);
    first = lesser(size, ring->capacity - ring->start);
    memcpy(out, ring->bytes + ring->start, first);
    memcpy(out + first, ring->bytes, size - first);
    ring->start = (ring->start + size) % ring->capacity;
    ring->used -= size;
    return size;
}

/* Append a byte to the ring buffer, dropping the oldest one when it is full. */
void ring_force(struct ring *ring, uint8_t byte)
{
    if (ring->used == ring->capacity) {
        ring->bytes[ring->start] = byte;
        if (++ring->start == ring->capacity)
            ring->start = 0;
    } else {
        ring->bytes[(ring->start + ring->used++) % ring->capacity] = byte;
    }
}

/* Search the ring buffer for a byte and return its distance from the oldest, or -1. */
long ring_find(const struct ring *ring, uint8_t byte)
{
    size_t at = ring->start;

    for (size_t i = 0; i < ring->used; i++) {
        if (ring->bytes[at] == byte)
            return (long)i;
        at = at + 1 < ring->capacity ? at + 1 : 0;
    }
    return -1;
}

/**
 * Hand out memory from the current block of an arena. Sizes are rounded up to
 * a multiple of sixteen bytes. If the block has too little left, a new one is
 * chained in front of it, and the remainder of the old block stays unused.
 */
void *arena_alloc(struct arena *arena, size_t size)
{
    struct arena_block *block = arena->current;
    void *memory;

    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size + 15) & ~(size_t)15;
    if (block == NULL || block->size - block->used < size) {
        size_t wanted = size > arena->block_size ? size : arena->block_size;

        block = malloc(sizeof *block + wanted);
        if (block == NULL)
            return NULL;
        block->previous = arena->current;
        block->size = wanted;
        block->used = 0;
        arena->current = block;
    }
    memory = payload(block) + block->used;
    block->used += size;
    return memory;
}

/* Duplicate a string in memory that belongs to an arena. */
char *arena_copy(struct arena *arena, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = arena_alloc(arena, size);

    if (copy == NULL)
        return NULL;
    return memcpy(copy, text, size);
}

/* Concatenate several strings in an arena with a separating string between them. */
char *arena_join(struct arena *arena, const char *const *parts, size_t count, const char *glue)
{
    size_t glue_size = strlen(glue);
    size_t total = 1;
    char *joined, *out;

    for (size_t i = 0; i < count; i++)
        total += strlen(parts[i]) + (i > 0 ? glue_size : 0);
    joined = out = arena_alloc(arena, total);
    if (joined == NULL)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(parts[i]);

        if (i > 0) {
            memcpy(out, glue, glue_size);
            out += glue_size;
        }
        memcpy(out, parts[i], size);
        out += size;
    }
    *out = '\0';
    return joined;
}

// Sum the bytes that are in use over all blocks of an arena.
size_t arena_total(const struct arena *arena)
{
    size_t total = 0;

    for (const struct arena_block *block = arena->current; block != NULL; block = block->previous)
        total += block->used;
    return total;
}

/* Free all blocks of an arena and with them everything allocated from it. */
void arena_release(struct arena *arena)
{
    struct arena_block *block = arena->current;

    arena->current = NULL;
    while (block != NULL) {
        struct arena_block *previous = block->previous;

        free(block);
        block = previous;
    }
}
