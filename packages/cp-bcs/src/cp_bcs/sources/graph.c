/* Directed graphs with weighted edges, a priority queue and disjoint sets. */
#include "corpus.h"

#include <limits.h>
#include <stdlib.h>

/* heap_push - Add an item to the priority queue and let it rise to its place. */
bool heap_push(struct heap *heap, int priority, int payload)
{
    size_t at = heap->count;

    if (at == heap->room) {
        size_t room = heap->room > 0 ? heap->room * 2 : 16;
        struct heap_item *items = realloc(heap->items, room * sizeof *items);

        if (items == NULL)
            return false;
        heap->items = items;
        heap->room = room;
    }
    for (; at > 0 && heap->items[(at - 1) / 2].priority > priority; at = (at - 1) / 2)
        heap->items[at] = heap->items[(at - 1) / 2];
    heap->items[at].priority = priority;
    heap->items[at].payload = payload;
    heap->count++;
    return true;
}

/* Take the item with the lowest priority number from the queue. */
bool heap_pop(struct heap *heap, struct heap_item *item)
{
    struct heap_item last;
    size_t at = 0;

    if (heap->count == 0)
        return false;
    *item = heap->items[0];
    last = heap->items[--heap->count];
    for (;;) {
        size_t child = 2 * at + 1;

        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && heap->items[child + 1].priority < heap->items[child].priority)
            child++;
        if (last.priority <= heap->items[child].priority)
            break;
        heap->items[at] = heap->items[child];
        at = child;
    }
    heap->items[at] = last;
    return true;
}

/* Find the representative of a set and shorten the path to it on the way. */
int sets_find(int *parents, int member)
{
    while (parents[member] >= 0 && parents[parents[member]] >= 0) {
        parents[member] = parents[parents[member]];
        member = parents[member];
    }
    return parents[member] >= 0 ? parents[member] : member;
}

/**
 * Join the sets of two members, hanging the smaller set below the larger.
 *
 * @param parents  parent of each member, or minus the set size for a root
 * @return false if both were in the same set already
 */
bool sets_union(int *parents, int a, int b)
{
    a = sets_find(parents, a);
    b = sets_find(parents, b);
    if (a == b)
        return false;
    if (parents[a] > parents[b]) {
        int saved = a;

        a = b;
        b = saved;
    }
    parents[a] += parents[b];
    parents[b] = a;
    return true;
}

/* Prepare a graph with a number of vertices and no edges. */
bool graph_init(struct graph *graph, int vertices)
{
    graph->vertices = 0;
    graph->edges = calloc((size_t)vertices + 1, sizeof *graph->edges);
    if (graph->edges == NULL)
        return false;
    graph->vertices = vertices;
    return true;
}

/* Add a weighted edge between two existing vertices to the graph. */
bool graph_connect(struct graph *graph, int from, int to, int weight)
{
    struct edge *edge;

    if (from < 0 || to < 0 || from >= graph->vertices || to >= graph->vertices)
        return false;
    edge = malloc(sizeof *edge);
    if (edge == NULL)
        return false;
    *edge = (struct edge){.to = to, .weight = weight, .next = graph->edges[from]};
    graph->edges[from] = edge;
    return true;
}

/* Delete all edges of the graph and the table that holds them. */
void graph_release(struct graph *graph)
{
    for (int vertex = 0; vertex < graph->vertices; vertex++) {
        struct edge *next;

        for (struct edge *edge = graph->edges[vertex]; edge != NULL; edge = next) {
            next = edge->next;
            free(edge);
        }
    }
    free(graph->edges);
    graph->edges = NULL;
    graph->vertices = 0;
}

/* Count by breadth-first search the steps from a start to every vertex, -1 if unreachable. */
bool graph_breadth_first(const struct graph *graph, int start, int *hops)
{
    int *queue = malloc((size_t)graph->vertices * sizeof *queue);
    int head = 0;
    int tail = 0;

    if (queue == NULL)
        return false;
    for (int i = 0; i < graph->vertices; i++)
        hops[i] = -1;
    hops[start] = 0;
    queue[tail++] = start;
    while (head < tail) {
        int vertex = queue[head++];

        for (const struct edge *edge = graph->edges[vertex]; edge != NULL; edge = edge->next) {
            if (hops[edge->to] < 0) {
                hops[edge->to] = hops[vertex] + 1;
                queue[tail++] = edge->to;
            }
        }
    }
    free(queue);
    return true;
}

// Compute the least total weight of a path from a start to each vertex.
bool graph_shortest_paths(const struct graph *graph, int start, int *costs)
{
    struct heap heap = {NULL, 0, 0};
    struct heap_item item;
    bool good;

    for (int i = 0; i < graph->vertices; i++)
        costs[i] = INT_MAX;
    costs[start] = 0;
    good = heap_push(&heap, 0, start);
    while (good && heap_pop(&heap, &item)) {
        if (item.priority > costs[item.payload])
            continue;
        for (const struct edge *edge = graph->edges[item.payload]; edge != NULL && good; edge = edge->next) {
            int cost = item.priority + edge->weight;

            if (cost < costs[edge->to]) {
                costs[edge->to] = cost;
                good = heap_push(&heap, cost, edge->to);
            }
        }
    }
    free(heap.items);
    return good;
}

/* Count the groups of vertices that are connected when edge directions are ignored. */
int graph_count_components(const struct graph *graph)
{
    int count = graph->vertices;
    int *parents = malloc(((size_t)count + 1) * sizeof *parents);

    if (parents == NULL)
        return -1;
    for (int i = 0; i < graph->vertices; i++)
        parents[i] = -1;
    for (int i = 0; i < graph->vertices; i++) {
        for (const struct edge *edge = graph->edges[i]; edge != NULL; edge = edge->next)
            count -= sets_union(parents, i, edge->to);
    }
    free(parents);
    return count;
}
