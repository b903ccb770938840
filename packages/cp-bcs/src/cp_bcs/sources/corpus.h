#ifndef CORPUS_H
#define CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct list_node {
    int value;
    struct list_node *next;
};

struct list {
    struct list_node *head;
    size_t length;
};

bool list_push_front(struct list *list, int value);
bool list_push_back(struct list *list, int value);
bool list_insert_sorted(struct list *list, int value);
bool list_remove(struct list *list, int value);
void list_reverse(struct list *list);
void list_sort(struct list *list);
bool list_has_cycle(const struct list *list);
const struct list_node *list_from_end(const struct list *list, size_t position);
void list_clear(struct list *list);

struct vector {
    int *items;
    size_t count;
    size_t room;
};

enum vector_test { VECTOR_POWER, VECTOR_MIRRORED, VECTOR_SQUARE };

bool vector_reserve(struct vector *vector, size_t wanted);
bool vector_push(struct vector *vector, int value);
bool vector_insert(struct vector *vector, size_t index, int value);
size_t vector_erase(struct vector *vector, size_t from, size_t to);
void vector_unique(struct vector *vector);
void vector_rotate(struct vector *vector, size_t shift);
bool vector_extremes(const struct vector *vector, int *lowest, int *highest);
size_t vector_drop(struct vector *vector, enum vector_test which);
long vector_best_sum(const struct vector *vector);

struct map_slot {
    char *key;
    int value;
    bool dead;
};

struct map {
    struct map_slot *slots;
    size_t capacity;
    size_t live;
    size_t dead;
};

typedef void (*map_visitor)(const char *key, int value, void *context);

bool map_put(struct map *map, const char *key, int value);
bool map_get(const struct map *map, const char *key, int *value);
bool map_remove(struct map *map, const char *key);
bool map_increment(struct map *map, const char *key, int step);
void map_each(const struct map *map, map_visitor visit, void *context);
size_t map_longest_probe(const struct map *map);
bool map_merge(struct map *into, const struct map *from);
void map_clear(struct map *map);

struct tree {
    int key;
    struct tree *left;
    struct tree *right;
};

bool tree_insert(struct tree **root, int key);
bool tree_contains(const struct tree *root, int key);
bool tree_delete(struct tree **root, int key);
int tree_height(const struct tree *root);
bool tree_is_ordered(const struct tree *root);
const struct tree *tree_kth(const struct tree *root, size_t *rank);
long tree_range_sum(const struct tree *root, int low, int high);
size_t tree_flatten(const struct tree *root, int *out, size_t room);
const struct tree *tree_common_ancestor(const struct tree *root, int a, int b);
struct tree *tree_balanced(const int *keys, size_t count);
void tree_free(struct tree *root);

char *text_trim(char *text);
size_t text_split(char *text, char separator, char **fields, size_t max_fields);
size_t text_count_words(const char *text);
char *text_replace(const char *text, const char *old, const char *fresh);
bool text_is_palindrome(const char *text);
void text_title_case(char *text);
bool text_parse_int(const char *text, int *value);
bool text_glob(const char *pattern, const char *text);
int text_edit_distance(const char *a, const char *b);

size_t utf8_encode(uint32_t code, unsigned char out[4]);
size_t utf8_decode(const unsigned char *bytes, size_t size, uint32_t *code);
bool utf8_validate(const unsigned char *bytes, size_t size);
size_t utf8_length(const char *text);
const char *utf8_previous(const char *start, const char *at);
size_t utf8_from_latin1(const unsigned char *in, size_t size, unsigned char *out);
size_t utf8_to_utf16(const unsigned char *bytes, size_t size, uint16_t *out);
size_t utf8_repair(unsigned char *bytes, size_t size);
void utf8_truncate(char *text, size_t max_bytes);

