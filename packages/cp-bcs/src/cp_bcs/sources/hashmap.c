/* Hash table from strings to integers with open addressing. */
#include "corpus.h"

#include <stdlib.h>
#include <string.h>

static size_t hash_key(const char *key)
{
    uint32_t hash = 5381;

    for (; *key != '\0'; key++)
        hash = hash * 33 ^ (unsigned char)*key;
    return hash ^ hash >> 15;
}

static struct map_slot *find_slot(const struct map *map, const char *key)
{
    size_t mask = map->capacity - 1;
    size_t at;

    if (map->capacity == 0)
        return NULL;
    for (at = hash_key(key) & mask; map->slots[at].key != NULL || map->slots[at].dead; at = (at + 1) & mask) {
        if (map->slots[at].key != NULL && strcmp(map->slots[at].key, key) == 0)
            return &map->slots[at];
    }
    return NULL;
}

static struct map_slot *free_slot(struct map_slot *slots, size_t capacity, const char *key)
{
    size_t at = hash_key(key) & (capacity - 1);

    while (slots[at].key != NULL)
        at = (at + 1) & (capacity - 1);
    return &slots[at];
}

static bool rebuild(struct map *map, size_t capacity)
{
    struct map_slot *slots = calloc(capacity, sizeof *slots);

    if (slots == NULL)
        return false;
    for (size_t i = 0; i < map->capacity; i++) {
        if (map->slots[i].key != NULL)
            *free_slot(slots, capacity, map->slots[i].key) = map->slots[i];
    }
    free(map->slots);
    map->slots = slots;
    map->capacity = capacity;
    map->dead = 0;
    return true;
}

/**
 * Store a value under a string key, replacing the value it had before.
 *
 * The key is copied. When live and deleted slots together would fill more than
 * three quarters of the table, it is rebuilt first, which forgets the deleted
 * slots.
 *
 * @param key    zero-terminated key
 * @param value  the number to store
 * @return false if memory ran out
 */
bool map_put(struct map *map, const char *key, int value)
{
    struct map_slot *slot = find_slot(map, key);
    size_t size = strlen(key) + 1;
    char *copy;

    if (slot != NULL) {
        slot->value = value;
        return true;
    }
    if ((map->live + map->dead + 1) * 4 > map->capacity * 3) {
        size_t capacity = 8;

        while (capacity * 3 < (map->live + 1) * 4 * 2)
            capacity *= 2;
        if (!rebuild(map, capacity))
            return false;
    }
    copy = malloc(size);
    if (copy == NULL)
        return false;
    memcpy(copy, key, size);
    slot = free_slot(map->slots, map->capacity, key);
    if (slot->dead)
        map->dead--;
    slot->key = copy;
    slot->value = value;
    slot->dead = false;
    map->live++;
    return true;
}

/* Look up a string key in the hash table and fetch its value. */
bool map_get(const struct map *map, const char *key, int *value)
{
    const struct map_slot *slot = find_slot(map, key);

    if (slot == NULL)
        return false;
    if (value != NULL)
        *value = slot->value;
    return true;
}

/* map_remove: Delete a key from the hash table and mark its slot as dead. */
bool map_remove(struct map *map, const char *key)
{
    struct map_slot *slot = find_slot(map, key);

    if (slot == NULL)
        return false;
    free(slot->key);
    slot->key = NULL;
    slot->dead = true;
    map->live--;
    map->dead++;
    return true;
}

/* Add a step to the number stored under a key, treating a missing key as zero. */
bool map_increment(struct map *map, const char *key, int step)
{
    int value;

    if (!map_get(map, key, &value))
        return map_put(map, key, step);
    return map_put(map, key, value + step);
}

/* Call a visitor function for each key and value in the hash table. */
void map_each(const struct map *map, map_visitor visit, void *context)
{
    const struct map_slot *slot = map->slots;
    const struct map_slot *end = slot + map->capacity;

    for (; slot != end; slot++) {
        if (slot->key != NULL)
            visit(slot->key, slot->value, context);
    }
}

// Measure how far the worst placed key lies from the slot its hash names.
size_t map_longest_probe(const struct map *map)
{
    size_t longest = 0;

    for (size_t i = 0; i < map->capacity; i++) {
        size_t distance;

        if (map->slots[i].key == NULL)
            continue;
        distance = (i - hash_key(map->slots[i].key)) & (map->capacity - 1);
        if (distance > longest)
            longest = distance;
    }
    return longest;
}

/* Copy all entries of one hash table into another, overwriting those with equal keys. */
bool map_merge(struct map *into, const struct map *from)
{
    for (size_t i = 0; i < from->capacity; i++) {
        if (from->slots[i].key != NULL && !map_put(into, from->slots[i].key, from->slots[i].value))
            return false;
    }
    return true;
}

/* Free all keys and slots of the hash table and reset it to empty. */
void map_clear(struct map *map)
{
    for (size_t i = 0; i < map->capacity; i++)
        free(map->slots[i].key);
    free(map->slots);
    map->slots = NULL;
    map->capacity = 0;
    map->live = map->dead = 0;
}
