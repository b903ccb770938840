/* Demonstration that calls functions from all files and prints their results. */
#include "corpus.h"

#include <stdlib.h>
#include <string.h>

static void show_pair(const char *key, int value, void *context)
{
    *(int *)context += value * (int)strlen(key);
}

static bool print_pair(const char *key, const char *value, void *context)
{
    fprintf(context, " [%s:%s]", key, value);
    return true;
}

static void show_containers(void)
{
    static const int sample[] = {5, -3, 16, 16, 8, -20, 9, 7};
    struct list list = {NULL, 0};
    struct vector vector = {NULL, 0, 0};
    struct map map = {NULL, 0, 0, 0}, other = {NULL, 0, 0, 0};
    struct tree *root = NULL, *balanced;
    int keys[8], low = 0, high = 0, value = 0, total = 0;
    size_t rank = 2, count = 0;

    for (size_t i = 0; i < 8; i++) {
        list_push_back(&list, sample[i]);
        vector_push(&vector, sample[i]);
        tree_insert(&root, sample[i]);
    }
    list_push_front(&list, 1);
    list_sort(&list);
    list_insert_sorted(&list, 6);
    list_remove(&list, 16);
    list_reverse(&list);
    printf("list: %zu nodes, first %d, last %d, second to last %d, cycle %d\n", list.length, list.head->value,
           list_from_end(&list, 0)->value, list_from_end(&list, 1)->value, list_has_cycle(&list));
    list_clear(&list);

    vector_unique(&vector);
    vector_insert(&vector, 1, 4);
    vector_rotate(&vector, 3);
    vector_extremes(&vector, &low, &high);
    printf("vector: first %d, range %d..%d, ", vector.items[0], low, high);
    printf("best sum %ld, ", vector_best_sum(&vector));
    count = vector_drop(&vector, VECTOR_SQUARE);
    printf("dropped %zu and %zu, ", count, vector_drop(&vector, VECTOR_POWER));
    count = vector_erase(&vector, 1, 9);
    printf("erased %zu, left %zu\n", count, vector.count);
    free(vector.items);

    for (int i = 0; i < 40; i++) {
        char key[16];

        snprintf(key, sizeof key, "k%d", i);
        map_put(&map, key, i);
    }
    for (int i = 0; i < 30; i++) {
        char key[16];

        snprintf(key, sizeof key, "k%d", i);
        map_remove(&map, key);
    }
    map_increment(&map, "k35", 100);
    map_increment(&map, "new", 7);
    map_merge(&other, &map);
    map_each(&other, show_pair, &total);
    map_get(&other, "k35", &value);
    printf("map: %zu live, k35 is %d, k3 %d, total %d, probe ok %d\n", other.live, value,
           map_get(&other, "k3", NULL), total, map_longest_probe(&map) < map.capacity);
    map_clear(&map);
    map_clear(&other);

    tree_delete(&root, 5);
    count = tree_flatten(root, keys, 8);
    balanced = tree_balanced(keys, count);
    printf("tree: %zu keys, third %d, height %d and %d, ordered %d, sum %ld, ancestor %d, has 5: %d\n", count,
           tree_kth(root, &rank)->key, tree_height(root), tree_height(balanced), tree_is_ordered(root),
           tree_range_sum(root, -5, 10), tree_common_ancestor(root, 7, 9)->key, tree_contains(root, 5));
    tree_free(root);
    tree_free(balanced);
}