uint32_t sum_crc32(const uint8_t *data, size_t size);
uint32_t sum_crc16(const uint8_t *data, size_t size);
uint32_t sum_adler32(const uint8_t *data, size_t size);
uint32_t sum_fletcher16(const uint8_t *data, size_t size);
uint64_t sum_fnv1a(const uint8_t *data, size_t size);
uint32_t sum_internet(const uint8_t *data, size_t size);
bool sum_luhn_valid(const char *digits);
int sum_ean13_digit(const char *digits);
bool sum_by_name(const char *name, const uint8_t *data, size_t size, uint32_t *result);

long hex_decode(const char *text, uint8_t *out, size_t room);
size_t base64_encode(const uint8_t *data, size_t size, char *out);
long base64_decode(const char *text, uint8_t *out, size_t room);
size_t rle_encode(const uint8_t *in, size_t size, uint8_t *out, size_t room);
size_t lz_compress(const uint8_t *in, size_t size, uint8_t *out, size_t room);
long lz_expand(const uint8_t *in, size_t size, uint8_t *out, size_t room);

int bits_count(uint64_t word);
uint32_t bits_reverse(uint32_t word);
int bits_highest(uint32_t word);
uint64_t bits_interleave(uint32_t x, uint32_t y);
void bits_to_text(uint32_t word, int width, char *out);
unsigned int_gcd(unsigned a, unsigned b);
uint32_t int_power_mod(uint32_t base, uint32_t exponent, uint32_t modulus);
uint32_t int_sqrt(uint32_t value);
bool int_is_prime(uint32_t value);
size_t int_sieve(uint8_t *composite, size_t limit);
bool int_inverse_mod(int value, int modulus, int *inverse);
bool int_to_roman(int value, char *out, size_t room);

enum text_order { ORDER_LENGTH, ORDER_NO_CASE, ORDER_LAST_CHAR };

void sort_insertion(int *items, size_t count);
void sort_heap(int *items, size_t count);
void sort_quick(int *items, size_t count);
bool sort_merge(int *items, size_t count);
size_t sort_lower_bound(const int *items, size_t count, int key);
int sort_select(int *items, size_t count, size_t rank);
void sort_texts(const char **texts, size_t count, enum text_order order);

struct matrix {
    size_t rows;
    size_t columns;
    double *cells;
};

bool matrix_init(struct matrix *matrix, size_t rows, size_t columns);
void matrix_release(struct matrix *matrix);
bool matrix_multiply(const struct matrix *a, const struct matrix *b, struct matrix *product);
bool matrix_transpose(const struct matrix *matrix, struct matrix *result);
double matrix_trace(const struct matrix *matrix);
bool matrix_determinant(const struct matrix *matrix, double *result);
bool matrix_solve(struct matrix *left, double *right);
double matrix_max_row_sum(const struct matrix *matrix);
void matrix_print(const struct matrix *matrix, FILE *stream);

struct date {
    int year;
    int month;
    int day;
};

bool date_is_leap(int year);
int date_month_length(int year, int month);
bool date_is_valid(const struct date *date);
long date_to_days(const struct date *date);
struct date date_from_days(long days);
const char *date_weekday_name(const struct date *date);
int date_iso_week(const struct date *date);
struct date date_easter(int year);
void date_add_months(struct date *date, int months);
bool date_parse_iso(const char *text, struct date *date);
size_t date_format(const struct date *date, const char *pattern, char *out, size_t room);
int date_age(const struct date *born, const struct date *today);

enum ini_kind { INI_BLANK, INI_COMMENT, INI_SECTION, INI_PAIR, INI_ERROR };

typedef bool (*pair_handler)(const char *key, const char *value, void *context);

int csv_split(char *line, char **fields, int max_fields);
size_t csv_quote(const char *field, char *out, size_t room);
enum ini_kind ini_parse_line(char *line, char **key, char **value);
bool ini_lookup(const char *text, const char *section, const char *key, char *out, size_t room);
long record_parse_duration(const char *text);
int record_each_pair(const char *text, pair_handler handle, void *context);

struct ring {
    uint8_t *bytes;
    size_t capacity;
    size_t start;
    size_t used;
};

