/* Sorting, selecting and searching in arrays. */
#include "corpus.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static void swap_items(int *a, int *b)
{
    int saved = *a;

    *a = *b;
    *b = saved;
}

static void sift_down(int *items, size_t root, size_t count)
{
    for (;;) {
        size_t child = 2 * root + 1;

        if (child >= count)
            return;
        if (child + 1 < count && items[child + 1] > items[child])
            child++;
        if (items[root] >= items[child])
            return;
        swap_items(&items[root], &items[child]);
        root = child;
    }
}

static size_t partition(int *items, size_t count)
{
    size_t boundary = 0;

    swap_items(&items[count / 2], &items[count - 1]);
    for (size_t i = 0; i + 1 < count; i++) {
        if (items[i] < items[count - 1])
            swap_items(&items[i], &items[boundary++]);
    }
    swap_items(&items[boundary], &items[count - 1]);
    return boundary;
}

/* Order two strings by length, shorter ones first, and alphabetically among equal lengths. */
static int by_length(const void *a, const void *b)
{
    const char *x = *(const char *const *)a;
    const char *y = *(const char *const *)b;
    size_t p = strlen(x);
    size_t q = strlen(y);

    return p != q ? (p > q) - (p < q) : strcmp(x, y);
}

/* Compare two strings letter by letter as if they were in lower case. */
static int without_case(const void *a, const void *b)
{
    const unsigned char *x = *(const unsigned char *const *)a;
    const unsigned char *y = *(const unsigned char *const *)b;

    while (*x != '\0' && tolower(*x) == tolower(*y)) {
        x++;
        y++;
    }
    return tolower(*x) - tolower(*y);
}

/* Compare two strings from their last characters towards the first. */
static int from_the_end(const void *a, const void *b)
{
    const char *x = *(const char *const *)a;
    const char *y = *(const char *const *)b;
    size_t i = strlen(x);
    size_t j = strlen(y);

    while (i > 0 && j > 0) {
        if (x[--i] != y[--j])
            return (unsigned char)x[i] < (unsigned char)y[j] ? -1 : 1;
    }
    return (i > 0) - (j > 0);
}

/* Sort integers by moving each one down into the ordered part before it. */
void sort_insertion(int *items, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        int value = items[i];
        size_t hole = i;

        for (; hole > 0 && items[hole - 1] > value; hole--)
            items[hole] = items[hole - 1];
        items[hole] = value;
    }
}

/* sort_heap: Sort integers in place by building a heap and emptying it from the top. */
void sort_heap(int *items, size_t count)
{
    for (size_t root = count / 2; root-- > 0;)
        sift_down(items, root, count);
    while (count > 1) {
        swap_items(&items[0], &items[--count]);
        sift_down(items, 0, count);
    }
}

/*
 * Sort integers by partitioning around a pivot from the middle. Only the smaller
 * part is sorted by recursion and the loop goes on with the larger one, so the
 * depth stays logarithmic.
 */
void sort_quick(int *items, size_t count)
{
    while (count > 1) {
        size_t pivot = partition(items, count);
        size_t above = count - pivot - 1;

        if (pivot < above) {
            sort_quick(items, pivot);
            items += pivot + 1;
            count = above;
        } else {
            sort_quick(items + pivot + 1, above);
            count = pivot;
        }
    }
}

/* Sort integers bottom up by merging ever longer runs through a scratch array. */
bool sort_merge(int *items, size_t count)
{
    int *scratch = malloc((count > 0 ? count : 1) * sizeof *scratch);

    if (scratch == NULL)
        return false;
    for (size_t run = 1; run < count; run *= 2) {
        for (size_t low = 0; low < count; low += 2 * run) {
            size_t middle = low + run < count ? low + run : count;
            size_t high = low + 2 * run < count ? low + 2 * run : count;
            size_t a = low, b = middle;

            for (size_t out = low; out < high; out++) {
                bool left = a < middle && (b == high || items[a] <= items[b]);

                scratch[out] = left ? items[a++] : items[b++];
            }
        }
        memcpy(items, scratch, count * sizeof *items);
    }
    free(scratch);
    return true;
}

/* Return the first index of an ascending array whose item is not below the key. */
size_t sort_lower_bound(const int *items, size_t count, int key)
{
    size_t low = 0;

    while (count > 0) {
        size_t half = count / 2;

        if (items[low + half] < key) {
            low += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return low;
}

// Find the item of a given rank by partitioning only the part that contains it.
int sort_select(int *items, size_t count, size_t rank)
{
    for (;;) {
        size_t pivot = partition(items, count);

        if (rank == pivot)
            return items[pivot];
        if (rank < pivot) {
            count = pivot;
        } else {
            items += pivot + 1;
            count -= pivot + 1;
            rank -= pivot + 1;
        }
    }
}

/* Sort an array of string pointers with the library function and a chosen comparison. */
void sort_texts(const char **texts, size_t count, enum text_order order)
{
    static int (*const comparisons[])(const void *, const void *) = {by_length, without_case, from_the_end};

    if ((size_t)order >= sizeof comparisons / sizeof comparisons[0])
        return;
    qsort(texts, count, sizeof *texts, comparisons[order]);
}