static void show_texts(void)
{
    char padded[] = "  the quick  brown fox\n", row[] = "a,\"b \"\"c\"\"\",,d", *fields[6], out[64], text[16];
    char ini[] = "[net]\nhost = example.org\n; note\n[disk]\nhost=local\n";
    unsigned char utf8[8] = "a\xC3\xA9\xF0\x9F\x98\x80";
    uint16_t units[8];
    uint32_t code = 0;
    char *trimmed = text_trim(padded), *replaced = text_replace("banana", "an", "<x>");
    struct strbuf buffer = {NULL, 0, 0};
    int number = 0;

    text_title_case(trimmed);
    printf("text: '%s' has %zu words; %s; %d %d %d %d\n", trimmed, text_count_words(trimmed), replaced,
           text_is_palindrome("Never odd or even"), text_glob("*.tar.?z", "a.b.tar.gz"),
           text_edit_distance("kitten", "sitting"), text_parse_int("-2147483648", &number) && number < 0);
    printf("split: %zu fields\n", text_split(trimmed, ' ', fields, 6));
    free(replaced);
    printf("utf8: valid %d, %zu code points, %zu units, previous at %d, ", utf8_validate(utf8, 7),
           utf8_length((char *)utf8), utf8_to_utf16(utf8, 7, units),
           (int)(utf8_previous((char *)utf8, (char *)utf8 + 7) - (char *)utf8));
    number = (int)utf8_decode(utf8 + 3, 4, &code);
    printf("decoded %d bytes to %lx, ", number, (unsigned long)code);
    printf("encoded %zu, ", utf8_encode(0x20AC, utf8 + 3));
    printf("repaired %zu, ", utf8_repair(utf8, 7));
    utf8_truncate((char *)utf8, 5);
    number = (int)strlen((char *)utf8);
    printf("truncated to %d, latin %zu\n", number, utf8_from_latin1((const unsigned char *)"\xE9!", 2, utf8));
    printf("csv: %d fields, ", csv_split(row, fields, 6));
    printf("second %s, ", fields[1]);
    printf("quoted %zu, ", csv_quote("a \"b\"", out, sizeof out));
    printf("%s; ini: %d ", out, ini_lookup(ini, "disk", "host", text, sizeof text));
    printf("%s; %ld s;", text, record_parse_duration("1d2h30m"));
    printf(" %d pairs\n", record_each_pair("x=1;y=;z=3", print_pair, stdout));
    strbuf_format(&buffer, "%s %d %x %b|", "mini", -42, 255u, 5u);
    strbuf_printf(&buffer, "%05.1f|", 2.25);
    strbuf_grouped(&buffer, -1234567);
    strbuf_center(&buffer, "mid", 8, '.');
    strbuf_quote(&buffer, "tab\t\"\1");
    strbuf_insert(&buffer, 0, "> ");
    printf("strbuf: %s\n", buffer.text);
    free(buffer.text);
}

static void show_numbers(void)
{
    int items[] = {9, 4, 7, 1, 8, 2}, inverse = 0;
    const char *words[] = {"pear", "Fig", "apple", "kiwi"};
    struct matrix a, b, c;
    double right[] = {3, 5}, determinant = 0;
    struct date date = {2024, 2, 29}, easter = date_easter(2025), parsed = {0, 0, 0};
    uint8_t composite[100];
    char text[48];

    sort_insertion(items, 3);
    sort_quick(items, 6);
    printf("sort: %d..%d, bound %zu, ", items[0], items[5], sort_lower_bound(items, 6, 5));
    printf("rank 3 is %d, ", sort_select(items, 6, 3));
    sort_heap(items, 6);
    printf("largest %d, merged %d", items[5], sort_merge(items, 6));
    for (int order = ORDER_LENGTH; order <= ORDER_LAST_CHAR; order++) {
        sort_texts(words, 4, (enum text_order)order);
        printf(", %s %s", words[0], words[3]);
    }
    putchar('\n');
    bits_to_text(bits_reverse(0xA5000000u), 8, text);
    printf("bits: %d %d %s %llu\n", bits_count(0xFF00FF), bits_highest(1000), text,
           (unsigned long long)bits_interleave(3, 1));
    printf("integers: %u %u %u %d %zu ", int_gcd(84, 36), (unsigned)int_power_mod(3, 200, 1000007),
           (unsigned)int_sqrt(1000000), int_is_prime(65537), int_sieve(composite, 100));
    printf("%d ", int_inverse_mod(3, 11, &inverse));
    printf("%d %d %s\n", inverse, int_to_roman(1994, text, sizeof text), text);
    if (matrix_init(&a, 2, 2)) {
        memcpy(a.cells, (double[]){2, 1, 1, 3}, 4 * sizeof(double));
        if (matrix_multiply(&a, &a, &b) && matrix_transpose(&b, &c)) {
            matrix_determinant(&a, &determinant);
            printf("matrix: det %.2f trace %.2f ", determinant, matrix_trace(&b));
            printf("norm %.2f\n", matrix_max_row_sum(&c));
            matrix_print(&c, stdout);
            matrix_solve(&a, right);
            printf("solution %.3f %.3f\n", right[0], right[1]);
            matrix_release(&c);
        }
        matrix_release(&b);
        matrix_release(&a);
    }
    date_format(&date, "%A %e.%m.%Y", text, sizeof text);
    printf("date: %s, week %d, easter %d/%d, ", text, date_iso_week(&date), easter.day, easter.month);
    date_add_months(&date, 12);
    printf("a year later on the %d, parsed %d, ", date_from_days(date_to_days(&date)).day,
           date_parse_iso("1999-12-31", &parsed));
    printf("age %d\n", date_age(&parsed, &date));
}

