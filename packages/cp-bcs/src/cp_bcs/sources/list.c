/* Singly linked list of integers. */
#include "corpus.h"

#include <stdlib.h>

static struct list_node *new_node(int value, struct list_node *next)
{
    struct list_node *node = malloc(sizeof *node);

    if (node != NULL) {
        node->value = value;
        node->next = next;
    }
    return node;
}

static struct list_node *merge_runs(struct list_node *a, struct list_node *b)
{
    struct list_node *first = NULL;
    struct list_node **tail = &first;

    while (a != NULL && b != NULL) {
        struct list_node **smaller = b->value < a->value ? &b : &a;

        *tail = *smaller;
        tail = &(*smaller)->next;
        *smaller = (*smaller)->next;
    }
    *tail = a != NULL ? a : b;
    return first;
}

/* list_push_front: Add a value before the first node of the list. */
bool list_push_front(struct list *list, int value)
{
    struct list_node *node = new_node(value, list->head);

    if (node == NULL)
        return false;
    list->head = node;
    list->length++;
    return true;
}

/* Walk to the end of the linked list and hang a new node there. */
bool list_push_back(struct list *list, int value)
{
    struct list_node **link = &list->head;

    while (*link != NULL)
        link = &(*link)->next;
    *link = new_node(value, NULL);
    if (*link == NULL)
        return false;
    list->length++;
    return true;
}

/**
 * Insert a value into an ascending linked list so that it stays ascending.
 *
 * @param list   a list whose values never decrease
 * @param value  the value to insert, placed after any equal ones
 * @return false if there was no memory for the node
 */
bool list_insert_sorted(struct list *list, int value)
{
    struct list_node **link = &list->head;
    struct list_node *node;

    while (*link != NULL && (*link)->value <= value)
        link = &(*link)->next;
    node = new_node(value, *link);
    if (node == NULL)
        return false;
    *link = node;
    list->length++;
    return true;
}

/* Unlink and free the first node that holds the given value. */
bool list_remove(struct list *list, int value)
{
    struct list_node **link;

    for (link = &list->head; *link != NULL; link = &(*link)->next) {
        struct list_node *victim = *link;

        if (victim->value != value)
            continue;
        *link = victim->next;
        free(victim);
        list->length--;
        return true;
    }
    return false;
}

// Turn the links of the list around so that the last node comes first.
void list_reverse(struct list *list)
{
    struct list_node *done = NULL;
    struct list_node *rest = list->head;

    while (rest != NULL) {
        struct list_node *next = rest->next;

        rest->next = done;
        done = rest;
        rest = next;
    }
    list->head = done;
}

/* Sort the nodes of the list into ascending order by merging, without copying any value. */
void list_sort(struct list *list)
{
    struct list left = {list->head, list->length / 2};
    struct list right = {NULL, list->length - left.length};
    struct list_node *last = list->head;

    if (list->length < 2)
        return;
    for (size_t i = 1; i < left.length; i++)
        last = last->next;
    right.head = last->next;
    last->next = NULL;
    list_sort(&left);
    list_sort(&right);
    list->head = merge_runs(left.head, right.head);
}

/**
 * Tell whether following the links of the list would never end.
 *
 * One pointer moves a single node at a time and another moves two. They can
 * only meet again if the links lead back into the list.
 */
bool list_has_cycle(const struct list *list)
{
    const struct list_node *slow = list->head;
    const struct list_node *fast = list->head;

    while (fast != NULL && fast->next != NULL) {
        slow = slow->next;
        fast = fast->next->next;
        if (slow == fast)
            return true;
    }
    return false;
}

/* Find the node at a position counted from the end, where zero is the last node. */
const struct list_node *list_from_end(const struct list *list, size_t position)
{
    const struct list_node *ahead = list->head;
    const struct list_node *behind = list->head;

    while (position-- > 0 && ahead != NULL)
        ahead = ahead->next;
    if (ahead == NULL)
        return NULL;
    while (ahead->next != NULL) {
        ahead = ahead->next;
        behind = behind->next;
    }
    return behind;
}

/* Free every node and leave an empty list behind. */
void list_clear(struct list *list)
{
    while (list->head != NULL) {
        struct list_node *next = list->head->next;

        free(list->head);
        list->head = next;
    }
    list->length = 0;
}
