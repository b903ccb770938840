/* Growable array of integers. */
#include "corpus.h"

#include <stdlib.h>
#include <string.h>

typedef bool (*value_test)(int value);

/* Report whether a number is a power of two by halving it. */
static bool is_power(int value)
{
    if (value < 1)
        return false;
    while (value % 2 == 0)
        value /= 2;
    return value == 1;
}

/* Test whether the decimal digits of a number read the same backwards. */
static bool is_mirrored(int value)
{
    unsigned reversed = 0;

    if (value < 0)
        return false;
    for (int rest = value; rest > 0; rest /= 10)
        reversed = reversed * 10 + (unsigned)rest % 10;
    return reversed == (unsigned)value;
}

// Decide by subtracting odd numbers whether a value is a perfect square.
static bool is_square(int value)
{
    int odd = 1;

    if (value < 0)
        return false;
    while (value > 0) {
        value -= odd;
        odd += 2;
    }
    return value == 0;
}

static const value_test tests[] = {is_power, is_mirrored, is_square};

static void reverse_span(int *from, int *to)
{
    while (from < to) {
        int saved = *from;

        *from++ = *--to;
        *to = saved;
    }
}

/**
 * vector_reserve: Make sure the array has room for a wanted number of items.
 * The room starts at eight items and is doubled until it suffices. Nothing
 * changes when the memory cannot be had.
 */
bool vector_reserve(struct vector *vector, size_t wanted)
{
    size_t room = vector->room > 0 ? vector->room : 8;
    int *items;

    if (wanted <= vector->room)
        return true;
    while (room < wanted) {
        if (room > SIZE_MAX / 2 / sizeof *items)
            return false;
        room *= 2;
    }
    items = realloc(vector->items, room * sizeof *items);
    if (items == NULL)
        return false;
    vector->items = items;
    vector->room = room;
    return true;
}

/* Append one integer at the end of the array, growing it if it is full. */
bool vector_push(struct vector *vector, int value)
{
    if (vector->count == vector->room) {
        if (!vector_reserve(vector, vector->count + 1))
            return false;
    }
    vector->items[vector->count++] = value;
    return true;
}

/**
 * Open a gap in the array at an index and put a value there.
 *
 * @param index  position of the new item, at most the number of items
 * @return false if the index is too large or memory ran out
 */
bool vector_insert(struct vector *vector, size_t index, int value)
{
    int *gap;

    if (index > vector->count || !vector_reserve(vector, vector->count + 1))
        return false;
    gap = vector->items + index;
    memmove(gap + 1, gap, (vector->count - index) * sizeof *gap);
    *gap = value;
    vector->count++;
    return true;
}

/* Delete the items of a half-open index range and return how many were deleted. */
size_t vector_erase(struct vector *vector, size_t from, size_t to)
{
    if (to > vector->count)
        to = vector->count;
    if (from >= to)
        return 0;
    memmove(vector->items + from, vector->items + to, (vector->count - to) * sizeof *vector->items);
    vector->count -= to - from;
    return to - from;
}

/* Collapse each stretch of equal neighbouring items of the array into one item. */
void vector_unique(struct vector *vector)
{
    size_t kept = 0;

    for (size_t i = 0; i < vector->count; i++) {
        if (kept == 0 || vector->items[kept - 1] != vector->items[i])
            vector->items[kept++] = vector->items[i];
    }
    vector->count = kept;
}

/* vector_rotate - Shift all items cyclically to the left by means of three reversals. */
void vector_rotate(struct vector *vector, size_t shift)
{
    int *first = vector->items;
    int *last = first + vector->count;

    if (vector->count < 2)
        return;
    shift %= vector->count;
    if (shift == 0)
        return;
    reverse_span(first, first + shift);
    reverse_span(first + shift, last);
    reverse_span(first, last);
}

/* Find the smallest and the largest item in a single pass over the array. */
bool vector_extremes(const struct vector *vector, int *lowest, int *highest)
{
    if (vector->count == 0)
        return false;
    *lowest = *highest = vector->items[0];
    for (size_t i = 1; i < vector->count; i++) {
        int value = vector->items[i];

        if (value < *lowest)
            *lowest = value;
        else if (value > *highest)
            *highest = value;
    }
    return true;
}

/* Remove all items that pass the chosen test, keeping the order of the others. */
size_t vector_drop(struct vector *vector, enum vector_test which)
{
    size_t kept = 0;
    size_t dropped;

    for (size_t i = 0; i < vector->count; i++) {
        if (!tests[which](vector->items[i]))
            vector->items[kept++] = vector->items[i];
    }
    dropped = vector->count - kept;
    vector->count = kept;
    return dropped;
}

/* Compute the largest sum of any contiguous stretch of items, zero for an empty stretch. */
long vector_best_sum(const struct vector *vector)
{
    long best = 0;
    long running = 0;

    for (size_t i = 0; i < vector->count; i++) {
        running += vector->items[i];
        if (running < 0)
            running = 0;
        if (running > best)
            best = running;
    }
    return best;
}