static void show_bytes(void)
{
    static const char phrase[] = "round and round and round the ragged rock";
    const uint8_t *data = (const uint8_t *)phrase;
    const size_t size = sizeof phrase - 1;
    uint8_t packed[64], unpacked[64] = {0};
    char coded[80];
    uint32_t crc16 = 0;
    size_t packed_size = lz_compress(data, size, packed, sizeof packed);
    struct ring ring;
    struct arena arena = {NULL, 64};

    sum_by_name("crc16", (const uint8_t *)"123456789", 9, &crc16);
    printf("sums: %08lx %04lx %08lx %04lx %04lx %016llx luhn %d ean %d\n",
           (unsigned long)sum_crc32((const uint8_t *)"123456789", 9), (unsigned long)crc16,
           (unsigned long)sum_adler32(data, size), (unsigned long)sum_fletcher16(data, size),
           (unsigned long)sum_internet(data, size), (unsigned long long)sum_fnv1a(data, size),
           sum_luhn_valid("4539 1488 0343 6467"), sum_ean13_digit("400638133393"));
    printf("lz: %zu to %zu to %ld bytes, ", size, packed_size, lz_expand(packed, packed_size, unpacked, 64));
    printf("same %d, rle %zu, ", memcmp(data, unpacked, size) == 0, rle_encode(data, 1, packed, 64));
    printf("base64 %zu ", base64_encode(data, 11, coded));
    printf("%s %ld, hex %ld\n", coded, base64_decode(coded, unpacked, 64), hex_decode("00fFa5", packed, 64));
    if (ring_init(&ring, 8)) {
        ring_write(&ring, "abcdef", 6);
        ring_read(&ring, unpacked, 4);
        ring_write(&ring, "ghijklmn", 8);
        ring_force(&ring, 'z');
        printf("ring: z at %ld, ", ring_find(&ring, 'z'));
        printf("read %zu: %.8s\n", ring_read(&ring, unpacked, 9), (const char *)unpacked);
        free(ring.bytes);
    }
    printf("arena: %s, ", arena_copy(&arena, "copied text"));
    printf("%s, ", arena_join(&arena, (const char *const[]){"one", "two", "three"}, 3, " + "));
    printf("%zu bytes\n", arena_total(&arena));
    arena_release(&arena);
}

static void show_machines(void)
{
    static const int arcs[][3] = {{0, 1, 4}, {0, 2, 1}, {2, 1, 2}, {1, 3, 5}, {4, 5, 1}};
    struct graph graph;
    int hops[6], costs[6];
    uint8_t code[64];
    struct vm vm = {.depth = 0};
    long size = vm_assemble("push 10 store 0\nload 1 load 0 add store 1 load 0 push 1 sub dup store 0\n"
                            "jzero 23 jump 4 load 1 halt", code, sizeof code);
    enum vm_status status;
    size_t where = 0;
    char text[40];

    printf("vm: %ld bytes, verified %d, ", size, vm_verify(code, (size_t)size, &where));
    status = vm_run(&vm, code, (size_t)size, 1000);
    vm_disassemble(code, (size_t)size, 0, text, sizeof text);
    printf("%s, result %d, '%s'\n", vm_status_text(status), vm_keypress(&vm, 't'), text);
    if (!graph_init(&graph, 6))
        return;
    for (size_t i = 0; i < 5; i++)
        graph_connect(&graph, arcs[i][0], arcs[i][1], arcs[i][2]);
    if (graph_breadth_first(&graph, 0, hops) && graph_shortest_paths(&graph, 0, costs))
        printf("graph: %d hops, cost %d, unreachable %d, components %d\n", hops[3], costs[3], hops[5],
               graph_count_components(&graph));
    graph_release(&graph);
}

static void show_files(const char *path)
{
    FILE *a = tmpfile(), *b = tmpfile();
    char *line, *data;
    size_t size = 0;

    if (a == NULL || b == NULL)
        return;
    fputs("first\tline\nsecond line\nno newline", a);
    rewind(a);
    file_expand_tabs(a, b, 8);
    rewind(a);
    rewind(b);
    printf("files: differ at %ld, ", file_first_difference(a, b));
    rewind(a);
    line = file_read_line(a);
    printf("read %zu, then %ld lines, ", line != NULL ? strlen(line) : 0, file_count_lines(a));
    free(line);
    rewind(b);
    printf("found %d\n", file_search(b, "line", stdout));
    fclose(a);
    fclose(b);
    if (path == NULL || !file_store(path, "#!/bin/sh\n", 10))
        return;
    data = file_load(path, &size);
    printf("stored %ld, loaded %zu as %s\n", file_size(path), size, file_guess_type(data, size));
    free(data);
    remove(path);
}

int main(int argc, char **argv)
{
    show_containers();
    show_texts();
    show_numbers();
    show_bytes();
    show_machines();
    show_files(argc > 1 ? argv[1] : NULL);
    return 0;
}