struct arena_block {
    struct arena_block *previous;
    size_t size;
    size_t used;
};

struct arena {
    struct arena_block *current;
    size_t block_size;
};

bool ring_init(struct ring *ring, size_t capacity);
size_t ring_write(struct ring *ring, const void *data, size_t size);
size_t ring_read(struct ring *ring, void *data, size_t size);
void ring_force(struct ring *ring, uint8_t byte);
long ring_find(const struct ring *ring, uint8_t byte);
void *arena_alloc(struct arena *arena, size_t size);
char *arena_copy(struct arena *arena, const char *text);
char *arena_join(struct arena *arena, const char *const *parts, size_t count, const char *glue);
size_t arena_total(const struct arena *arena);
void arena_release(struct arena *arena);

enum opcode {
    OP_HALT, OP_PUSH, OP_POP, OP_DUP, OP_SWAP, OP_ADD, OP_SUB, OP_MUL, OP_DIV,
    OP_NEG, OP_LOAD, OP_STORE, OP_JUMP, OP_JZERO, OP_LESS, OP_EQUAL, OP_COUNT
};

enum vm_status { VM_OK, VM_BAD_OPCODE, VM_UNDERFLOW, VM_OVERFLOW, VM_DIVISION, VM_BAD_TARGET, VM_TIMEOUT };

enum { VM_STACK = 32, VM_SLOTS = 8 };

struct vm {
    int32_t stack[VM_STACK];
    int32_t slots[VM_SLOTS];
    size_t depth;
    size_t counter;
};

enum vm_status vm_run(struct vm *vm, const uint8_t *code, size_t size, unsigned budget);
const char *vm_status_text(enum vm_status status);
size_t vm_disassemble(const uint8_t *code, size_t size, size_t at, char *out, size_t room);
long vm_assemble(const char *source, uint8_t *code, size_t room);
bool vm_verify(const uint8_t *code, size_t size, size_t *where);
bool vm_binary(char operation, int32_t a, int32_t b, int32_t *result);
int vm_keypress(struct vm *vm, int key);

struct strbuf {
    char *text;
    size_t length;
    size_t room;
};

bool strbuf_append(struct strbuf *buffer, const char *bytes, size_t size);
bool strbuf_put(struct strbuf *buffer, char c);
bool strbuf_printf(struct strbuf *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool strbuf_format(struct strbuf *buffer, const char *format, ...);
bool strbuf_insert(struct strbuf *buffer, size_t at, const char *text);
bool strbuf_quote(struct strbuf *buffer, const char *text);
bool strbuf_grouped(struct strbuf *buffer, long long number);
bool strbuf_center(struct strbuf *buffer, const char *text, size_t width, char fill);

char *file_load(const char *path, size_t *size);
bool file_store(const char *path, const void *data, size_t size);
long file_size(const char *path);
char *file_read_line(FILE *stream);
long file_count_lines(FILE *stream);
int file_search(FILE *stream, const char *needle, FILE *report);
long file_first_difference(FILE *a, FILE *b);
void file_expand_tabs(FILE *in, FILE *out, int width);
const char *file_guess_type(const void *start, size_t size);

struct heap_item {
    int priority;
    int payload;
};

struct heap {
    struct heap_item *items;
    size_t count;
    size_t room;
};

struct edge {
    int to;
    int weight;
    struct edge *next;
};

struct graph {
    int vertices;
    struct edge **edges;
};

bool heap_push(struct heap *heap, int priority, int payload);
bool heap_pop(struct heap *heap, struct heap_item *item);
int sets_find(int *parents, int member);
bool sets_union(int *parents, int a, int b);
bool graph_init(struct graph *graph, int vertices);
bool graph_connect(struct graph *graph, int from, int to, int weight);
void graph_release(struct graph *graph);
bool graph_breadth_first(const struct graph *graph, int start, int *hops);
bool graph_shortest_paths(const struct graph *graph, int start, int *costs);
int graph_count_components(const struct graph *graph);

#endif
